package mcp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/mcp"
	words "github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

// The same requests to package direct and to the SDK behind the same guard and before the same
// pipeline give the same answers. Where they do not, a row of departures says why direct's is the
// better one.

// A pair is the two paths over one pipeline.
type pair struct{ direct, sdk http.Handler }

func newPair(t testing.TB) pair {
	t.Helper()
	h := newHouse(t, options{serve: tellAll, deps: func(d *mcp.Deps) {
		d.Authenticate = func(next http.Handler) http.Handler { // tokens are not what is compared
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				c := &edge.Caller{Principal: &atlas.Principal{Tenant: "acme", Subject: "ann"}, Tenant: "acme"}
				next.ServeHTTP(w, r.WithContext(edge.WithCaller(r.Context(), c)))
			})
		}
	}, cfg: mcp.Config{PageSize: 1}})
	return pair{h.mcp.Handler(), h.mcp.Reference()}
}

// tellAll answers with everything that the pipeline is told of a call.
func tellAll(_ context.Context, c atlas.Call) (atlas.Result, error) {
	told := map[string]any{
		"name": c.Name, "args": string(c.Args.Raw), "tenant": c.Tenant, "subject": c.Principal.Subject, "transport": c.Transport, "key": c.IdempotencyKey,
		"budget": c.Budget, "trace": c.TraceParent + c.TraceState, "client": c.Client, "received": !c.Received.IsZero(),
	}
	if c.Reply != nil {
		told["answers"], told["state"] = len(c.Reply.Answers), string(c.Reply.State)
	}
	b, err := json.Marshal(told)
	return atlas.Result{Structured: b}, err
}

// A sent request is what a client sends, as it is on the wire.
type sent struct {
	header http.Header
	body   string
}

// got is an answer as far as the two must agree.
type got struct {
	Status int
	Type   string
	Body   any
}

var requestIDs = regexp.MustCompile(`req_[a-z0-9]{20}`)

func (s sent) to(t testing.TB, h http.Handler) got {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:8080/mcp", strings.NewReader(s.body))
	r.Header = s.header.Clone()
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer x")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	g := got{Status: w.Code, Type: w.Header().Get("Content-Type")}
	text := requestIDs.ReplaceAllString(string(body), "req_")
	if dec := json.NewDecoder(strings.NewReader(text)); true {
		dec.UseNumber()
		if dec.Decode(&g.Body) != nil {
			g.Body = text
		}
	}
	return g
}

// code returns the JSON-RPC error code of an answer, or 0.
func (g got) code() int {
	m, _ := g.Body.(map[string]any)
	e, _ := m["error"].(map[string]any)
	n, _ := e["code"].(json.Number)
	c, _ := n.Int64()
	return int(c)
}

// A departure is a class of requests that direct answers otherwise than the SDK.
type departure struct {
	name string
	why  string
	is   func(s sent, direct, sdk got) bool
	seed sent // one of the class, which shows that the row is needed
}

func modernHeader(method, name string) http.Header {
	h := http.Header{"Accept": {"application/json, text/event-stream"}, "Mcp-Protocol-Version": {modern}, "Mcp-Method": {method}}
	if name != "" {
		h.Set("Mcp-Name", name)
	}
	return h
}

func legacyHeader() http.Header {
	return http.Header{"Accept": {"application/json, text/event-stream"}, "Mcp-Protocol-Version": {legacy}}
}

// plainText reports whether the SDK refused a request with text in place of JSON.
func plainText(sdk got) bool { return strings.HasPrefix(sdk.Type, "text/plain") }

// members returns what a message's parameters have, read as leniently as can be.
func members(s sent) (params, meta map[string]any) {
	var msg map[string]any
	_ = json.Unmarshal([]byte(s.body), &msg)
	params, _ = msg["params"].(map[string]any)
	meta, _ = params["_meta"].(map[string]any)
	return params, meta
}

var departures = []departure{
	{
		name: "texts of refusals", why: "the SDK quotes what it was sent, and names its own types",
		is: func(_ sent, direct, sdk got) bool {
			return direct.Status == sdk.Status && direct.code() == sdk.code() && direct.code() < 0 && direct.Type == sdk.Type && sameID(direct, sdk)
		},
		seed: sent{modernHeader("tools/list", ""), plain(modern, "tools/call", `"name":"echo"`)},
	},
	{
		name: "refusals are JSON-RPC", why: "JSON-RPC 2.0: a client must be able to tell what is wrong; the SDK answers faults of the form with plain text",
		is: func(_ sent, direct, sdk got) bool {
			return plainText(sdk) && direct.Status == http.StatusBadRequest && direct.code() < 0
		},
		seed: sent{legacyHeader(), `{"jsonrpc":"1.0","id":7,"method":"tools/list"}`},
	},
	{
		name: "keys appear once", why: "a proxy may have checked the other one; RFC 8259 section 4",
		is: func(s sent, direct, _ got) bool {
			var m words.Request
			err := m.Parse([]byte(s.body))
			return err != nil && strings.Contains(err.Message, "twice") && direct.code() == words.CodeInvalidRequest && direct.Status == 400
		},
		seed: sent{legacyHeader(), `{"jsonrpc":"2.0","id":7,"id":8,"method":"tools/list"}`},
	},
	{
		name: "fields appear once", why: "as with keys; RFC 9110 section 5.3",
		is: func(s sent, direct, _ got) bool {
			return (len(s.header["Mcp-Name"]) > 1 || len(s.header["Mcp-Method"]) > 1 || len(s.header["Mcp-Protocol-Version"]) > 1) && direct.code() == words.CodeHeaderMismatch
		},
		seed: sent{http.Header{"Accept": {"application/json, text/event-stream"}, "Mcp-Protocol-Version": {modern}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"echo", "secret"}}, plain(modern, "tools/call", `"name":"echo"`)},
	},
	{
		name: "names beyond ASCII", why: "SEP-2243: what a field cannot hold is sent in base64; the SDK compares the field as it is written",
		is: func(s sent, _, sdk got) bool {
			return strings.HasPrefix(s.header.Get("Mcp-Name"), "=?base64?") && sdk.code() == words.CodeHeaderMismatch
		},
		seed: sent{modernHeader("tools/call", "=?base64?ZWNobw==?="), plain(modern, "tools/call", `"name":"echo"`)},
	},
	{
		name: "a name in base64 is not itself", why: "the other side of the same: the SDK takes the field literally",
		is: func(s sent, direct, _ got) bool {
			return strings.HasPrefix(s.header.Get("Mcp-Name"), "=?base64?") && direct.code() == words.CodeHeaderMismatch
		},
		seed: sent{modernHeader("tools/call", "=?base64?ZWNobw==?="), plain(modern, "tools/call", `"name":"=?base64?ZWNobw==?="`)},
	},
	{
		name: "JSON readers are served", why: "a client that reads no streams can read this answer; 406 is for one that cannot (RFC 9110 section 15.5.7)",
		is: func(s sent, direct, sdk got) bool {
			accept := strings.Join(s.header.Values("Accept"), ",")
			return plainText(sdk) && sdk.Status == 400 && !(strings.Contains(accept, "application/json") && strings.Contains(accept, "text/event-stream")) && direct.Status != 0
		},
		seed: sent{http.Header{"Accept": {"application/json"}, "Mcp-Protocol-Version": {legacy}}, plain(legacy, "tools/list", "")},
	},
	{
		name: "ids are integers", why: "MCP, basic: an id is a string or an integer; the SDK cuts 1.5 to 1 and rounds large ones, so that the answer names another request",
		is: func(s sent, direct, sdk got) bool {
			var m struct{ ID json.RawMessage }
			if json.Unmarshal([]byte(s.body), &m) != nil {
				return false
			}
			id := string(m.ID)
			return strings.ContainsAny(id, ".eE") && direct.code() == words.CodeInvalidRequest ||
				len(id) > 15 && strings.Trim(id, "-0123456789") == "" || id == "-0"
		},
		seed: sent{legacyHeader(), `{"jsonrpc":"2.0","id":1.5,"method":"tools/list"}`},
	},
	{
		name: "text is UTF-8", why: "RFC 8259 section 8.1; the SDK passes the bytes on, or replaces them",
		is: func(s sent, direct, _ got) bool {
			return strings.ToValidUTF8(s.body, "") != s.body && direct.code() == words.CodeParse
		},
		seed: sent{legacyHeader(), "{\"jsonrpc\":\"2.0\",\"id\":\"\xff\",\"method\":\"tools/list\"}"},
	},
	{
		name: "what no tool reads is not decoded", why: "the SDK decodes every capability and answer into a type of its own, and so refuses those that are newer than it",
		is: func(s sent, direct, sdk got) bool {
			params, meta := members(s)
			return (sdk.code() == words.CodeInvalidParams || sdk.code() == words.CodeHeaderMismatch) && (params["inputResponses"] != nil || meta["io.modelcontextprotocol/clientCapabilities"] != nil || meta["io.modelcontextprotocol/clientInfo"] != nil)
		},
		seed: sent{modernHeader("tools/call", "echo"), plain(modern, "tools/call", `"name":"echo","inputResponses":{"x":{"newer":1}}`)},
	},
	{
		name: "one message, whole", why: "JSON-RPC 2.0: what follows the message is none, and a proxy may have read it as one; the SDK stops reading behind the first value",
		is: func(s sent, direct, _ got) bool {
			return !json.Valid([]byte(s.body)) && direct.Status == http.StatusBadRequest && (direct.code() == words.CodeParse || direct.code() == words.CodeInvalidRequest)
		},
		seed: sent{legacyHeader(), plain(legacy, "tools/list", "") + `{}`},
	},
	{
		name: "messages ask or answer", why: "JSON-RPC 2.0 sections 4 and 5: what has no method must have a result or an error, and one of them; the SDK takes anything with an id for an answer",
		is: func(_ sent, direct, sdk got) bool {
			return sdk.Status == http.StatusAccepted && direct.Status == http.StatusBadRequest && direct.code() == words.CodeInvalidRequest
		},
		seed: sent{legacyHeader(), `{"jsonrpc":"2.0","id":7}`},
	},
	{
		name: "parameters are required", why: "JSON-RPC 2.0 section 5.1: they are what is wrong, not the request; the SDK has three answers for that",
		is: func(s sent, direct, _ got) bool {
			params, _ := members(s)
			return params == nil && direct.code() == words.CodeInvalidParams && direct.Status == http.StatusBadRequest
		},
		seed: sent{legacyHeader(), `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":null}`},
	},
}

func sameID(a, b got) bool {
	x, _ := a.Body.(map[string]any)
	y, _ := b.Body.(map[string]any)
	return cmp.Equal(x["id"], y["id"])
}

// plain is message with no further _meta.
func plain(era, method, params string) string { return message(era, method, params, "") }

// compare fails the test if the answers differ in a way that no row explains.
func (p pair) compare(t testing.TB, s sent) (why string) {
	t.Helper()
	direct, sdk := s.to(t, p.direct), s.to(t, p.sdk)
	if cmp.Equal(direct, sdk) {
		return ""
	}
	for _, d := range departures {
		if d.is(s, direct, sdk) {
			return d.name
		}
	}
	t.Fatalf("%v\n%s\ndirect: %d %s %v\nsdk:    %d %s %v", s.header, s.body, direct.Status, direct.Type, direct.Body, sdk.Status, sdk.Type, sdk.Body)
	return ""
}

func TestBothPathsAgree(t *testing.T) {
	p := newPair(t)
	for _, era := range eras {
		for _, params := range []string{
			`"name":"echo"`, `"name":"echo","arguments":{}`, `"name":"echo","arguments":null`, `"name":"echo","arguments":{"x":"<&>\u2028é"}`,
			`"name":"echo","arguments":[1]`, `"name":"echo","arguments":"text"`, `"name":"echo","arguments":{"a":{"a":1,"a":2}}`,
			`"name":"secret","arguments":{"x":"y"}`, `"name":"never"`, `"name":""`, `"name":"\u0065cho"`, `"name":"echo","extra":{"a":[1,2]}`,
			`"name":"echo","requestState":"abc"`, `"name":"echo","inputResponses":{"k":{"action":"accept","content":{}}},"requestState":""`,
		} {
			for _, meta := range []string{"", `"traceparent":"00-zz"`, `"atlas/budget":{"total_ms":0}`, `"atlas/idempotency_key":5`, `"progressToken":1`} {
				var m struct{ Params struct{ Name string } }
				body := message(era, "tools/call", params, meta)
				if err := json.Unmarshal([]byte(body), &m); err != nil {
					t.Fatal(err)
				}
				h := legacyHeader()
				if era == modern {
					h = modernHeader("tools/call", m.Params.Name)
				}
				if why := p.compare(t, sent{h, body}); why != "" && why != "texts of refusals" {
					t.Errorf("%s %s: they differ: %s", era, body, why)
				}
			}
		}
		for _, params := range []string{"", `"cursor":""`, `"cursor":"ZWNobw"`, `"cursor":"%%"`, `"cursor":null`, `"cursor":"bmV2ZXI"`} {
			h := legacyHeader()
			if era == modern {
				h = modernHeader("tools/list", "")
			}
			if why := p.compare(t, sent{h, message(era, "tools/list", params, "")}); why != "" {
				t.Errorf("%s %s: they differ: %s", era, params, why)
			}
		}
	}
}

// Each row is needed, and its own request shows it.
func TestDeparturesAreTrue(t *testing.T) {
	p := newPair(t)
	for _, d := range departures {
		direct, sdk := d.seed.to(t, p.direct), d.seed.to(t, p.sdk)
		if cmp.Equal(direct, sdk) || !d.is(d.seed, direct, sdk) {
			t.Errorf("%s: direct %+v, sdk %+v", d.name, direct, sdk)
		}
		if d.why == "" {
			t.Errorf("%s has no reason", d.name)
		}
	}
}

// What direct refuses never reaches the pipeline by the other path in a better form: random requests,
// put together of good and bad parts.
func TestBothPathsAgreeOnRandomRequests(t *testing.T) {
	p := newPair(t)
	rapid.Check(t, func(rt *rapid.T) {
		pick := func(label string, from ...string) string { return rapid.SampledFrom(from).Draw(rt, label) }
		maybe := func(label string, member string, from ...string) string {
			if v := pick(label, append(from, "")...); v != "" {
				return fmt.Sprintf(`,%s:%s`, member, v)
			}
			return ""
		}
		meta := "{" + strings.TrimPrefix(maybe("version", `"io.modelcontextprotocol/protocolVersion"`, `"2026-07-28"`, `"2026-07-28"`, `"2025-11-25"`, `"2999-01-01"`, `5`)+
			maybe("caps", `"io.modelcontextprotocol/clientCapabilities"`, `{}`, `{}`, `{"elicitation":{}}`, `{"sampling":5}`, `null`, `[]`)+
			maybe("info", `"io.modelcontextprotocol/clientInfo"`, `{"name":"x","version":"1"}`, `5`, `{"name":5}`, `null`)+
			maybe("level", `"io.modelcontextprotocol/logLevel"`, `"info"`, `5`)+
			maybe("token", `"progressToken"`, `1`, `"t"`, `{}`), ",") + "}"
		params := "{" + strings.TrimPrefix(maybe("name", `"name"`, `"echo"`, `"echo"`, `"secret"`, `"nöt"`, `5`, `null`)+
			maybe("args", `"arguments"`, `{}`, `{"x":"y"}`, `[]`, `5`, `null`)+
			maybe("cursor", `"cursor"`, `"ZWNobw"`, `5`, `"%"`)+
			maybe("meta", `"_meta"`, meta, meta, meta, `5`, `null`)+
			maybe("inputs", `"inputResponses"`, `{"a":{"action":"accept"}}`, `{"a":5}`, `[]`)+
			maybe("state", `"requestState"`, `"s"`, `5`), ",") + "}"
		method := pick("method", "tools/call", "tools/call", "tools/list")
		body := "{" + strings.TrimPrefix(maybe("jsonrpc", `"jsonrpc"`, `"2.0"`, `"2.0"`, `"2.0"`, `"2.0"`, `"1.0"`, `2`)+
			maybe("id", `"id"`, `7`, `7`, `"seven"`, `"s\u00e9"`, `null`, `{}`, `1.5`, `[]`)+
			`,"method":"`+method+`"`+maybe("params", `"params"`, params, params, params, params, `[]`, `null`, `5`), ",") + "}"
		h := http.Header{"Accept": {pick("accept", "application/json, text/event-stream", "application/json, text/event-stream", "*/*", "application/json")}}
		for name, from := range map[string][]string{
			"Mcp-Protocol-Version": {modern, modern, modern, legacy, "2025-06-18", "2024-01-01", "2999-01-01", ""},
			"Mcp-Method":           {method, method, method, "tools/steal", ""},
			"Mcp-Name":             {"echo", "echo", "secret", "=?base64?bsO2dA==?=", ""},
		} {
			if v := pick(name, from...); v != "" {
				h.Set(name, v)
			}
		}
		p.compare(t, sent{h, body})
	})
}

func FuzzBothPathsAgree(f *testing.F) {
	for _, era := range eras {
		for _, m := range []string{
			message(era, "tools/call", `"name":"echo","arguments":{"x":"y"}`, `"progressToken":1`), message(era, "tools/list", `"cursor":"ZWNobw"`, ""),
			`{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"echo","arguments":{"a":1,"a":2}}}`, `[]`, `{"id":null}`,
		} {
			f.Add(m, era, "tools/call", "echo")
		}
	}
	for _, d := range departures {
		f.Add(d.seed.body, d.seed.header.Get("Mcp-Protocol-Version"), d.seed.header.Get("Mcp-Method"), d.seed.header.Get("Mcp-Name"))
	}
	p := newPair(f)
	f.Fuzz(func(t *testing.T, body, version, method, name string) {
		var m words.Request
		if m.Parse([]byte(body)) == nil && m.Method != words.MethodCall && m.Method != words.MethodList {
			return // not for package direct
		}
		h := http.Header{"Accept": {"application/json, text/event-stream"}}
		for k, v := range map[string]string{"Mcp-Protocol-Version": version, "Mcp-Method": method, "Mcp-Name": name} {
			if v = fieldValue(v); v != "" {
				h.Set(k, v)
			}
		}
		p.compare(t, sent{h, body})
	})
}

// fieldValue returns what of v can stand in a field of a request that net/http accepts.
func fieldValue(v string) string {
	return strings.TrimSpace(strings.Map(func(c rune) rune {
		if c < 0x20 || c == 0x7f {
			return -1
		}
		return c
	}, v))
}
