package tool_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/tool"
)

// The stores below hold rows, documents and objects by tenant, in memory. They answer only what the
// tests ask, and record how they were asked: what a tool makes of its arguments is what is tested.

type base struct{}

func (base) Ping(context.Context) error { return nil }
func (base) Close() error               { return nil }

type sqlStore struct {
	base
	mu      sync.Mutex
	queries []source.Query
	tenants []atlas.TenantID
	answer  func(tenant atlas.TenantID, q source.Query) (source.Rows, error)
}

func (s *sqlStore) Query(ctx context.Context, tenant atlas.TenantID, q source.Query) (source.Rows, error) {
	if err := ctx.Err(); err != nil {
		return source.Rows{}, err
	}
	s.mu.Lock()
	s.queries, s.tenants = append(s.queries, q), append(s.tenants, tenant)
	s.mu.Unlock()
	return s.answer(tenant, q)
}

func (s *sqlStore) Inspect(_ context.Context, _ atlas.TenantID, q source.Query) (atlas.Facts, error) {
	return atlas.Facts{SQL: q.SQL, Tables: []string{"orders"}}, nil
}

func (s *sqlStore) Schema(context.Context, atlas.TenantID) ([]source.Table, error) {
	return []source.Table{{Name: "orders", Columns: []source.Column{{Name: "id", Type: "TEXT"}}}, {Name: "empty"}}, nil
}

func (s *sqlStore) last(t *testing.T) source.Query {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queries) == 0 {
		t.Fatal("nothing was queried")
	}
	return s.queries[len(s.queries)-1]
}

type searchStore struct {
	base
	mu     sync.Mutex
	asked  []source.Search
	answer func(tenant atlas.TenantID, s source.Search) (source.Hits, error)
}

func (s *searchStore) Search(_ context.Context, tenant atlas.TenantID, q source.Search) (source.Hits, error) {
	s.mu.Lock()
	s.asked = append(s.asked, q)
	s.mu.Unlock()
	return s.answer(tenant, q)
}

type vectorStore struct {
	base
	mu     sync.Mutex
	asked  []source.Nearest
	answer func(ctx context.Context, tenant atlas.TenantID, n source.Nearest) (source.Hits, error)
}

func (s *vectorStore) Nearest(ctx context.Context, tenant atlas.TenantID, n source.Nearest) (source.Hits, error) {
	s.mu.Lock()
	s.asked = append(s.asked, n)
	s.mu.Unlock()
	return s.answer(ctx, tenant, n)
}

type objectStore struct {
	base
	objects map[string]source.Object // by tenant + "/" + key
	puts    int
}

func (s *objectStore) Get(_ context.Context, tenant atlas.TenantID, key string, limit int64) (source.Object, error) {
	o, ok := s.objects[string(tenant)+"/"+key]
	if !ok {
		return o, &atlas.Error{Code: atlas.CodeNotFound}
	}
	o.Key, o.Size = key, int64(len(o.Content))
	if o.Size > limit {
		o.Content, o.Truncated = o.Content[:limit], true
	}
	return o, nil
}

func (s *objectStore) List(_ context.Context, tenant atlas.TenantID, prefix string, limit int) ([]source.ObjectInfo, error) {
	var out []source.ObjectInfo
	for full, o := range s.objects {
		if key, ok := strings.CutPrefix(full, string(tenant)+"/"); ok && strings.HasPrefix(key, prefix) && len(out) < limit {
			out = append(out, source.ObjectInfo{Key: key, Size: int64(len(o.Content))})
		}
	}
	return out, nil
}

func (s *objectStore) Put(_ context.Context, tenant atlas.TenantID, key string, o source.Object) error {
	s.puts++
	s.objects[string(tenant)+"/"+key] = o
	return nil
}

type webStore struct {
	base
	asked  []source.Request
	answer source.Response
}

func (s *webStore) Fetch(_ context.Context, _ atlas.TenantID, r source.Request) (source.Response, error) {
	s.asked = append(s.asked, r)
	return s.answer, nil
}

// A house is a set of stores, the tools made of them, and a pipeline of one stage: it checks and
// decodes arguments and answers as the real one does.
type house struct {
	t       testing.TB
	crm     *sqlStore
	tickets *searchStore
	docs    *searchStore
	kb      *vectorStore
	files   *objectStore
	http    *webStore
	sources map[string]tool.Source

	tools map[string]*atlas.Tool
	mu    sync.Mutex
	calls []atlas.Call
	fail  map[string]error // by tool
	hook  func(ctx context.Context, call atlas.Call) error
	ids   int
}

func newHouse(t testing.TB) *house {
	h := &house{t: t, fail: map[string]error{}}
	h.crm = &sqlStore{answer: func(atlas.TenantID, source.Query) (source.Rows, error) { return source.Rows{}, nil }}
	none := func(atlas.TenantID, source.Search) (source.Hits, error) { return source.Hits{}, nil }
	h.tickets, h.docs = &searchStore{answer: none}, &searchStore{answer: none}
	h.kb = &vectorStore{answer: func(context.Context, atlas.TenantID, source.Nearest) (source.Hits, error) { return source.Hits{}, nil }}
	h.files = &objectStore{objects: map[string]source.Object{}}
	h.http = &webStore{}
	h.sources = map[string]tool.Source{
		"crm":     {Kind: "sqlite", Source: h.crm},
		"tickets": {Kind: "fts", Source: h.tickets},
		"docs":    {Kind: "fts", Source: h.docs, Tools: tool.Verbs{Reads: atlas.ReadsPrivate}},
		"kb":      {Kind: "vec", Source: h.kb},
		"files":   {Kind: "folder", Source: h.files},
		"http":    {Kind: "http", Source: h.http},
	}
	return h
}

func (h *house) deps() tool.Deps {
	return tool.Deps{
		Call: h.call,
		NewID: func() string {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.ids++
			return "child-" + strconv.Itoa(h.ids)
		},
		CheckSchema: func(s json.RawMessage) error { _, err := compile(s); return err },
	}
}

// build makes the tools of the house's sources and the files given.
func (h *house) build(files ...tool.File) *house {
	h.t.Helper()
	tools, err := tool.Build(h.sources, files, h.deps())
	if err != nil {
		h.t.Fatal(err)
	}
	h.tools = map[string]*atlas.Tool{}
	for _, t := range tools {
		h.tools[t.Name] = t
	}
	return h
}

// call is the pipeline.
func (h *house) call(ctx context.Context, call atlas.Call) (atlas.Result, error) {
	h.mu.Lock()
	h.calls = append(h.calls, call)
	err := h.fail[call.Name]
	hook := h.hook
	h.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, call); err != nil {
			return atlas.Result{}, err
		}
	}
	if err != nil {
		return atlas.Result{}, err
	}
	t, ok := h.tools[call.Name]
	if !ok || t.Kind != call.Kind {
		return atlas.Result{}, &atlas.Error{Code: atlas.CodeToolNotFound}
	}
	call.Tool = t
	d := json.NewDecoder(bytes.NewReader(call.Args.Raw))
	d.UseNumber()
	if err := d.Decode(&call.Args.Values); err != nil {
		return atlas.Result{}, err
	}
	in, err := compile(t.Input)
	if err != nil {
		return atlas.Result{}, err
	}
	if err := in.Validate(call.Args.Values); err != nil {
		return atlas.Result{}, atlas.Errorf(atlas.CodeInvalidArguments, err, "")
	}
	fillDefaults(t.Input, call.Args.Values)
	res, err := t.Run(ctx, call)
	if err == nil {
		h.fits(t, res)
	}
	return res, err
}

// fits checks an answer against the tool's own output schema.
func (h *house) fits(t *atlas.Tool, res atlas.Result) {
	h.t.Helper()
	if t.Kind != atlas.KindTool {
		if len(res.Content) == 0 || res.Structured != nil {
			h.t.Errorf("%s: a %s answers with content, this is %+v", t.Name, t.Kind, res)
		}
		return
	}
	out, err := compile(t.Output)
	if err != nil {
		h.t.Errorf("%s: output schema: %v", t.Name, err)
		return
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(res.Structured))
	if err != nil {
		h.t.Errorf("%s: answer %s: %v", t.Name, res.Structured, err)
		return
	}
	if err := out.Validate(v); err != nil {
		h.t.Errorf("%s: answer %s does not fit its schema: %v", t.Name, res.Structured, err)
	}
	if t.Items != "" {
		if _, ok := v.(map[string]any)[t.Items].([]any); !ok {
			h.t.Errorf("%s: answer %s has no list %q", t.Name, res.Structured, t.Items)
		}
	}
}

func fillDefaults(input json.RawMessage, v map[string]any) {
	var s struct {
		Properties map[string]struct {
			Default json.RawMessage `json:"default"`
		} `json:"properties"`
	}
	if json.Unmarshal(input, &s) != nil {
		return
	}
	for k, p := range s.Properties {
		if _, given := v[k]; !given && p.Default != nil {
			d := json.NewDecoder(bytes.NewReader(p.Default))
			d.UseNumber()
			var value any
			if d.Decode(&value) == nil {
				v[k] = value
			}
		}
	}
}

func compile(s json.RawMessage) (*jsonschema.Schema, error) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(s))
	if err != nil {
		return nil, err
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource("mem:schema", doc); err != nil {
		return nil, err
	}
	return c.Compile("mem:schema")
}

// ask calls a tool as somebody of the tenant.
func (h *house) ask(ctx context.Context, tenant atlas.TenantID, name, args string) (atlas.Result, error) {
	return h.call(ctx, atlas.Call{
		ID: "call-1", Name: name, Tenant: tenant, Principal: &atlas.Principal{Subject: "alice", Tenant: tenant},
		Args: atlas.Args{Raw: json.RawMessage(args)}, TraceParent: "00-trace", Transport: "http",
	})
}

// get is ask for a call that must succeed; it returns the answer decoded.
func (h *house) get(name, args string) map[string]any {
	h.t.Helper()
	res, err := h.ask(h.t.Context(), "acme", name, args)
	if err != nil {
		h.t.Fatalf("%s(%s): %v", name, args, err)
	}
	var v map[string]any
	if err := json.Unmarshal(res.Structured, &v); err != nil {
		h.t.Fatal(err)
	}
	return v
}

func (h *house) called(name string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(h.calls), func(c atlas.Call) bool { return c.Name != name }))
}

// shipped returns the files of tools that Atlas ships with.
func shipped(t testing.TB) []tool.File {
	t.Helper()
	names, err := filepath.Glob("../../config/tools/*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatal("no files of tools", err)
	}
	var files []tool.File
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(f)
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, tool.File{Name: filepath.Base(name), Data: data})
	}
	return files
}

func wantCode(t testing.TB, err error, code atlas.Code) {
	t.Helper()
	if got := atlas.CodeOf(err); got != code {
		t.Fatalf("got code %q (%v), want %q", got, err, code)
	}
}

func yaml(text string, args ...any) tool.File {
	return tool.File{Name: "tools.yaml", Data: fmt.Appendf(nil, text, args...)}
}
