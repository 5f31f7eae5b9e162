package message_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

var (
	older = message.Dialect{}
	newer = message.Dialect{Modern: true, Server: []byte(`{"name":"s","version":"1"}`)}
)

// decode checks that raw is one JSON object on one line, and returns it.
func decode(t testing.TB, raw []byte) map[string]any {
	t.Helper()
	var members map[string]json.RawMessage // numbers may be larger than a float
	if err := json.Unmarshal(raw, &members); err != nil {
		t.Fatalf("%v: %s", err, raw)
	}
	m := make(map[string]any, len(members))
	for k, v := range members {
		var x any
		_ = json.Unmarshal(v, &x)
		m[k] = x
	}
	if strings.ContainsAny(string(raw), "\r\n") {
		t.Errorf("more than one line: %q", raw)
	}
	return m
}

// object returns what a JSON text means.
func object(t testing.TB, text string) (m map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCallResult(t *testing.T) {
	asOf := time.Date(2026, 11, 20, 10, 0, 0, 5e6, time.FixedZone("", 3600))
	for _, tt := range []struct {
		name  string
		d     message.Dialect
		res   atlas.Result
		reads atlas.Reads
		want  string
	}{
		{
			"structured", older,
			atlas.Result{Structured: json.RawMessage("{\n \"a\": \"x\\n\\\" {\"\n}")},
			atlas.ReadsPrivate,
			`{"_meta":{"atlas/request_id":"r","atlas/reads":"private"},"content":[{"type":"text","text":"{\n \"a\": \"x\\n\\\" {\"\n}"}],"structuredContent":{"a":"x\n\" {"}}`,
		},
		{
			"nothing", newer,
			atlas.Result{},
			"",
			`{"resultType":"complete","_meta":{"atlas/request_id":"r","atlas/reads":"untrusted","io.modelcontextprotocol/serverInfo":{"name":"s","version":"1"}},"content":[{"type":"text","text":"{}"}],"structuredContent":{}}`,
		},
		{
			"all notes", older,
			atlas.Result{Structured: json.RawMessage(`{}`), AsOf: asOf, Partial: true, Truncated: true},
			atlas.ReadsUntrusted,
			`{"_meta":{"atlas/request_id":"r","atlas/reads":"untrusted","atlas/as_of":"2026-11-20T09:00:00.005Z","atlas/partial":true,"atlas/truncated":true},"content":[{"type":"text","text":"{}"}],"structuredContent":{}}`,
		},
		{
			"content", older,
			atlas.Result{Content: []atlas.Content{
				{Type: atlas.ContentText, Text: "a\u2028<"},
				{Type: atlas.ContentImage, Data: []byte{1, 2}, MIME: "image/png"},
				{Type: atlas.ContentAudio, Data: []byte{3}, MIME: "audio/wav"},
				{Type: atlas.ContentResource, URI: "u:1", MIME: "text/plain", Text: "t"},
				{Type: atlas.ContentResource, URI: "u:2", Data: []byte{}},
				{Type: atlas.ContentResourceLink, URI: "u:3", Name: "n", Title: "T", Description: "d", MIME: "x/y", Size: 9},
				{Type: atlas.ContentResourceLink, URI: "u:4"},
			}},
			atlas.ReadsPrivate,
			`{"_meta":{"atlas/request_id":"r","atlas/reads":"private"},"content":[{"type":"text","text":"a\u2028<"},{"type":"image","data":"AQI=","mimeType":"image/png"},` +
				`{"type":"audio","data":"Aw==","mimeType":"audio/wav"},{"type":"resource","resource":{"uri":"u:1","mimeType":"text/plain","text":"t"}},{"type":"resource","resource":{"uri":"u:2","blob":""}},` +
				`{"type":"resource_link","uri":"u:3","name":"n","title":"T","description":"d","mimeType":"x/y","size":9},{"type":"resource_link","uri":"u:4","name":"u:4"}]}`,
		},
		{
			"content and structured", older,
			atlas.Result{Structured: json.RawMessage(`{"a":1}`), Content: []atlas.Content{{Type: atlas.ContentText, Text: "one"}}},
			atlas.ReadsPrivate,
			`{"_meta":{"atlas/request_id":"r","atlas/reads":"private"},"content":[{"type":"text","text":"one"}],"structuredContent":{"a":1}}`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := decode(t, tt.d.AppendCallResult(nil, &tt.res, tt.reads, "r"))
			if diff := cmp.Diff(object(t, tt.want), got); diff != "" {
				t.Error("(-want +got):", diff)
			}
		})
	}
}

// What a tool breaks is a failure of its own call, and leaves no half of an answer.
func TestBrokenAnswerIsAFailure(t *testing.T) {
	for _, broken := range []string{`{"a"`, `{} {}`, "{\"a\":\"\xff\"}", `{"secret":"half`, "\n"} {
		raw := newer.AppendCallResult([]byte("before"), &atlas.Result{Structured: json.RawMessage(broken)}, atlas.ReadsPrivate, "r")
		rest, ok := strings.CutPrefix(string(raw), "before")
		got := decode(t, []byte(rest))
		if !ok || got["isError"] != true || got["structuredContent"].(map[string]any)["code"] != "internal_error" || strings.Contains(rest, "secret") {
			t.Errorf("%q: %s", broken, raw)
		}
	}
}

// A failure written by hand is what encoding/json makes of it.
func TestFailureIsItsOwnJSON(t *testing.T) {
	codes := slices.Sorted(maps.Keys(atlas.Codes))
	rapid.Check(t, func(rt *rapid.T) {
		e := &atlas.Error{
			Code: rapid.SampledFrom(append(codes, "made_up")).Draw(rt, "code"), Hint: rapid.String().Draw(rt, "hint"),
			RetryAfter: time.Duration(rapid.Int64Range(0, 1e12).Draw(rt, "after")), Err: errors.New("secret"),
		}
		if rapid.Bool().Draw(rt, "context") {
			e.Context = map[string]any{"limit": rapid.Int().Draw(rt, "limit"), "names": []string{rapid.String().Draw(rt, "name")}}
		}
		raw := message.AppendFailure(nil, e, "req_1")
		want, err := json.Marshal(e.Failure("req_1"))
		if err != nil {
			rt.Fatal(err)
		}
		if diff := cmp.Diff(object(t, string(want)), decode(t, raw)); diff != "" {
			rt.Error("(-want +got):", diff)
		}
		if strings.Contains(string(raw), "secret") && !strings.Contains(e.Hint, "secret") {
			rt.Errorf("the cause is told: %s", raw)
		}
		res := decode(t, older.AppendFailedCall(nil, e, "req_1"))
		text := res["content"].([]any)[0].(map[string]any)["text"].(string)
		_, body, ok := strings.Cut(text, "\n")
		if strings.Contains(e.Failure("").Hint, "\n") {
			return
		}
		if !ok || res["isError"] != true || !cmp.Equal(object(t, body), res["structuredContent"]) || !strings.HasPrefix(text, string(e.Failure("").Code)+": ") {
			rt.Errorf("text %q", text)
		}
	})
	raw := message.AppendFailure(nil, &atlas.Error{Code: atlas.CodeInternal, Context: map[string]any{"f": func() {}}}, "r")
	if m := decode(t, raw); m["context"] != nil || m["request_id"] != "r" {
		t.Errorf("a context that is no JSON: %s", raw)
	}
}

func TestAsk(t *testing.T) {
	ask := &atlas.Ask{State: []byte("sealed"), Requests: map[string]atlas.ClientRequest{
		"b": {Method: message.MethodRoots}, "a": {Method: message.MethodElicit, Params: json.RawMessage("{\n\"message\":\"?\"}")},
	}}
	got := decode(t, newer.AppendAsk(nil, ask, "r"))
	delete(got, "_meta")
	want := object(t, `{"resultType":"input_required","requestState":"sealed","inputRequests":{"a":{"method":"elicitation/create","params":{"message":"?"}},"b":{"method":"roots/list","params":{}}}}`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error("(-want +got):", diff)
	}
	again := decode(t, newer.AppendAsk(nil, &atlas.Ask{}, "r"))
	if again["requestState"] != nil || len(again["inputRequests"].(map[string]any)) != 0 {
		t.Errorf("call again: %v", again)
	}
	req := decode(t, message.AppendRequest(nil, "id", ask.Requests["a"]))
	if diff := cmp.Diff(object(t, `{"jsonrpc":"2.0","id":"id","method":"elicitation/create","params":{"message":"?"}}`), req); diff != "" {
		t.Error("(-want +got):", diff)
	}
}

func TestMissingCapabilities(t *testing.T) {
	elicit := atlas.ClientRequest{Method: message.MethodElicit, Params: json.RawMessage(`{"mode":"form"}`)}
	url := atlas.ClientRequest{Method: message.MethodElicit, Params: json.RawMessage(`{"mode":"url"}`)}
	for _, tt := range []struct {
		requests []atlas.ClientRequest
		client   atlas.Client
		want     []string
		data     string
	}{
		{nil, atlas.Client{}, nil, `{}`},
		{[]atlas.ClientRequest{elicit}, atlas.Client{Elicit: true}, nil, `{}`},
		{[]atlas.ClientRequest{elicit}, atlas.Client{ElicitURL: true}, []string{"elicitation"}, `{"elicitation":{}}`},
		{[]atlas.ClientRequest{url}, atlas.Client{Elicit: true}, []string{"elicitation.url"}, `{"elicitation":{"url":{}}}`},
		{[]atlas.ClientRequest{url, elicit, elicit}, atlas.Client{}, []string{"elicitation", "elicitation.url"}, `{"elicitation":{"form":{},"url":{}}}`},
		{[]atlas.ClientRequest{{Method: message.MethodSample}, {Method: message.MethodRoots}}, atlas.Client{}, []string{"roots", "sampling"}, `{"roots":{},"sampling":{}}`},
	} {
		ask := &atlas.Ask{Requests: map[string]atlas.ClientRequest{}}
		for i, r := range tt.requests {
			ask.Requests[string(rune('a'+i))] = r
		}
		got := message.Missing(ask, tt.client)
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%v for %+v (-want +got): %s", tt.requests, tt.client, diff)
		}
		e := message.ErrorOf(message.MissingCapability(got), &atlas.Call{ID: "r"})
		if e.Code != -32021 || e.HTTPStatus(true) != 400 || string(e.Data) != `{"requiredCapabilities":`+tt.data+`}` {
			t.Errorf("%v: %d %s", got, e.Code, e.Data)
		}
	}
	e := message.ErrorOf(message.MissingCapability([]string{message.CanTasks}), &atlas.Call{})
	if string(e.Data) != `{"requiredCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}}` {
		t.Errorf("tasks: %s", e.Data)
	}
}

func TestErrorsOfTheProtocol(t *testing.T) {
	for _, tt := range []struct {
		code           atlas.Code
		kind           atlas.Kind
		rpc            int // 0: a result
		modern, legacy int // status
	}{
		{atlas.CodeToolNotFound, atlas.KindTool, -32602, 400, 200},
		{atlas.CodeToolNotFound, atlas.KindPrompt, -32602, 400, 200},
		{atlas.CodeToolNotFound, atlas.KindResource, -32602, 400, 200},
		{atlas.CodeInvalidState, atlas.KindTool, -32602, 400, 200},
		{atlas.CodeMissingCapability, atlas.KindTool, -32021, 400, 200},
		{atlas.CodeInsufficientScope, atlas.KindTool, 403, 403, 403},
		{atlas.CodeNotAuthorized, atlas.KindTool, 0, 0, 0},
		{atlas.CodeRateLimited, atlas.KindTool, 0, 0, 0},
		{atlas.CodeInvalidArguments, atlas.KindTool, 0, 0, 0},
	} {
		e := message.ErrorOf(atlas.Errorf(tt.code, errors.New("secret"), ""), &atlas.Call{ID: "r", Kind: tt.kind})
		switch {
		case tt.rpc == 0 && e != nil:
			t.Errorf("%s is %v, want a result", tt.code, e)
		case tt.rpc == 0:
		case e == nil || e.Code != tt.rpc || e.HTTPStatus(true) != tt.modern || e.HTTPStatus(false) != tt.legacy || strings.Contains(e.Message+string(e.Data), "secret"):
			t.Errorf("%s: %+v, status %d and %d", tt.code, e, e.HTTPStatus(true), e.HTTPStatus(false))
		}
	}
	if (&message.Error{Code: message.CodeMethodNotFound}).HTTPStatus(true) != http.StatusNotFound {
		t.Error("an unknown method is 404")
	}
	got := decode(t, message.AppendError(nil, nil, &message.Error{Code: -1, Message: "a\"b", Data: json.RawMessage(`{"c":1}`)}))
	if diff := cmp.Diff(object(t, `{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"a\"b","data":{"c":1}}}`), got); diff != "" {
		t.Error("(-want +got):", diff)
	}
}

func TestPromptReadAndTask(t *testing.T) {
	p := decode(t, newer.AppendPrompt(nil, "d", &atlas.Result{Content: []atlas.Content{{Type: atlas.ContentText, Text: "a", Role: "assistant"}, {Type: atlas.ContentText, Text: "b"}}}, atlas.ReadsPrivate, "r"))
	if diff := cmp.Diff(object(t, `{"m":[{"role":"assistant","content":{"type":"text","text":"a"}},{"role":"user","content":{"type":"text","text":"b"}}]}`)["m"], p["messages"]); diff != "" || p["description"] != "d" {
		t.Error("prompt (-want +got):", diff)
	}
	r := decode(t, newer.AppendRead(nil, "u:1", &atlas.Result{Structured: json.RawMessage(`{"a":1}`)}, atlas.ReadsPrivate, time.Second, "r"))
	if diff := cmp.Diff(object(t, `{"c":[{"uri":"u:1","mimeType":"application/json","text":"{\"a\":1}"}]}`)["c"], r["contents"]); diff != "" || r["cacheScope"] != "private" || r["ttlMs"] != 1000. {
		t.Error("read (-want +got):", diff)
	}
	k := decode(t, newer.AppendTask(nil, []byte(`{"taskId":"x"}`), "r"))
	if k["resultType"] != "task" || k["taskId"] != "x" {
		t.Errorf("task %v", k)
	}
	decode(t, newer.AppendTask(nil, []byte(`{}`), "r"))
	if l := decode(t, message.AppendLink(nil, &atlas.Content{URI: "u:1", Name: "n"})); l["uri"] != "u:1" || l["name"] != "n" {
		t.Errorf("link %v", l)
	}
}

// A string written by hand is what encoding/json makes of it.
func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "a\"\\/\b\f\n\r\t\x00\x1f\x7f", "é😀\u2028", "\xff\xfe", "a\xed\xa0\x80b", "\xf0\x9f\x98"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var want, got, bytes string
		if err := json.Unmarshal(ref, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(message.AppendString(nil, s), &got); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(message.AppendString(nil, []byte(s)), &bytes); err != nil {
			t.Fatal(err)
		}
		if got != want || bytes != want {
			t.Errorf("%q: %q and %q, want %q", s, got, bytes, want)
		}
	})
}

// Whatever a tool answers, a result is one JSON text on one line: a stream of events cannot be split
// by it.
func FuzzCallResultIsOneLine(f *testing.F) {
	for _, s := range []string{`{"a":1}`, "{\n}", "{\"a\":\"\\u2028\u2028\"}", "data: x\n\n", "[1, \t2]", `"\\"`, "\r", `{"a":" \" "}`} {
		f.Add([]byte(s), s)
	}
	f.Fuzz(func(t *testing.T, structured []byte, text string) {
		res := atlas.Result{Structured: structured, Content: []atlas.Content{{Type: atlas.ContentText, Text: text, URI: text, Name: text}, {Type: atlas.ContentResourceLink, URI: text, Title: text}}}
		raw := newer.AppendCallResult(nil, &res, atlas.ReadsPrivate, "r")
		m := decode(t, raw)
		if len(structured) > 0 && m["isError"] == nil {
			if !json.Valid(structured) {
				t.Fatalf("%q was sent on", structured)
			}
			var sent struct{ StructuredContent json.RawMessage }
			if err := json.Unmarshal(raw, &sent); err != nil {
				t.Fatal(err)
			}
			var want bytes.Buffer
			if err := json.Compact(&want, structured); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want.String(), string(sent.StructuredContent)); diff != "" {
				t.Error("(-want +got):", diff)
			}
		}
	})
}
