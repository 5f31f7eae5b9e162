package message_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

func parse(t *testing.T, body string) *message.Request {
	t.Helper()
	var m message.Request
	if err := m.Parse([]byte(body)); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return &m
}

func TestParseReadsEveryPart(t *testing.T) {
	m := parse(t, ` {"params":{"arguments": {"a":[1,{"b":null}]} ,"name":"c\u0061ll","cursor":"x","requestState":"st","taskId":"t",`+
		`"inputResponses":{"k":{"action":"accept"}},"_meta":{"progressToken":"p\n","io.modelcontextprotocol/logLevel":"warning",`+
		`"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{"name":"x","version":"1"},`+
		`"io.modelcontextprotocol/clientCapabilities":{"elicitation":{"url":{}},"sampling":{},"roots":{"listChanged":true},"extensions":{"io.modelcontextprotocol/tasks":{}}},`+
		`"atlas/idempotency_key":"k","atlas/budget":{"expected":["a"],"total_ms":100},"unknown":{"x":[]}},"more":true},"method":"tools/call","id":"\u0031","jsonrpc":"2.0","extra":[]} `)
	if string(m.ID) != `"\u0031"` || m.Key() != `"1"` || m.Method != message.MethodCall || m.Response {
		t.Errorf("id %s (%s), method %s", m.ID, m.Key(), m.Method)
	}
	if string(m.Name) != "call" || !m.HasName || string(m.Arguments) != `{"a":[1,{"b":null}]}` || string(m.Cursor) != "x" || m.Fault != nil {
		t.Errorf("name %s, arguments %s, cursor %s, fault %v", m.Name, m.Arguments, m.Cursor, m.Fault)
	}
	if string(m.Meta.Version) != "2026-07-28" || !m.Meta.HasCaps || m.Meta.BadInfo || m.Meta.LogLevel != atlas.LogWarning || string(m.Meta.Progress) != `"p\n"` {
		t.Errorf("meta %+v", m.Meta)
	}
	var call atlas.Call
	if err := m.Fill(&call); err != nil {
		t.Fatal(err)
	}
	want := atlas.Call{
		Args: atlas.Args{Raw: json.RawMessage(`{"a":[1,{"b":null}]}`)}, IdempotencyKey: "k",
		Budget: atlas.Budget{Total: 100 * time.Millisecond, Expected: []string{"a"}},
		Client: atlas.Client{ElicitURL: true, Sample: true, Roots: true, Tasks: true},
		Reply:  &atlas.Reply{Answers: map[string]json.RawMessage{"k": json.RawMessage(`{"action":"accept"}`)}, State: []byte("st")},
	}
	if diff := cmp.Diff(want, call); diff != "" {
		t.Error("call (-want +got):", diff)
	}
	if target, ok := m.Target(); !ok || string(target) != "call" {
		t.Errorf("target %q", target)
	}
}

func TestParseRefuses(t *testing.T) {
	deep := func(n int) string {
		return `{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}}`
	}
	many := func(last string) string {
		var b strings.Builder
		for i := range 1000 {
			fmt.Fprintf(&b, `"k%d":0,`, i)
		}
		return `{"jsonrpc":"2.0","id":1,"method":"x","params":{` + b.String() + `"` + last + `":0}}`
	}
	for _, tt := range []struct {
		name, body string
		code       int // 0: accepted
	}{
		{"nothing", ``, message.CodeParse},
		{"space", " \n", message.CodeParse},
		{"half", `{"jsonrpc":"2.0"`, message.CodeParse},
		{"two", `{"jsonrpc":"2.0","method":"x"}{}`, message.CodeParse},
		{"comma", `{"jsonrpc":"2.0","method":"x",}`, message.CodeParse},
		{"leading zero", `{"jsonrpc":"2.0","method":"x","params":{"a":01}}`, message.CodeParse},
		{"bare point", `{"jsonrpc":"2.0","method":"x","params":{"a":1.}}`, message.CodeParse},
		{"bare exponent", `{"jsonrpc":"2.0","method":"x","params":{"a":1e+}}`, message.CodeParse},
		{"plus", `{"jsonrpc":"2.0","method":"x","params":{"a":+1}}`, message.CodeParse},
		{"minus alone", `{"jsonrpc":"2.0","id":-,"method":"x"}`, message.CodeParse},
		{"NaN", `{"jsonrpc":"2.0","method":"x","params":{"a":NaN}}`, message.CodeParse},
		{"raw newline", "{\"jsonrpc\":\"2.0\",\"method\":\"x\ny\"}", message.CodeParse},
		{"bad escape", `{"jsonrpc":"2.0","method":"\x"}`, message.CodeParse},
		{"short escape", `{"jsonrpc":"2.0","method":"\u12"}`, message.CodeParse},
		{"invalid UTF-8", "{\"jsonrpc\":\"2.0\",\"method\":\"\xff\"}", message.CodeParse},
		{"overlong UTF-8", "{\"jsonrpc\":\"2.0\",\"method\":\"\xc0\xaf\"}", message.CodeParse},
		{"surrogate in UTF-8", "{\"jsonrpc\":\"2.0\",\"method\":\"\xed\xa0\x80\"}", message.CodeParse},
		{"BOM", "\xef\xbb\xbf{}", message.CodeParse},
		{"deep", deep(2000), message.CodeParse},
		{"deep, and open", strings.Repeat("[", 1<<20), message.CodeParse},
		{"not too deep", deep(900), 0},
		{"batch", `[{"jsonrpc":"2.0","id":1,"method":"x"}]`, message.CodeInvalidRequest},
		{"broken batch", `[{"jsonrpc":"2.0"`, message.CodeParse},
		{"text", `"hello"`, message.CodeInvalidRequest},
		{"null", `null`, message.CodeInvalidRequest},
		{"no version", `{"id":1,"method":"x"}`, message.CodeInvalidRequest},
		{"other version", `{"jsonrpc":"1.0","id":1,"method":"x"}`, message.CodeInvalidRequest},
		{"version as number", `{"jsonrpc":2.0,"id":1,"method":"x"}`, message.CodeInvalidRequest},
		{"id null", `{"jsonrpc":"2.0","id":null,"method":"x"}`, message.CodeInvalidRequest},
		{"id fraction", `{"jsonrpc":"2.0","id":1.0,"method":"x"}`, message.CodeInvalidRequest},
		{"id exponent", `{"jsonrpc":"2.0","id":1e3,"method":"x"}`, message.CodeInvalidRequest},
		{"id object", `{"jsonrpc":"2.0","id":{},"method":"x"}`, message.CodeInvalidRequest},
		{"id true", `{"jsonrpc":"2.0","id":true,"method":"x"}`, message.CodeInvalidRequest},
		{"large id", `{"jsonrpc":"2.0","id":123456789012345678901234567890,"method":"x"}`, 0},
		{"method number", `{"jsonrpc":"2.0","id":1,"method":5}`, message.CodeInvalidRequest},
		{"neither", `{"jsonrpc":"2.0","id":1}`, message.CodeInvalidRequest},
		{"both", `{"jsonrpc":"2.0","id":1,"method":"x","result":{}}`, message.CodeInvalidRequest},
		{"result and error", `{"jsonrpc":"2.0","id":1,"result":{},"error":{}}`, message.CodeInvalidRequest},
		{"response without id", `{"jsonrpc":"2.0","result":{}}`, message.CodeInvalidRequest},
		{"key twice", `{"jsonrpc":"2.0","id":1,"id":2,"method":"x"}`, message.CodeInvalidRequest},
		{"key twice, spelled otherwise", `{"jsonrpc":"2.0","id":1,"\u0069d":2,"method":"x"}`, message.CodeInvalidRequest},
		{"key twice in params", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}`, message.CodeInvalidRequest},
		{"key twice in _meta", `{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"a":1,"a":2}}}`, message.CodeInvalidRequest},
		{"key twice in capabilities", `{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"io.modelcontextprotocol/clientCapabilities":{"roots":{},"roots":{}}}}}`, message.CodeInvalidRequest},
		{"key twice far down", `{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":[{"b":{"c":1,"c":2}}]}}`, message.CodeInvalidRequest},
		{"key twice in a prompt's arguments", `{"jsonrpc":"2.0","id":1,"params":{"arguments":{"a":1,"a":2}},"method":"prompts/get"}`, message.CodeInvalidRequest},
		{"key twice in a tool's arguments, which is the validation stage's", `{"jsonrpc":"2.0","id":1,"params":{"arguments":{"a":1,"a":2}},"method":"tools/call"}`, 0},
		{"one of many keys twice", many("k500"), message.CodeInvalidRequest},
		{"many keys", many("last"), 0},
		{"one key in two objects", `{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":{"k":1},"b":{"k":1}}}`, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var m message.Request
			err := m.Parse([]byte(tt.body))
			switch {
			case tt.code == 0 && err != nil:
				t.Error(err)
			case tt.code != 0 && (err == nil || err.Code != tt.code || err.HTTPStatus(false) != http.StatusBadRequest):
				t.Errorf("got %v, want code %d with status 400", err, tt.code)
			}
		})
	}
}

// A body with very many keys costs what it is long, not the square of that.
func TestParseOfManyKeysIsNotQuadratic(t *testing.T) {
	var b strings.Builder
	b.WriteString(`{"jsonrpc":"2.0","id":1,"method":"x","params":{`)
	for i := range 80_000 {
		fmt.Fprintf(&b, `"%x":0,`, i*7919)
	}
	b.WriteString(`"z":0}}`)
	body := []byte(b.String())
	var m message.Request
	// Comparing each with each would be 3.2 billion comparisons, many seconds; the limit is far from
	// both.
	done := make(chan *message.Error, 1)
	go func() { done <- m.Parse(body) }()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("still busy")
	}
}

func TestResetForgetsEverything(t *testing.T) {
	m := parse(t, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"b":1},"cursor":"c","requestState":"s","inputResponses":{"k":{}},"_meta":{"progressToken":1,"atlas/idempotency_key":"k"}}}`)
	m.Reset()
	if err := m.Parse([]byte(`{"jsonrpc":"2.0","id":2,"method":"tools/call"}`)); err != nil {
		t.Fatal(err)
	}
	var call atlas.Call
	if err := m.Fill(&call); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(atlas.Call{}, call); diff != "" || m.Name != nil || m.Cursor != nil || m.Meta.Progress != nil || m.Params != nil {
		t.Errorf("the next message sees the last one: %+v %s", m, diff)
	}
}

func TestCapabilities(t *testing.T) {
	for _, tt := range []struct {
		raw  string
		want atlas.Client
		ok   bool
	}{
		{`{}`, atlas.Client{}, true},
		{`{"elicitation":{}}`, atlas.Client{Elicit: true}, true},
		{`{"elicitation":{"form":{}}}`, atlas.Client{Elicit: true}, true},
		{`{"elicitation":{"url":{}}}`, atlas.Client{ElicitURL: true}, true},
		{`{"elicitation":{"url":null}}`, atlas.Client{Elicit: true}, true},
		{`{"elicitation":{"form":{},"url":{}}}`, atlas.Client{Elicit: true, ElicitURL: true}, true},
		{`{"sampling":{},"roots":{},"elicitation":null}`, atlas.Client{Sample: true, Roots: true}, true},
		{`{"extensions":{"io.modelcontextprotocol/tasks":{}}}`, atlas.Client{Tasks: true}, true},
		{`{"extensions":{"io.modelcontextprotocol/tasks":null,"other/x":{}}}`, atlas.Client{}, true},
		{`{"experimental":{"a":5},"newer":5}`, atlas.Client{}, true},
		{`{"sampling":true}`, atlas.Client{}, false},
		{`{"roots":{},"elicitation":[]}`, atlas.Client{}, false},
		{`[]`, atlas.Client{}, false},
		{`null`, atlas.Client{}, false},
		{`{`, atlas.Client{}, false},
	} {
		got, ok := message.ReadCapabilities([]byte(tt.raw))
		if got != tt.want || ok != tt.ok {
			t.Errorf("%s: %+v %v", tt.raw, got, ok)
		}
	}
}

func TestFaultsOfParameters(t *testing.T) {
	for params, want := range map[string]string{
		`"name":5`:                      `"name"`,
		`"name":"x","cursor":5`:         "", // a list's
		`"requestState":{}`:             `"requestState"`,
		`"inputResponses":[]`:           `"inputResponses"`,
		`"inputResponses":{"a":"text"}`: `"inputResponses"`,
		`"_meta":5`:                     `"_meta"`,
		`"name":null,"cursor":null,"_meta":null,"inputResponses":null,"arguments":null`: "",
	} {
		m := parse(t, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{`+params+`}}`)
		if want == "" && m.Fault != nil || want != "" && (m.Fault == nil || m.Fault.Code != message.CodeInvalidParams || !strings.Contains(m.Fault.Message, want)) {
			t.Errorf("%s: %v", params, m.Fault)
		}
	}
	if m := parse(t, `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":5,"name":5,"inputResponses":5}}`); m.Fault == nil || !strings.Contains(m.Fault.Message, "cursor") {
		t.Errorf("cursor: %v", m.Fault)
	}
	if m := parse(t, `{"jsonrpc":"2.0","id":1,"method":"x","params":[]}`); m.Fault == nil || m.Params != nil {
		t.Errorf("positions: %v", m.Fault)
	}
	var b strings.Builder
	for i := range 65 {
		fmt.Fprintf(&b, `"k%d":{},`, i)
	}
	if m := parse(t, `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"inputResponses":{`+strings.TrimSuffix(b.String(), ",")+`}}}`); m.Fault == nil {
		t.Error("65 answers were taken")
	}
}

func TestReadInitializeAndCancelled(t *testing.T) {
	m := parse(t, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{"elicitation":{}},"clientInfo":{}}}`)
	if rev, c, ok := m.ReadInitialize(); rev != "2025-06-18" || !c.Elicit || !ok {
		t.Errorf("%q %+v %v", rev, c, ok)
	}
	for _, params := range []string{`{}`, `{"protocolVersion":5,"capabilities":{}}`, `{"protocolVersion":"x"}`, `{"protocolVersion":"x","capabilities":[]}`} {
		if _, _, ok := parse(t, `{"jsonrpc":"2.0","id":1,"method":"initialize","params":`+params+`}`).ReadInitialize(); ok {
			t.Errorf("%s was taken", params)
		}
	}
	if _, _, ok := parse(t, `{"jsonrpc":"2.0","id":1,"method":"initialize"}`).ReadInitialize(); ok {
		t.Error("nothing was taken")
	}
	// An id is the same id however it is written, and a text is not a number.
	for raw, want := range map[string]string{`"\u0061"`: `"a"`, `"a"`: `"a"`, `7`: `7`, `"7"`: `"7"`} {
		m := parse(t, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":`+raw+`}}`)
		if key, ok := m.ReadCancelled(); !ok || key != want {
			t.Errorf("%s: %q %v", raw, key, ok)
		}
	}
	for _, params := range []string{`{}`, `{"requestId":{}}`, `{"requestId":null}`} {
		if _, ok := parse(t, `{"jsonrpc":"2.0","method":"notifications/cancelled","params":`+params+`}`).ReadCancelled(); ok {
			t.Errorf("%s was taken", params)
		}
	}
	for asked, want := range map[string]string{"2025-06-18": "2025-06-18", "2024-11-05": "2024-11-05", "2026-07-28": "2025-11-25", "1999": "2025-11-25", "": "2025-11-25"} {
		if got := message.Negotiate(asked); got != want {
			t.Errorf("asked for %q: %q, want %q", asked, got, want)
		}
	}
}

func TestToolNameIsBounded(t *testing.T) {
	for name, want := range map[string]string{
		"a":                              "a",
		strings.Repeat("n", 128):         strings.Repeat("n", 128),
		strings.Repeat("n", 4000):        strings.Repeat("n", 128),
		strings.Repeat("n", 127) + "éxy": strings.Repeat("n", 127), // not half a character
	} {
		if got := message.ToolName(name); got != want {
			t.Errorf("%.20s…: %d bytes, want %d", name, len(got), len(want))
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":[1,2.5e-3,null,true]},"_meta":{"progressToken":1}}}`,
		`{"jsonrpc":"2.0","id":"a\ud83d\ude00\ud800","method":"tools/list","params":{"cursor":"\n"}}`,
		`{"jsonrpc":"2.0","id":1,"result":{"action":"accept"}}`, `[[]]`, `{"a":{"a":1,"a":1}}`, "{\"\xff\":0}", `{"jsonrpc":"2.0","method":"x","params":{"name":null}}`, "\x00", `-`, `"\u`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var m message.Request
		err := m.Parse(body)
		valid := json.Valid(body) && utf8.Valid(body)
		switch {
		case !valid && (err == nil || err.Code != message.CodeParse && !strings.Contains(err.Message, "twice")): // whichever comes first
			t.Fatalf("%q is no JSON, and was read: %v", body, err)
		case valid && err != nil && err.Code == message.CodeParse && !strings.Contains(err.Message, "deep"):
			t.Fatalf("%q is JSON, and was not read: %v", body, err)
		case err != nil:
			return
		}
		// What it has read is what another reader finds there.
		var other map[string]json.RawMessage
		if err := json.Unmarshal(body, &other); err != nil {
			t.Fatal(err)
		}
		text := func(raw json.RawMessage) (s string) {
			if json.Unmarshal(raw, &s) != nil {
				return ""
			}
			return s
		}
		if string(m.ID) != string(other["id"]) || m.Method != text(other["method"]) {
			t.Errorf("%q: id %s, method %q", body, m.ID, m.Method)
		}
		var params map[string]json.RawMessage
		if m.Params != nil {
			if err := json.Unmarshal(other["params"], &params); err != nil {
				t.Fatal(err)
			}
		}
		if string(m.Name) != text(params["name"]) || string(m.Cursor) != text(params["cursor"]) {
			t.Errorf("%q: name %q, cursor %q", body, m.Name, m.Cursor)
		}
		if args := string(params["arguments"]); args != "null" && string(m.Arguments) != args {
			t.Errorf("%q: arguments %s", body, m.Arguments)
		}
		var call atlas.Call
		if fault := m.Fill(&call); fault != nil && fault.Code != atlas.CodeInvalidArguments {
			t.Error(fault)
		}
	})
}
