package message_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

const caps = `"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}`

func call(meta string) string {
	return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","_meta":{` + meta + `}}}`
}

func TestCheck(t *testing.T) {
	good := func(set ...string) http.Header {
		h := http.Header{"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {"echo"}}
		for i := 0; i < len(set); i += 2 {
			if h.Del(set[i]); set[i+1] != "" {
				h.Set(set[i], set[i+1])
			}
		}
		return h
	}
	add := func(name, v string) http.Header { h := good(); h.Add(name, v); return h }
	none := http.Header{}
	for _, tt := range []struct {
		name   string
		header http.Header
		body   string
		code   int
	}{
		{"modern", good(), call(caps), 0},
		{"base64", good("Mcp-Name", "=?base64?ZWNobw==?="), call(caps), 0},
		{"bad base64", good("Mcp-Name", "=?base64?ZWNob?="), call(caps), message.CodeHeaderMismatch},
		{"half a sentinel", good("Mcp-Name", "=?base64?ZWNobw=="), call(caps), message.CodeHeaderMismatch},
		{"another name", good("Mcp-Name", "mail"), call(caps), message.CodeHeaderMismatch},
		{"a name in other case", good("Mcp-Name", "Echo"), call(caps), message.CodeHeaderMismatch},
		{"no name", good("Mcp-Name", ""), call(caps), message.CodeHeaderMismatch},
		{"two names", add("Mcp-Name", "echo"), call(caps), message.CodeHeaderMismatch},
		{"another method", good("Mcp-Method", "tools/list"), call(caps), message.CodeHeaderMismatch},
		{"no method", good("Mcp-Method", ""), call(caps), message.CodeHeaderMismatch},
		{"two methods", add("Mcp-Method", "tools/call"), call(caps), message.CodeHeaderMismatch},
		{"another revision", good("Mcp-Protocol-Version", "2025-11-25"), call(caps), message.CodeHeaderMismatch},
		{"no revision", good("Mcp-Protocol-Version", ""), call(caps), message.CodeHeaderMismatch},
		{"revision in the header alone", good(), call(`"a":1`), message.CodeInvalidParams},
		{"no _meta", good(), `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}`, message.CodeInvalidParams},
		{"no capabilities", good(), call(`"io.modelcontextprotocol/protocolVersion":"2026-07-28"`), message.CodeInvalidParams},
		{"bad capabilities", good(), call(`"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":[]`), message.CodeInvalidParams},
		{"bad client", good(), call(caps + `,"io.modelcontextprotocol/clientInfo":5`), message.CodeInvalidParams},
		{"future", good("Mcp-Protocol-Version", "2999-01-01"), call(strings.ReplaceAll(caps, "2026-07-28", "2999-01-01")), message.CodeVersion},
		{"name of another type", good(), `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":["echo"],"_meta":{` + caps + `}}}`, message.CodeHeaderMismatch},
		{"legacy", http.Header{"Mcp-Protocol-Version": {"2025-06-18"}}, call(""), 0},
		{"legacy with fields of the newer era, as a proxy sends them", http.Header{"Mcp-Protocol-Version": {"2025-06-18"}, "Mcp-Method": {"x"}}, call(""), 0},
		{"legacy without a revision", none, call(""), 0},
		{"unknown legacy", http.Header{"Mcp-Protocol-Version": {"2024-01-01"}}, call(""), message.CodeVersion},
		{"nonsense", http.Header{"Mcp-Protocol-Version": {"1"}}, call(""), message.CodeVersion},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := parse(t, tt.body)
			revision, err := message.Revision(tt.header)
			if err == nil {
				err = m.Check(tt.header, revision)
			}
			switch {
			case tt.code == 0 && err != nil:
				t.Error(err)
			case tt.code != 0 && (err == nil || err.Code != tt.code || err.HTTPStatus(true) != http.StatusBadRequest):
				t.Errorf("got %v, want %d with status 400", err, tt.code)
			}
		})
	}
	if _, err := message.Revision(add("Mcp-Protocol-Version", "2025-11-25")); err == nil || err.Code != message.CodeHeaderMismatch {
		t.Errorf("two revisions: %v", err)
	}
	if e := message.UnsupportedVersion("x"); !json.Valid(e.Data) || !strings.Contains(string(e.Data), `"requested":"x"`) || !strings.Contains(string(e.Data), "2026-07-28") {
		t.Errorf("data %s", e.Data)
	}
}

// What each method is about stands in the Mcp-Name field, also where the SDK does not look.
func TestTargets(t *testing.T) {
	for _, tt := range []struct{ method, params, want string }{
		{"tools/call", `"name":"a"`, "a"},
		{"prompts/get", `"name":"a"`, "a"},
		{"resources/read", `"uri":"u:1"`, "u:1"},
		{"tasks/get", `"taskId":"t"`, "t"},
		{"tasks/cancel", `"taskId":"t"`, "t"},
		{"tasks/update", `"taskId":"t"`, "t"},
		{"tasks/result", `"taskId":"t"`, "-"},
		{"tasks/list", `"taskId":"t"`, "-"},
		{"tools/list", `"name":"a"`, "-"},
		{"tasks/get", `"taskId":5`, ""},
	} {
		m := parse(t, `{"jsonrpc":"2.0","id":1,"method":"`+tt.method+`","params":{`+tt.params+`}}`)
		target, ok := m.Target()
		if tt.want == "-" && ok || tt.want != "-" && (!ok || string(target) != tt.want) {
			t.Errorf("%s %s: %q %v", tt.method, tt.params, target, ok)
		}
		h := http.Header{"Mcp-Method": {tt.method}, "Mcp-Name": {"other"}}
		if err := m.CheckHeader(h); (err == nil) != (tt.want == "-") {
			t.Errorf("%s with another name: %v", tt.method, err)
		}
	}
}

func mirrored(t *testing.T, schema string) []message.ParamHeader {
	t.Helper()
	l := message.NewListing([]*atlas.Tool{{Name: "t", Input: json.RawMessage(schema)}})
	return l.ByName([]byte("t")).Headers
}

func TestParamHeaders(t *testing.T) {
	params := mirrored(t, `{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"n":{"type":"integer","x-mcp-header":"N"},`+
		`"on":{"type":"boolean","x-mcp-header":"on"},"deep":{"type":"object","properties":{"x":{"type":"string","x-mcp-header":"Deep-X"}}}}}`)
	if diff := cmp.Diff([]message.ParamHeader{{[]string{"deep", "x"}, "Mcp-Param-Deep-X"}, {[]string{"n"}, "Mcp-Param-N"}, {[]string{"on"}, "Mcp-Param-On"}, {[]string{"region"}, "Mcp-Param-Region"}}, params); diff != "" {
		t.Fatal("(-want +got):", diff)
	}
	for _, tt := range []struct {
		name, args string
		header     http.Header
		ok         bool
	}{
		{"nothing", `{}`, nil, true},
		{"no arguments", ``, nil, true},
		{"all", `{"region":"eu","n":5,"on":true,"deep":{"x":"ä"}}`, http.Header{"Mcp-Param-Region": {"eu"}, "Mcp-Param-N": {"5"}, "Mcp-Param-On": {"true"}, "Mcp-Param-Deep-X": {"=?base64?w6Q=?="}}, true},
		{"integer written otherwise", `{"n":5.0}`, http.Header{"Mcp-Param-N": {"5"}}, true},
		{"null is not there", `{"region":null}`, nil, true},
		{"null with a field", `{"region":null}`, http.Header{"Mcp-Param-Region": {"eu"}}, false},
		{"absent with a field", `{}`, http.Header{"Mcp-Param-Region": {"eu"}}, false},
		{"no field", `{"region":"eu"}`, nil, false},
		{"another value", `{"region":"eu"}`, http.Header{"Mcp-Param-Region": {"us"}}, false},
		{"two fields", `{"region":"eu"}`, http.Header{"Mcp-Param-Region": {"eu", "eu"}}, false},
		{"bad base64", `{"region":"eu"}`, http.Header{"Mcp-Param-Region": {"=?base64?!?="}}, false},
		{"another number", `{"n":5}`, http.Header{"Mcp-Param-N": {"6"}}, false},
		{"a number as only Go has it", `{"n":16}`, http.Header{"Mcp-Param-N": {"0x10p0"}}, false},
		{"a number with a sign that JSON has not", `{"n":16}`, http.Header{"Mcp-Param-N": {"+16"}}, false},
		{"a number and more", `{"n":16}`, http.Header{"Mcp-Param-N": {"16 "}}, false},
		{"a negative number", `{"n":-16}`, http.Header{"Mcp-Param-N": {"-16"}}, true},
		{"a fraction", `{"n":5.5}`, http.Header{"Mcp-Param-N": {"5.5"}}, false},
		{"beyond what floats hold", `{"n":9007199254740993}`, http.Header{"Mcp-Param-N": {"9007199254740992"}}, false},
		{"a list", `{"region":["eu"]}`, http.Header{"Mcp-Param-Region": {"eu"}}, false},
		{"text for a boolean", `{"on":"true"}`, http.Header{"Mcp-Param-On": {"true"}}, true}, // its type is the schema's business
	} {
		err := message.CheckParamHeaders(tt.header, params, []byte(tt.args))
		if (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
		if err != nil {
			if e := message.ErrorOf(err, &atlas.Call{}); e == nil || e.Code != message.CodeHeaderMismatch || e.HTTPStatus(true) != 400 {
				t.Errorf("%s: %v", tt.name, e)
			}
		}
	}
}

// An annotation that clients would drop the tool for is left out, with all others.
func TestWrongAnnotationsAreNotListed(t *testing.T) {
	for _, props := range []string{
		`"a":{"type":"number","x-mcp-header":"A"}`, `"a":{"type":"object","x-mcp-header":"A"}`, `"a":{"x-mcp-header":"A"}`,
		`"a":{"type":"string","x-mcp-header":""}`, `"a":{"type":"string","x-mcp-header":"a b"}`, `"a":{"type":"string","x-mcp-header":"a\n"}`, `"a":{"type":"string","x-mcp-header":5}`,
		`"a":{"type":"string","x-mcp-header":"X"},"b":{"type":"string","x-mcp-header":"x"}`,
	} {
		schema := `{"type":"object","properties":{` + props + `,"ok":{"type":"string","x-mcp-header":"Ok"}}}`
		l := message.NewListing([]*atlas.Tool{{Name: "t", Input: json.RawMessage(schema)}}).ByName([]byte("t"))
		if len(l.Headers) != 0 || strings.Contains(string(l.JSON), "x-mcp-header") {
			t.Errorf("%s: %v %s", props, l.Headers, l.JSON)
		}
	}
	// A property of that name is none.
	l := message.NewListing([]*atlas.Tool{{Name: "t", Input: json.RawMessage(`{"type":"object","properties":{"x-mcp-header":{"type":"string"},"a":{"type":"number","x-mcp-header":"A"}}}`)}}).ByName([]byte("t"))
	if !strings.Contains(string(l.JSON), `"x-mcp-header":{"type":"string"}`) {
		t.Errorf("%s", l.JSON)
	}
}

func TestListing(t *testing.T) {
	tools := []*atlas.Tool{
		{Name: "p", Kind: atlas.KindPrompt, Title: "P", Description: "<d>", Input: json.RawMessage(`{"type":"object","properties":{"z":{"description":"Z"},"a":{"title":"A"}},"required":["z"]}`)},
		{Name: "r", Kind: atlas.KindResource, URI: "u:1", MIME: "text/plain"},
		{Name: "t", Kind: atlas.KindResource, URI: "u:{id}"},
		{Name: "x", Icons: []atlas.Icon{{Src: "https://x.example/i.png", MIME: "image/png"}}, Output: json.RawMessage(`{"type":"object","$defs":{"a":{}}}`), Destructive: true},
	}
	l := message.NewListing(tools)
	for name, want := range map[string]string{
		"p": `{"name":"p","title":"P","description":"<d>","arguments":[{"name":"z","description":"Z","required":true},{"name":"a","title":"A"}],"_meta":{"atlas/level":"","atlas/reads":""}}`,
		"r": `{"name":"r","uri":"u:1","mimeType":"text/plain","_meta":{"atlas/level":"","atlas/reads":""}}`,
		"t": `{"name":"t","uriTemplate":"u:{id}","_meta":{"atlas/level":"","atlas/reads":""}}`,
		"x": `{"name":"x","icons":[{"src":"https://x.example/i.png","mimeType":"image/png"}],"inputSchema":{"type":"object"},"annotations":{"destructiveHint":true,"openWorldHint":false},"_meta":{"atlas/level":"","atlas/reads":""},` +
			`"outputSchema":{"type":"object","$defs":{"a":{}},"anyOf":[{"type":"object"},{"title":"Failure","required":["code","category","retryable","hint","request_id"]}]}}`,
	} {
		if diff := cmp.Diff(object(t, want), decode(t, l.ByName([]byte(name)).JSON)); diff != "" {
			t.Errorf("%s (-want +got): %s", name, diff)
		}
	}
	if l.ByName([]byte("none")) != nil {
		t.Error("a tool that is not there was found")
	}
	// One that has just come is listed all the same.
	if got := l.Items([]*atlas.Tool{{Name: "new"}}); !strings.Contains(string(got[0]), `"new"`) {
		t.Errorf("%s", got)
	}
	list := decode(t, newer.AppendList(nil, "tools", l.Items(tools[3:]), "cur", 0))
	if list["nextCursor"] != "cur" || len(list["tools"].([]any)) != 1 || list["cacheScope"] != "private" || list["resultType"] != "complete" {
		t.Errorf("list %v", list)
	}
	if empty := decode(t, older.AppendList(nil, "tools", nil, "", 0)); empty["tools"] == nil || empty["nextCursor"] != nil || empty["resultType"] != nil {
		t.Errorf("empty list %v", empty)
	}
}

func TestPages(t *testing.T) {
	var tools []*atlas.Tool
	for _, n := range []string{"a", "b", "c", "d", "e"} {
		tools = append(tools, &atlas.Tool{Name: n})
	}
	var got []string
	cursor := ""
	for range 10 {
		page, next, ok := message.Page(tools, []byte(cursor), 2)
		if !ok {
			t.Fatalf("cursor %q was refused", cursor)
		}
		for _, tool := range page {
			got = append(got, tool.Name)
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	if !slices.Equal(got, []string{"a", "b", "c", "d", "e"}) {
		t.Errorf("pages hold %v", got)
	}
	// The name that a cursor stands for may have gone.
	if page, _, ok := message.Page(tools[3:], []byte(base64.RawURLEncoding.EncodeToString([]byte("b"))), 2); !ok || len(page) != 2 {
		t.Errorf("%v %v", page, ok)
	}
	for _, bad := range []string{"%%", "YQ==", strings.Repeat("Y", 4000), "YR"} {
		if _, _, ok := message.Page(tools, []byte(bad), 2); ok {
			t.Errorf("cursor %q was taken", bad)
		}
	}
}

// A field that passes the check says what the body says, whichever way it is written.
func FuzzHeader(f *testing.F) {
	for _, v := range []string{"echo", "=?base64?ZWNobw==?=", "=?base64??=", "=?base64?", "=?base64?=", "?=", "éñ", " a", "=?BASE64?ZQ==?=", "=?base64?Zf==?="} {
		f.Add("echo", v)
	}
	f.Fuzz(func(t *testing.T, name, field string) {
		quoted, err := json.Marshal(name)
		if err != nil {
			t.Fatal(err)
		}
		var m message.Request
		if err := m.Parse([]byte(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":` + string(quoted) + `}}`)); err != nil {
			t.Fatal(err)
		}
		if m.CheckHeader(http.Header{"Mcp-Method": {"tools/call"}, "Mcp-Name": {field}}) != nil {
			return
		}
		says := field
		if in, ok := strings.CutPrefix(field, "=?base64?"); ok && strings.HasSuffix(in, "?=") {
			b, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(in, "?="))
			if err != nil {
				t.Fatalf("%q is not base64 and was taken", field)
			}
			says = string(b)
		}
		if says != string(m.Name) {
			t.Errorf("the field %q says %q, the body %q", field, says, m.Name)
		}
	})
}
