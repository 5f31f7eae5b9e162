package tool_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/tool"
)

func buildError(t *testing.T, text string) error {
	t.Helper()
	h := newHouse(t)
	_, err := tool.Build(h.sources, []tool.File{{Name: "tools.yaml", Data: []byte(text)}}, h.deps())
	return err
}

func TestSearchVerbs(t *testing.T) {
	h := newHouse(t).build()
	h.tickets.answer = func(atlas.TenantID, source.Search) (source.Hits, error) {
		return source.Hits{Total: 7, Hits: []source.Hit{{ID: "t_1", Score: 2.5, Snippet: "a <b>"}}}, nil
	}
	res, err := h.ask(t.Context(), "acme", "tickets_search", `{"query":"x","filter":{"status":["open","pending"],"n":3},"size":5}`)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"total":7,"hits":[{"id":"t_1","score":2.5,"snippet":"a <b>","fields":{}}]}`; string(res.Structured) != want {
		t.Errorf("got %s", res.Structured)
	}
	want := source.Search{Text: "x", Size: 5, Filter: map[string]any{"status": []any{"open", "pending"}, "n": int64(3)}}
	if d := cmp.Diff(want, h.tickets.asked[0]); d != "" {
		t.Error(d)
	}
	h.get("kb_search", `{"query":"x"}`)
	if d := cmp.Diff(source.Nearest{Text: "x", K: 10}, h.kb.asked[0]); d != "" {
		t.Error(d)
	}
	for _, args := range []string{`{"query":"x","size":51}`, `{"query":"x","filter":{"a":{"b":1}}}`, `{"query":"x","filter":{"a b":1}}`, `{"query":7}`} {
		_, err := h.ask(t.Context(), "acme", "tickets_search", args)
		wantCode(t, err, atlas.CodeInvalidArguments)
	}
}

func TestSearchBody(t *testing.T) {
	h := newHouse(t).build(shipped(t)...)
	h.tickets.answer = func(tenant atlas.TenantID, s source.Search) (source.Hits, error) {
		if tenant != "acme" || s.Filter["customer_id"] != "CUST-1001" && s.Filter["id"] != "t_7301" {
			return source.Hits{}, nil
		}
		return source.Hits{Total: 1, Hits: []source.Hit{{ID: "t_7301", Score: 1, Fields: map[string]any{
			"title": "Refund on hold", "status": "pending", "id": "forged", "score": "forged",
		}}}}, nil
	}
	got := h.get("tickets_of_customer", `{"customer_id":"CUST-1001"}`)
	want := map[string]any{"total": 1.0, "tickets": []any{
		map[string]any{"id": "t_7301", "title": "Refund on hold", "status": "pending"},
	}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(source.Search{Size: 10, Filter: map[string]any{"customer_id": "CUST-1001"}}, h.tickets.asked[0]); d != "" {
		t.Error("an argument that was left out became a filter:", d)
	}
	h.get("tickets_of_customer", `{"customer_id":"CUST-1001","status":"open"}`)
	if got := h.tickets.asked[1].Filter["status"]; got != "open" {
		t.Error("status", got)
	}
	if got := h.get("ticket", `{"ticket_id":"t_7301"}`); got["title"] != "Refund on hold" {
		t.Error(got)
	}
	_, err := h.ask(t.Context(), "globex", "ticket", `{"ticket_id":"t_7301"}`)
	wantCode(t, err, atlas.CodeNotFound)
}

func TestSearchBodyTemplates(t *testing.T) {
	h := newHouse(t).build(yaml(`
tools:
  find:
    source: docs
    description: Finds. Use it.
    input:
      words: {type: string, description: "words"}
      n: {type: integer, minimum: 1, maximum: 20, default: 3, description: "how many"}
      tags: {type: array, items: {type: string}, description: "tags"}
    required: [words]
    search:
      text: "refund {words} {{literal}}"
      filter: {kind: policy, year: 2026, open: true, tag: "{tags}", mixed: [a, "{words}"]}
      size: "{n}"
      fields: [title]
`))
	h.docs.answer = func(atlas.TenantID, source.Search) (source.Hits, error) {
		return source.Hits{Total: -1, Hits: []source.Hit{{ID: "d", Score: 2, Snippet: "s", Fields: map[string]any{"title": "T", "body": "B"}}}}, nil
	}
	got := h.get("find", `{"words":"{n} a","tags":["x","y"]}`)
	want := map[string]any{"total": -1.0, "documents": []any{map[string]any{"id": "d", "score": 2.0, "snippet": "s", "title": "T"}}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	wantAsked := source.Search{Text: "refund {n} a {literal}", Size: 3, Filter: map[string]any{
		"kind": "policy", "year": int64(2026), "open": true, "tag": []any{"x", "y"}, "mixed": []any{"a", "{n} a"},
	}}
	if d := cmp.Diff(wantAsked, h.docs.asked[0]); d != "" {
		t.Error(d)
	}
}

// badKeys are keys that reach, or may reach, out of the tenant's objects in some store.
var badKeys = []string{
	"", ".", "..", "/", "/a", "a/", "a//b", "../a", "a/../b", "a/..", "./a", "a/./b", `a\b`, `..\a`, "a\x00b", "a\nb", "a\u0085b",
	strings.Repeat("a", 1025),
}

func TestObjectVerbs(t *testing.T) {
	h := newHouse(t).build()
	h.files.objects["acme/docs/a.md"] = source.Object{ContentType: "text/markdown", Content: []byte("héllo")}
	h.files.objects["acme/bin"] = source.Object{ContentType: "image/png", Content: []byte{0x89, 0, 1}}
	h.files.objects["globex/secret"] = source.Object{Content: []byte("secret")}
	if got := h.get("files_get", `{"key":"docs/a.md"}`); got["content"] != "héllo" || got["size_bytes"] != 6.0 || got["encoding"] != "utf-8" {
		t.Error(got)
	}
	if got := h.get("files_get", `{"key":"docs/a.md","max_bytes":2}`); got["content"] != "h" || got["truncated"] != true || got["encoding"] != "utf-8" {
		t.Error("cut within a character:", got)
	}
	if got := h.get("files_get", `{"key":"bin"}`); got["content"] != "iQAB" || got["encoding"] != "base64" {
		t.Error(got)
	}
	got := h.get("files_list", `{"prefix":"docs/"}`)
	if list := got["objects"].([]any); len(list) != 1 || list[0].(map[string]any)["key"] != "docs/a.md" {
		t.Error(got)
	}
	if got := h.get("files_list", `{"prefix":"nothing"}`); len(got["objects"].([]any)) != 0 {
		t.Error(got)
	}
	_, err := h.ask(t.Context(), "acme", "files_get", `{"key":"secret"}`)
	wantCode(t, err, atlas.CodeNotFound)
	for _, key := range badKeys {
		args, _ := json.Marshal(map[string]string{"key": key, "content": "x"})
		_, err := h.ask(t.Context(), "acme", "files_put", string(args))
		wantCode(t, err, atlas.CodeInvalidArguments)
		// What stands behind the schema holds alone, too.
		call := atlas.Call{Tenant: "acme", Args: atlas.Args{Values: map[string]any{"key": key, "content": "x"}}}
		for _, name := range []string{"files_get", "files_put"} {
			if _, err := h.tools[name].Run(t.Context(), call); atlas.CodeOf(err) != atlas.CodeInvalidArguments {
				t.Errorf("%s(%q): %v", name, key, err)
			}
			if got := h.tools[name].Resource(call); got != "files//" {
				t.Errorf("%s(%q) is the resource %q", name, key, got)
			}
		}
		if _, err := h.tools["files_put"].Preview(t.Context(), call); err == nil {
			t.Errorf("a preview of %q", key)
		}
	}
	if h.files.puts != 0 {
		t.Error("something was written")
	}
	for _, prefix := range []string{"/", "../", "a/../", `a\`, "//"} {
		args, _ := json.Marshal(map[string]string{"prefix": prefix})
		_, err := h.ask(t.Context(), "acme", "files_list", string(args))
		wantCode(t, err, atlas.CodeInvalidArguments)
	}
}

func TestPut(t *testing.T) {
	h := newHouse(t).build()
	call := atlas.Call{Tenant: "acme", Args: atlas.Args{Values: map[string]any{"key": "a/b.txt", "content": "né"}}}
	put := h.tools["files_put"]
	if got := put.Resource(call); got != "files/a/b.txt" {
		t.Error("resource", got)
	}
	preview, err := put.Preview(t.Context(), call)
	if want := `Write 3 bytes (text/plain, SHA-256 82b5c347493f76b114b701be8bf9205789f699075946fdf09051bf799d9cc117) to "a/b.txt" of files: creates a new object. The content: né`; err != nil || preview != want {
		t.Error(preview, err)
	}
	if got := h.get("files_put", `{"key":"a/b.txt","content":"né"}`); got["bytes_written"] != 3.0 {
		t.Error(got)
	}
	preview, err = put.Preview(t.Context(), call)
	if want := "replaces an object of 3 bytes"; err != nil || !strings.Contains(preview, want) {
		t.Error(preview, err)
	}
	call.Tenant = "globex" // a preview must not tell what another tenant has
	if preview, err = put.Preview(t.Context(), call); err != nil || !strings.Contains(preview, "creates a new object") {
		t.Error(preview, err)
	}
}

// The pattern of keys in the schema says the same as source.CheckKey.
func TestKeyPattern(t *testing.T) {
	h := newHouse(t).build()
	in, err := compile(h.tools["files_get"].Input)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.OneOf(
			rapid.StringOfN(rapid.SampledFrom([]rune(`./\ab`+"\x00\x7f\u0085é")), 0, 8, -1), rapid.String(),
		).Draw(t, "key")
		if !utf8.ValidString(key) || len(key) > 1024 {
			return
		}
		byPattern := in.Validate(map[string]any{"key": key}) == nil
		if byRule := source.CheckKey(key) == nil; byPattern != byRule {
			t.Fatalf("%q: the pattern says %v, CheckKey says %v", key, byPattern, byRule)
		}
	})
}

const pathTools = `
tools:
  notice:
    source: files
    description: Gives a notice. Use it.
    input: {ticket: {type: string, description: "a ticket"}}
    object: {key: "tickets/{ticket}/notice.txt"}
  thing:
    source: http
    description: Gives a thing. Use it.
    input:
      id: {type: string, description: "an id"}
      q: {type: string, description: "words"}
      n: {type: integer, description: "a number"}
    required: [id]
    http: {url: "https://API.example.com/v1/things/{id}?fixed=1&q=a:{q}&n={n}", headers: {accept: application/json}}
  pay:
    source: http
    description: Pays. Use it.
    input:
      id: {type: string, description: "an id"}
      cents: {type: integer, description: "an amount"}
      note: {type: string, description: "a note"}
    required: [id, cents]
    http: {method: POST, url: "https://pay.example.com/v1/{id}", body: {amount: "{cents}", note: "{note}", text: "for {id}", list: ["{note}", 1]}}
`

func TestArgumentsStayInTheirSegment(t *testing.T) {
	h := newHouse(t).build(yaml(pathTools))
	h.files.objects["acme/tickets/t_1/notice.txt"] = source.Object{Content: []byte("x")}
	h.http.answer = source.Response{Status: 200}
	if got := h.get("notice", `{"ticket":"t_1"}`); got["content"] != "x" {
		t.Error(got)
	}
	call := atlas.Call{Args: atlas.Args{Values: map[string]any{"ticket": "t_1"}}}
	if got := h.tools["notice"].Resource(call); got != "files/tickets/t_1/notice.txt" {
		t.Error(got)
	}
	for _, bad := range []string{
		"", ".", "..", "../x", "a/b", `a\b`, "%2e%2e", "%2e%2e%2fx", "a%2fb", "..%2f", "?x=1", "#x", "a;b", "a\nb", "a..b", "\ufffd", "..;/",
	} {
		args, _ := json.Marshal(map[string]string{"ticket": bad})
		_, err := h.ask(t.Context(), "acme", "notice", string(args))
		wantCode(t, err, atlas.CodeInvalidArguments)
		call := atlas.Call{Args: atlas.Args{Values: map[string]any{"ticket": bad}}}
		if got := h.tools["notice"].Resource(call); got != "files//" {
			t.Errorf("%q is the resource %q", bad, got)
		}
		args, _ = json.Marshal(map[string]string{"id": bad})
		_, err = h.ask(t.Context(), "acme", "thing", string(args))
		wantCode(t, err, atlas.CodeInvalidArguments)
	}
	if len(h.http.asked) != 0 {
		t.Error("a request was made:", h.http.asked)
	}
}

func TestHTTPBody(t *testing.T) {
	h := newHouse(t).build(yaml(pathTools))
	h.http.answer = source.Response{Status: 200, Body: "ok"}
	for args, want := range map[string]string{
		`{"id":"x"}`:                        "https://API.example.com/v1/things/x?fixed=1",
		`{"id":"é @&=+"}`:                   "https://API.example.com/v1/things/%C3%A9%20@&=+?fixed=1",
		`{"id":"x","q":"1&admin=1#%2e/ é"}`: "https://API.example.com/v1/things/x?fixed=1&q=a:1%26admin%3D1%23%252e%2F+%C3%A9",
		`{"id":"x","n":7}`:                  "https://API.example.com/v1/things/x?fixed=1&n=7",
	} {
		h.http.asked = nil
		if got := h.get("thing", args); got["body"] != "ok" {
			t.Error(got)
		}
		if got := h.http.asked[0]; got.URL != want || got.Method != http.MethodGet || got.Header["accept"] == "" {
			t.Errorf("%s: got %+v, want %s", args, got, want)
		}
	}
	thing, pay := h.tools["thing"], h.tools["pay"]
	if thing.Resource(atlas.Call{}) != "http/api.example.com" || !thing.ReadOnly || thing.Destructive || thing.Scopes[0] != "tool:http:fetch" {
		t.Errorf("%+v", thing)
	}
	if pay.ReadOnly || !pay.Destructive || pay.Idempotent || pay.Scopes[0] != "tool:http:write" || pay.Effects != atlas.EffectsEgress {
		t.Errorf("%+v", pay)
	}
	h.http.asked = nil
	h.get("pay", `{"id":"o_1","cents":4900}`)
	if got := string(h.http.asked[0].Body); got != `{"amount":4900,"list":[1],"text":"for o_1"}` {
		t.Error(got)
	}
	preview, err := pay.Preview(t.Context(), atlas.Call{Args: atlas.Args{Raw: json.RawMessage(`{"id":"o_1","cents":4900}`)}})
	if err != nil || !strings.HasPrefix(preview, "POST https://pay.example.com/v1/o_1 with the body {") {
		t.Error(preview, err)
	}
}

func TestFetchVerb(t *testing.T) {
	h := newHouse(t).build()
	h.http.answer = source.Response{Status: 404, Body: "no"}
	got := h.get("http_fetch", `{"url":"https://API.example.com:443/x?y=1","headers":{"accept":"text/plain"}}`)
	want := map[string]any{"status": 404.0, "headers": map[string]any{}, "body": "no", "truncated": false}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(source.Request{Method: "GET", URL: "https://API.example.com:443/x?y=1", Header: map[string]string{"accept": "text/plain"}}, h.http.asked[0]); d != "" {
		t.Error(d)
	}
	resource := h.tools["http_fetch"].Resource
	for url, want := range map[string]string{
		"https://API.Example.com.:443/x": "http/api.example.com", "https://u@evil/": "http//", "https://": "http//", "%zz": "http//",
	} {
		if got := resource(atlas.Call{Args: atlas.Args{Values: map[string]any{"url": url}}}); got != want {
			t.Errorf("%s is %s, want %s", url, got, want)
		}
	}
	for _, args := range []string{
		`{"url":"http://api.example.com/"}`, `{"url":"https://allowed.example@evil/"}`, `{"url":"https://evil#allowed.example"}`,
		`{"url":"https://evil\\@allowed.example/"}`, `{"url":"https://[::1]/"}`, `{"url":"https://bücher.example/"}`,
		`{"url":"https://a.example/\r\nX: y"}`, `{"url":"https://a.example/ x"}`, `{"url":"https:///x"}`, `{}`,
		`{"url":"https://a.example/","method":"POST"}`, `{"url":"https://a.example/","body":{}}`,
		`{"url":"https://a.example/","headers":{"authorization":"x"}}`, `{"url":"https://a.example/","headers":{"host":"x"}}`,
	} {
		_, err := h.ask(t.Context(), "acme", "http_fetch", args)
		if atlas.CodeOf(err) != atlas.CodeInvalidArguments {
			t.Errorf("%s: %v", args, err)
		}
	}
}
