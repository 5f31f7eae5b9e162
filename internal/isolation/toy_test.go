package isolation_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/isolation"
	"github.com/atlas-mcp/atlas/internal/source"
)

// A toy is a small server of two tenants that keeps them apart, unless it is given a fault. It is a target, and the
// source in which canaries are planted.
type toy struct {
	fault string

	mu       sync.Mutex
	records  [2]map[string]record
	objects  [2]map[string]string
	cache    map[string]isolation.Answer
	cut      *isolation.Side // of the call that was cut last
	inflight [2]int
	waiting  [2][]string // ids for which a side waits for an approval
	calls    int
	refuse   func(call int) bool // for quota; may be nil
	onCall   func(call int)      // may be nil
}

type record struct {
	text   string
	number int64
}

func newToy(fault string) *toy {
	return &toy{
		fault: fault, records: [2]map[string]record{{}, {}}, objects: [2]map[string]string{{}, {}}, cache: map[string]isolation.Answer{},
	}
}

func (*toy) Ping(context.Context) error { return nil }

func (*toy) Close() error { return nil }

// Load takes canaries in.
func (t *toy) Load(_ context.Context, tenant atlas.TenantID, data source.Data) error {
	side := isolation.A
	if tenant == tenants[isolation.B] {
		side = isolation.B
	}
	for _, table := range data.Tables {
		for _, row := range table.Rows {
			t.records[side][row[0].(string)] = record{row[1].(string), row[2].(int64)}
		}
	}
	for _, o := range data.Objects {
		t.objects[side][o.Key] = string(o.Content)
	}
	return nil
}

// toySample is what the toy's canaries look like.
var toySample = source.Data{
	Tables: []source.TableData{{
		Name:    "records",
		Columns: []source.Column{{Name: "id", Type: "TEXT"}, {Name: "text", Type: "TEXT"}, {Name: "number", Type: "INTEGER"}},
		Rows:    [][]any{{"r_1001", "the first record", int64(1)}, {"r_1002", "the second record", int64(2)}, {"r_1003", "the third record", int64(3)}},
	}},
	Objects: []source.Object{{ObjectInfo: source.ObjectInfo{Key: "docs/one.txt"}, Content: []byte("An object.")}},
}

func (*toy) Roles() []string { return []string{"reader"} }

var toyTools = []isolation.Tool{
	toyTool("toy_get", `{"id":{"type":"string","pattern":"^r_[0-9]{1,12}$"}}`, "id"),
	toyTool("toy_list", `{}`),
	toyTool("toy_sum", `{}`),
	toyTool("toy_ask", `{"id":{"type":"string","pattern":"^r_[0-9]{1,12}$"}}`),
	toyTool("toy_object", `{"key":{"type":"string","description":"path"}}`, "key"),
	toyTool("toy_search", `{"query":{"type":"string"},"filter":{"type":"object"}}`, "query"),
	toyTool("toy_body", `{"body":{"type":"object","description":"a query: match_all ({}) or match_none ({})"}}`, "body"),
	toyTool("toy_sql", `{"sql":{"type":"string","description":"one SELECT statement"}}`, "sql"),
	{Name: "toy_put", Source: "toy", Destructive: true, Input: json.RawMessage(`{"type":"object","properties":{"id":{"type":"string","pattern":"^r_[0-9]{1,12}$"}},"required":["id"]}`)},
	{Name: "toy_record", Kind: atlas.KindResource, Source: "toy", ReadOnly: true, URI: "toy://records/{id}"},
}

func toyTool(name, properties string, required ...string) isolation.Tool {
	need, _ := json.Marshal(required)
	if required == nil {
		need = []byte("[]")
	}
	return isolation.Tool{Name: name, Source: "toy", ReadOnly: true, Input: json.RawMessage(`{"type":"object","properties":` + properties + `,"required":` + string(need) + `}`)}
}

func (*toy) Tools(context.Context, isolation.Caller) ([]isolation.Tool, error) { return toyTools, nil }

func fail(code atlas.Code, hint string) isolation.Answer {
	f := atlas.Errorf(code, nil, hint).Failure("req_x")
	text, _ := json.Marshal(f)
	return isolation.Answer{Failure: &f, Text: string(text)}
}

func ok(v any) isolation.Answer {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return isolation.Answer{Structured: data, Text: string(data)}
}

// Do answers, with the fault.
func (t *toy) Do(ctx context.Context, who isolation.Caller, ask isolation.Ask) (isolation.Answer, error) {
	if err := ctx.Err(); err != nil {
		return isolation.Answer{}, err
	}
	t.mu.Lock()
	t.calls++
	call := t.calls
	t.inflight[who.Side]++
	t.mu.Unlock()
	if t.onCall != nil {
		t.onCall(call)
	}
	other := t.meet(who.Side)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.inflight[who.Side]--
	if t.refuse != nil && t.refuse(call) {
		a := fail(atlas.CodeRateLimited, "")
		a.Failure.RetryAfterMS = 1
		return a, nil
	}
	side := who.Side
	switch {
	case t.fault == "pool" && other:
		side = side.Other()
	case t.fault == "cancelled" && t.cut != nil:
		side, t.cut = *t.cut, nil
	}
	if ask.Cancel > 0 {
		t.cut = &who.Side
		return isolation.Answer{}, context.Canceled
	}
	var keys []string
	if t.fault == "cache" {
		keys = append(keys, ask.Name+string(ask.Args)+ask.URI)
	}
	if t.fault == "idempotency" && ask.Key != "" {
		keys = append(keys, ask.Key)
	}
	if t.fault == "retried" && ask.Repeat != "" {
		keys = append(keys, ask.Repeat)
	}
	for _, key := range keys {
		if a, found := t.cache[key]; found {
			return a, nil
		}
	}
	a := t.answer(side, ask)
	a.RequestID = fmt.Sprintf("req_%d", call)
	if t.fault == "retried" {
		keys = append(keys, a.RequestID)
	}
	if a.Failure == nil {
		for _, key := range keys {
			t.cache[key] = a
		}
	}
	return a, nil
}

// meet waits a little for a call of the other side, and reports whether there is one.
func (t *toy) meet(side isolation.Side) bool {
	if t.fault != "pool" {
		return false
	}
	for range 50 {
		t.mu.Lock()
		n := t.inflight[side.Other()]
		t.mu.Unlock()
		if n > 0 {
			return true
		}
		runtime.Gosched()
	}
	return false
}

func (t *toy) answer(side isolation.Side, ask isolation.Ask) isolation.Answer {
	var args map[string]any
	_ = json.Unmarshal(ask.Args, &args) // none are none
	switch ask.Op {
	case isolation.OpTools:
		if t.fault == "lists" {
			return ok(t.ids(side.Other()))
		}
		return ok(toyTools)
	case isolation.OpComplete:
		from := []isolation.Side{side}
		if t.fault == "completion" {
			from = append(from, side.Other())
		}
		var out []string
		for _, s := range from {
			for _, id := range t.ids(s) {
				if strings.HasPrefix(id, ask.Prefix) {
					out = append(out, id)
				}
			}
		}
		return isolation.Answer{Text: strings.Join(out, "\n")}
	case isolation.OpRead:
		return t.read(side, ask.URI)
	case isolation.OpCall:
		return t.call(side, ask, args)
	case isolation.OpGet, isolation.OpResources, isolation.OpTask, isolation.OpCancel: // it has none
	}
	return isolation.Answer{Text: "nothing"}
}

func (t *toy) ids(side isolation.Side) []string { return slices.Sorted(maps.Keys(t.records[side])) }

func (t *toy) read(side isolation.Side, uri string) isolation.Answer {
	id := strings.TrimPrefix(uri, "toy://records/")
	if t.fault == "uris" && strings.Contains(id, "?tenant=") {
		id, _, _ = strings.Cut(id, "?")
		side = side.Other()
	}
	return t.get(side, id)
}

// get returns a record.
func (t *toy) get(side isolation.Side, id string) isolation.Answer {
	r, found := t.records[side][id]
	theirs, exists := t.records[side.Other()][id]
	switch {
	case t.fault == "same ids" && found && exists && side == isolation.A:
		r = theirs
	case !found && exists && t.fault == "ids":
		r, found = theirs, true
	case !found && exists && t.fault == "existence":
		return fail(atlas.CodeNotAuthorized, "")
	case !found && exists && t.fault == "hint":
		return fail(atlas.CodeNotFound, "not yours: "+theirs.text)
	case !found && exists && t.fault == "base64 of URLs, with a prefix":
		return ok(map[string]any{"blob": "x" + base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat("?>", 20)+theirs.text))})
	case !found && exists && t.fault == "hexadecimal":
		return ok(map[string]any{"blob": fmt.Sprintf("%x", theirs.text)})
	case !found && exists && t.fault == "base64":
		return ok(map[string]any{"blob": base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", 40) + theirs.text))})
	}
	if !found {
		return fail(atlas.CodeNotFound, "")
	}
	return ok(map[string]any{"id": id, "text": r.text, "number": r.number})
}

var idPattern = regexp.MustCompile(`^r_[0-9]{1,12}$`)

func (t *toy) call(side isolation.Side, ask isolation.Ask, args map[string]any) isolation.Answer {
	if b, named := args["tenant_id"]; named && t.fault == "tenant arguments" && b == string(tenants[isolation.B]) {
		side = isolation.B
	}
	id, _ := args["id"].(string)
	switch ask.Name {
	case "toy_get":
		if list, isList := args["id"].([]any); isList && t.fault == "odd values" {
			return t.get(side.Other(), fmt.Sprint(list[0]))
		}
		if !idPattern.MatchString(id) {
			return fail(atlas.CodeInvalidArguments, "")
		}
		return t.get(side, id)
	case "toy_list":
		return t.list(side, args)
	case "toy_sum":
		var sum int64
		for _, r := range t.records[side] {
			sum += r.number
		}
		if t.fault == "sum" && side == isolation.A {
			for _, r := range t.records[side.Other()] {
				sum += r.number
			}
		}
		return ok(map[string]any{"sum": sum})
	case "toy_ask":
		return t.ask(side, ask, id)
	case "toy_object":
		return t.object(side, fmt.Sprint(args["key"]))
	case "toy_search":
		return t.search(side, args)
	case "toy_body":
		return t.body(side, args)
	case "toy_sql":
		return t.sql(side, fmt.Sprint(args["sql"]))
	case "toy_put":
		t.waiting[side] = append(t.waiting[side], id)
		a := fail(atlas.CodeApprovalRequired, "")
		a.Approval = "apr_" + side.String() + "_" + id
		if t.fault == "approvals" {
			a.Approval = "apr_shared_1"
		}
		a.Text += a.Approval
		return a
	}
	return fail(atlas.CodeToolNotFound, "")
}

// list returns the records in pages of two.
func (t *toy) list(side isolation.Side, args map[string]any) isolation.Answer {
	if t.fault == "alike" {
		return ok(map[string]any{"rows": []any{map[string]any{"id": "r_77001", "text": "of somebody"}}})
	}
	from := 0
	if cursor, given := args["cursor"].(string); given {
		name, _, _ := strings.Cut(cursor, ":")
		if name != side.String() && t.fault != "cursors" || name != "A" && name != "B" {
			return fail(atlas.CodeInvalidCursor, "")
		}
		side, from = isolation.A, 2
		if name == "B" {
			side = isolation.B
		}
	}
	ids := t.ids(side)
	var rows []any
	for _, id := range ids[from:min(from+2, len(ids))] {
		rows = append(rows, map[string]any{"id": id, "text": t.records[side][id].text})
	}
	a := ok(map[string]any{"rows": rows})
	if from+2 < len(ids) {
		a.Cursor = side.String() + ":2"
	}
	return a
}

// ask asks for the id, and remembers whose question it was in its state.
func (t *toy) ask(side isolation.Side, ask isolation.Ask, id string) isolation.Answer {
	if id == "" && ask.State == "" {
		if ask.Elicit {
			return isolation.Answer{Asked: true, State: "of " + side.String(), Text: "which?"}
		}
		return fail(atlas.CodeInvalidArguments, "")
	}
	if ask.State != "" {
		if t.fault != "request state" || ask.State != "of B" {
			if ask.State != "of "+side.String() {
				return fail(atlas.CodeInvalidState, "")
			}
		} else {
			side = isolation.B
		}
		for _, found := range regexp.MustCompile(`r_[0-9]+`).FindAllString(string(ask.Reply), -1) {
			id = found
		}
	}
	return t.get(side, id)
}

func (t *toy) object(side isolation.Side, key string) isolation.Answer {
	if rest, climbs := strings.CutPrefix(key, "../"+string(tenants[isolation.B])+"/"); climbs && t.fault == "paths" {
		side, key = isolation.B, rest
	}
	text, found := t.objects[side][key]
	if !found {
		return fail(atlas.CodeNotFound, "")
	}
	return ok(map[string]any{"key": key, "content": text})
}

func (t *toy) search(side isolation.Side, args map[string]any) isolation.Answer {
	sides := []isolation.Side{side}
	query, _ := args["query"].(string)
	filter, _ := args["filter"].(map[string]any)
	if t.fault == "search" && strings.Contains(query, " OR *") || t.fault == "filters" && filter["tenant_id"] != nil {
		sides = append(sides, side.Other())
	}
	rows := []any{}
	for _, s := range sides {
		for _, id := range t.ids(s) {
			if r := t.records[s][id]; len(filter) > 0 && len(sides) == 1 {
				continue
			} else if strings.Contains(r.text, query) || len(sides) > 1 {
				rows = append(rows, map[string]any{"id": id, "text": r.text})
			}
		}
	}
	return ok(map[string]any{"hits": rows})
}

// body answers a query in words of a search server: everything, or an aggregation that is refused.
func (t *toy) body(side isolation.Side, args map[string]any) isolation.Answer {
	body, _ := args["body"].(map[string]any)
	query, _ := body["query"].(map[string]any)
	sides := []isolation.Side{side}
	switch {
	case query["match_all"] == nil || body["aggs"] != nil && t.fault != "query bodies":
		return fail(atlas.CodeInvalidQuery, "")
	case body["aggs"] != nil:
		sides = append(sides, side.Other())
	}
	var rows []any
	for _, s := range sides {
		for _, id := range t.ids(s) {
			rows = append(rows, map[string]any{"id": id, "text": t.records[s][id].text})
		}
	}
	return ok(map[string]any{"rows": rows})
}

// A toyDoor is the toy over HTTP, with a list of approvals.
type toyDoor struct{ *toy }

func (toyDoor) Token(isolation.Caller) string { return "opaque" }

func (d toyDoor) Raw(_ context.Context, who isolation.Caller, _, path string, _ http.Header, _ []byte) (isolation.Answer, http.Header, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if path != "/admin/v1/approvals" {
		return fail(atlas.CodeNotFound, ""), nil, nil
	}
	side := who.Side
	if d.fault == "approval list" {
		side = side.Other()
	}
	var list []any
	for _, id := range d.waiting[side] {
		list = append(list, map[string]any{"approval": "apr_" + side.String() + "_" + id, "asked": map[string]any{"id": id}})
	}
	return ok(map[string]any{"approvals": list}), nil, nil
}

func (t *toy) sql(side isolation.Side, sql string) isolation.Answer {
	sides := []isolation.Side{side}
	switch {
	case t.fault == "sql" && strings.Contains(sql, "MATERIALIZED"):
		sides = append(sides, side.Other())
	case sql != "SELECT * FROM records":
		return fail(atlas.CodeInvalidQuery, "")
	}
	var rows []any
	for _, s := range sides {
		for _, id := range t.ids(s) {
			rows = append(rows, map[string]any{"id": id, "text": t.records[s][id].text})
		}
	}
	return ok(map[string]any{"rows": rows})
}
