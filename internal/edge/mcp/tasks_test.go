package mcp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
	"github.com/atlas-mcp/atlas/internal/edge/mcp"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
	"github.com/atlas-mcp/atlas/internal/state"
	"github.com/atlas-mcp/atlas/internal/state/memory"
)

const tasksCapability = `"io.modelcontextprotocol/clientCapabilities":{"elicitation":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}`

// A taskHouse is a house with tools that are run as tasks.
type taskHouse struct {
	*house
	stopped chan struct{} // closed when the tool hangs was told to stop
}

func newTaskHouse(t *testing.T, cfg mcp.Config) *taskHouse {
	t.Helper()
	th := &taskHouse{stopped: make(chan struct{})}
	always := atlas.TaskSpec{Timeout: time.Minute, Required: true}
	tools := []*atlas.Tool{
		{Name: "quick", Reads: atlas.ReadsPrivate, Task: always, Run: whoami},
		{Name: "sometimes", Task: atlas.TaskSpec{Timeout: time.Minute}, Run: whoami},
		{Name: "hangs", Task: always, Run: func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
			<-ctx.Done()
			close(th.stopped)
			return atlas.Result{}, ctx.Err()
		}},
		{Name: "asks", Task: always, Run: func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
			if call.Reply == nil {
				return atlas.Result{Ask: &atlas.Ask{Requests: map[string]atlas.ClientRequest{
					"a": {Method: "elicitation/create"}, "b": {Method: "elicitation/create"},
				}}}, nil
			}
			b, err := json.Marshal(call.Reply.Answers)
			return atlas.Result{Structured: b}, err
		}},
		{Name: "breaks", Task: always, Run: func(context.Context, atlas.Call) (atlas.Result, error) { panic("secret cause") }},
		{Name: "fails", Task: always, Run: func(context.Context, atlas.Call) (atlas.Result, error) {
			return atlas.Result{}, atlas.Errorf(atlas.CodeInvalidQuery, nil, "")
		}},
		{Name: "hidden", Task: always, Scopes: []string{"tool:secret:read"}, Run: whoami},
	}
	store, err := memory.New(state.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	th.house = newHouse(t, options{cfg: cfg, deps: func(d *mcp.Deps) {
		d.Tasks, err = tasks.New(tasks.Config{}, tasks.Deps{Handler: d.Handler, Store: store, Tool: func(c atlas.Call) (*atlas.Tool, bool) {
			for _, tl := range tools {
				if tl.Name == c.Name {
					return tl, c.Principal.HasScopes(tl.Scopes)
				}
			}
			return nil, false
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Tasks.Close)
	}})
	th.setTools(append(testTools(), tools...)...)
	return th
}

// A reply is what comes back for one message.
type reply struct {
	status int
	Result map[string]any `json:"result"`
	Error  *struct {
		Code    int            `json:"code"`
		Message string         `json:"message"`
		Data    map[string]any `json:"data"`
	} `json:"error"`
}

// say sends a message of the newer era, with the capability and the Mcp-Name that its method needs.
func (th *taskHouse) say(t *testing.T, token, method, params string) reply {
	t.Helper()
	body := strings.Replace(message(modern, method, params, ""), `"io.modelcontextprotocol/clientCapabilities":{}`, tasksCapability, 1)
	return th.sayBody(t, token, body, "")
}

func (th *taskHouse) sayBody(t *testing.T, token, body, name string) reply {
	t.Helper()
	var msg struct{ Params struct{ TaskID string } }
	if err := json.Unmarshal([]byte(body), &msg); err != nil {
		t.Fatal(err)
	}
	if name == "" {
		name = msg.Params.TaskID
	}
	var r reply
	status, _, raw := th.post(t, modern, token, body, func(req *http.Request) {
		if name != "" {
			req.Header.Set("Mcp-Name", name)
		}
	})
	if err := json.Unmarshal([]byte(raw), &r); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	r.status = status
	return r
}

func taskID(id string) string { return fmt.Sprintf(`"taskId":%q`, id) }

func (th *taskHouse) begin(t *testing.T, token, tool string) string {
	t.Helper()
	r := th.say(t, token, "tools/call", fmt.Sprintf(`"name":%q`, tool))
	id, _ := r.Result["taskId"].(string)
	if r.Result["resultType"] != "task" || id == "" {
		t.Fatalf("%s is no task: %+v", tool, r)
	}
	return id
}

// end polls until the task has a status other than working.
func (th *taskHouse) end(t *testing.T, token, id string) (state map[string]any) {
	t.Helper()
	eventually(t, "the task changes", func() bool {
		state = th.say(t, token, "tasks/get", taskID(id)).Result
		return state["status"] != "working"
	})
	return state
}

func TestTaskOverHTTP(t *testing.T) {
	th := newTaskHouse(t, mcp.Config{})
	tok := th.token(t, issuer.Claims{Subject: "ann", Tenant: "acme"})
	for _, tc := range []struct{ tool, status, member, holds string }{
		{"quick", "completed", "result", `"subject":"ann","tenant":"acme"`},
		{"fails", "completed", "result", `"isError":true`},
		{"breaks", "failed", "error", `"code":-32603`},
	} {
		state := th.end(t, tok, th.begin(t, tok, tc.tool))
		raw, err := json.Marshal(state[tc.member])
		if err != nil {
			t.Fatal(err)
		}
		if state["resultType"] != "complete" || state["status"] != tc.status || !strings.Contains(string(raw), tc.holds) || strings.Contains(string(raw), "secret") {
			t.Errorf("%s: %v", tc.tool, state)
		}
		if tc.status == "completed" && !strings.Contains(string(raw), `"resultType":"complete"`) {
			t.Errorf("%s: the inner result is not like a direct one: %s", tc.tool, raw)
		}
	}
	if r := th.say(t, tok, "server/discover", ""); fmt.Sprint(r.Result["capabilities"].(map[string]any)["extensions"]) != "map[io.modelcontextprotocol/tasks:map[]]" {
		t.Errorf("discover: %v", r.Result)
	}
}

func TestTaskAsksOverHTTP(t *testing.T) {
	th := newTaskHouse(t, mcp.Config{})
	tok := th.token(t, issuer.Claims{Subject: "ann", Tenant: "acme"})
	id := th.begin(t, tok, "asks")
	asks := th.end(t, tok, id)
	if asks["status"] != "input_required" || len(asks["inputRequests"].(map[string]any)) != 2 {
		t.Fatalf("%v", asks)
	}
	update := func(answers string) {
		t.Helper()
		r := th.say(t, tok, "tasks/update", taskID(id)+`,"inputResponses":`+answers)
		delete(r.Result, "_meta")
		if diff := cmp.Diff(map[string]any{"resultType": "complete"}, r.Result); diff != "" {
			t.Errorf("acknowledgement %+v:\n%s", r, diff)
		}
	}
	update(`{"b.1":{"action":"accept"}}`)
	if left := th.end(t, tok, id)["inputRequests"].(map[string]any); len(left) != 1 || left["a.1"] == nil {
		t.Errorf("left %v", left)
	}
	update(`{"a.1":{"action":"decline"}}`)
	state := th.end(t, tok, id)
	want := map[string]any{"a": map[string]any{"action": "decline"}, "b": map[string]any{"action": "accept"}}
	if diff := cmp.Diff(want, state["result"].(map[string]any)["structuredContent"]); diff != "" {
		t.Errorf("%v:\n%s", state, diff)
	}
}

func TestTaskCancelOverHTTP(t *testing.T) {
	th := newTaskHouse(t, mcp.Config{})
	tok := th.token(t, issuer.Claims{Subject: "ann", Tenant: "acme"})
	id := th.begin(t, tok, "hangs")
	for range 2 {
		r := th.say(t, tok, "tasks/cancel", taskID(id))
		delete(r.Result, "_meta")
		if diff := cmp.Diff(map[string]any{"resultType": "complete"}, r.Result); diff != "" {
			t.Errorf("acknowledgement %+v:\n%s", r, diff)
		}
	}
	<-th.stopped
	if state := th.end(t, tok, id); state["status"] != "cancelled" || state["result"] != nil {
		t.Errorf("%v", state)
	}
}

// To everybody but its caller a task is what no task is, to the byte.
func TestForeignTasksLookLikeNone(t *testing.T) {
	th := newTaskHouse(t, mcp.Config{})
	ann := th.token(t, issuer.Claims{Subject: "ann", Tenant: "acme"})
	id := th.begin(t, ann, "asks")
	th.end(t, ann, id)
	for name, claims := range map[string]issuer.Claims{
		"another subject": {Subject: "bob", Tenant: "acme"},
		"another tenant":  {Subject: "ann", Tenant: "globex"},
	} {
		tok := th.token(t, claims)
		for _, method := range []string{"tasks/get", "tasks/update", "tasks/cancel"} {
			params := `,"inputResponses":{"a.1":{},"b.1":{}}`
			theirs := th.say(t, tok, method, taskID(id)+params)
			nobodys := th.say(t, tok, method, taskID("NOSUCHTASK")+params)
			if diff := cmp.Diff(theirs, nobodys, cmp.AllowUnexported(reply{})); diff != "" {
				t.Errorf("%s, %s differ:\n%s", name, method, diff)
			}
			if theirs.Error == nil || theirs.Error.Code != -32602 {
				t.Errorf("%s, %s: %+v", name, method, theirs)
			}
		}
	}
	if state := th.end(t, ann, id); state["status"] != "input_required" || len(state["inputRequests"].(map[string]any)) != 2 {
		t.Errorf("a stranger changed it: %v", state)
	}
}

func TestTasksAreNegotiated(t *testing.T) {
	th := newTaskHouse(t, mcp.Config{})
	tok := th.token(t, issuer.Claims{Subject: "ann", Tenant: "acme"})
	id := th.begin(t, tok, "quick")
	for name, tc := range map[string]struct {
		body, header string
		code         int
	}{
		"get, undeclared":              {body: message(modern, "tasks/get", taskID(id), ""), code: -32021},
		"update, undeclared":           {body: message(modern, "tasks/update", taskID(id), ""), code: -32021},
		"cancel, undeclared":           {body: message(modern, "tasks/cancel", taskID(id), ""), code: -32021},
		"required, undeclared":         {body: message(modern, "tools/call", `"name":"quick"`, ""), code: -32021},
		"hidden and required":          {body: message(modern, "tools/call", `"name":"hidden"`, ""), code: -32602},
		"another id in the header":     {body: message(modern, "tasks/get", taskID(id), ""), header: "other", code: -32020},
		"a list, which there is not":   {body: message(modern, "tasks/list", "", ""), code: -32601},
		"a result, which there is not": {body: message(modern, "tasks/result", taskID(id), ""), code: -32601},
		"an id that is none":           {body: strings.Replace(message(modern, "tasks/get", `"taskId":"x"`, ""), `"io.modelcontextprotocol/clientCapabilities":{}`, tasksCapability, 1), code: -32602},
		"sometimes a task, undeclared": {body: message(modern, "tools/call", `"name":"sometimes"`, "")},
		"sometimes a task, old member": {body: message(modern, "tools/call", `"name":"echo","task":{"ttl":60000}`, "")},
	} {
		r := th.sayBody(t, tok, tc.body, tc.header)
		switch {
		case tc.code == 0 && (r.Error != nil || r.Result["resultType"] != "complete" || r.Result["taskId"] != nil):
			t.Errorf("%s: %+v", name, r)
		case tc.code != 0 && (r.Error == nil || r.Error.Code != tc.code):
			t.Errorf("%s: %+v %+v, want %d", name, r.Error, r.Result, tc.code)
		case tc.code == -32021:
			want := map[string]any{"requiredCapabilities": map[string]any{"extensions": map[string]any{"io.modelcontextprotocol/tasks": map[string]any{}}}}
			if diff := cmp.Diff(want, r.Error.Data); diff != "" || r.status != http.StatusBadRequest {
				t.Errorf("%s: status %d, data:\n%s", name, r.status, diff)
			}
		}
	}
	// The older era had other tasks; its clients know nothing of these.
	_, _, body := th.post(t, legacy, tok, message(legacy, "tasks/get", taskID(id), ""), nil)
	if !strings.Contains(body, "-32601") {
		t.Errorf("older era: %s", body)
	}
	_, _, body = th.post(t, legacy, tok, message(legacy, "tools/call", `"name":"sometimes"`, ""), nil)
	if strings.Contains(body, "taskId") || !strings.Contains(body, `"structuredContent"`) {
		t.Errorf("older era: %s", body)
	}
}

// Whoever reads a task needs a token that is good now, and as good as the one that began it.
func TestTaskNeedsAGoodToken(t *testing.T) {
	th := newTaskHouse(t, mcp.Config{})
	claims := issuer.Claims{Subject: "ann", Tenant: "acme", Scopes: []string{"tool:secret:read"}}
	tok := th.token(t, claims)
	id := th.begin(t, tok, "hidden")
	if state := th.end(t, tok, id); state["status"] != "completed" {
		t.Fatalf("%v", state)
	}
	claims.Scopes = nil
	if r := th.say(t, th.token(t, claims), "tasks/get", taskID(id)); r.Error == nil || r.Error.Code != -32602 {
		t.Errorf("a narrower token reads %+v", r)
	}
	status, _, body := th.post(t, modern, tok+"x", message(modern, "tasks/get", taskID(id), ""), nil)
	if status != http.StatusUnauthorized || strings.Contains(body, "acme") {
		t.Errorf("a forged token: %d %s", status, body)
	}
}

// A server that stops ends its tasks, and says so.
func TestStopEndsTasks(t *testing.T) {
	th := newTaskHouse(t, mcp.Config{DrainTimeout: 10 * time.Millisecond})
	_, stop := serve(t, th.house)
	tok := th.token(t, issuer.Claims{Subject: "ann", Tenant: "acme"})
	running, done := th.begin(t, tok, "hangs"), th.begin(t, tok, "quick")
	th.end(t, tok, done)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	<-th.stopped
	if state := th.end(t, tok, running); state["status"] != "failed" || state["error"] == nil {
		t.Errorf("%v", state)
	}
	if state := th.end(t, tok, done); state["status"] != "completed" {
		t.Errorf("%v", state)
	}
}
