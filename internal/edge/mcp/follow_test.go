package mcp_test

import (
	"context"
	"encoding/json"
	"fmt"
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

// withTasks returns a house with a tool that is only run as a task, and ends when release is closed.
func withTasks(t *testing.T) (h *house, release chan struct{}) {
	t.Helper()
	store, err := memory.New(state.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	release = make(chan struct{})
	slow := &atlas.Tool{
		Name: "slow", Task: atlas.TaskSpec{Timeout: time.Minute, Required: true},
		Run: func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
			select {
			case <-release:
			case <-ctx.Done():
				return atlas.Result{}, ctx.Err()
			}
			return atlas.Result{Structured: json.RawMessage(fmt.Sprintf(`{"tenant":%q,"n":12345678901234567890}`, call.Tenant))}, nil
		},
	}
	var manager *tasks.Manager
	h = newHouse(t, options{deps: func(d *mcp.Deps) {
		manager, err = tasks.New(tasks.Config{}, tasks.Deps{
			Handler: d.Handler, Store: store,
			Tool: func(c atlas.Call) (*atlas.Tool, bool) { return slow, c.Name == slow.Name },
		})
		if err != nil {
			t.Fatal(err)
		}
		d.Tasks = manager
	}})
	h.setTools(append(newLibrary().tools(), slow)...)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- manager.Run(ctx) }()
	t.Cleanup(func() {
		manager.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return h, release
}

// withCapability is message of the newer era from a client that can follow tasks.
func withCapability(method, params string) string {
	return strings.Replace(message(modern, method, params, ""), `clientCapabilities":{}`, `clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}`, 1)
}

// begin begins a task.
func (h *house) beginTask(t *testing.T, tok string) string {
	t.Helper()
	_, _, body := h.post(t, modern, tok, withCapability("tools/call", `"name":"slow"`), nil)
	var msg struct {
		Result struct{ ResultType, TaskID string }
	}
	if err := json.Unmarshal([]byte(body), &msg); err != nil || msg.Result.ResultType != "task" || msg.Result.TaskID == "" {
		t.Fatalf("no task: %s", body)
	}
	return msg.Result.TaskID
}

// A subscription to tasks is told of the caller's own, and of nobody else's, and how they end.
func TestTasksAreFollowed(t *testing.T) {
	h, release := withTasks(t)
	ann, bea, gus := h.token(t, acme), h.token(t, issuer.Claims{Subject: "bea"}), h.token(t, globex)
	mine, beas, guss := h.beginTask(t, ann), h.beginTask(t, bea), h.beginTask(t, gus)
	asks := fmt.Sprintf(`"notifications":{"taskIds":[%q,%q,%q,"task_never"]}`, beas, mine, guss)

	s := h.subscribeBody(t, ann, withCapability("subscriptions/listen", asks))
	var granted struct{ TaskIDs []string }
	if err := json.Unmarshal(s.next().Params.Notifications, &granted); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{mine}, granted.TaskIDs); diff != "" {
		t.Error("granted (-want +got):", diff)
	}
	if m := s.next(); m.Method != "notifications/tasks" || m.Params.TaskID != mine || m.Params.Status != "working" || m.Params.Meta[subscriptionID] != 7. {
		t.Errorf("told first %+v", m)
	}
	close(release)
	m := s.next()
	for ; m.Params.Status == "working"; m = s.next() { // it may have changed in between
		if m.Params.TaskID != mine {
			t.Errorf("told of another's %+v", m)
		}
	}
	if m.Params.TaskID != mine || m.Params.Status != "completed" || !strings.Contains(string(m.Params.Result), `"tenant":"acme"`) || !strings.Contains(string(m.Params.Result), "12345678901234567890") {
		t.Errorf("told last %+v %s", m, m.Params.Result)
	}

	// Others' tasks, and nobody's, are nothing to listen to, alike.
	answers := make(map[string]bool)
	for _, id := range []string{mine, "task_never"} {
		_, _, body := h.post(t, modern, gus, withCapability("subscriptions/listen", fmt.Sprintf(`"notifications":{"taskIds":[%q]}`, id)), nil)
		answers[body] = true
		if strings.Contains(body, "taskIds") || !strings.Contains(body, `"result":`) {
			t.Errorf("%s: %s", id, body)
		}
	}
	if len(answers) != 1 {
		t.Errorf("answers differ: %v", answers)
	}
	// Who did not say that he can follow tasks may not.
	_, _, body := h.post(t, modern, ann, message(modern, "subscriptions/listen", asks, ""), nil)
	if !strings.Contains(body, `"code":-32021`) || !strings.Contains(body, "io.modelcontextprotocol/tasks") {
		t.Errorf("without the capability: %s", body)
	}
}

func TestTasksAreFollowedOnStdio(t *testing.T) {
	h, release := withTasks(t)
	c := h.console(t, operator)
	c.send(withCapability("tools/call", `"name":"slow"`))
	id, _ := c.next().Result["taskId"].(string)
	if id == "" {
		t.Fatal(c.out.Text())
	}
	c.send(strings.Replace(withCapability("subscriptions/listen", fmt.Sprintf(`"notifications":{"taskIds":[%q]}`, id)), `"id":7`, `"id":"sub"`, 1))
	if c.next(); !strings.Contains(c.out.Text(), `"taskIds":["`+id+`"]`) {
		t.Fatal(c.out.Text())
	}
	if m := c.next(); m.Method != "notifications/tasks" || m.Params.Meta[subscriptionID] != "sub" || !strings.Contains(c.out.Text(), `"working"`) {
		t.Errorf("told first %s", c.out.Text())
	}
	close(release)
	for c.next(); strings.Contains(c.out.Text(), `"working"`); c.next() {
	}
	if !strings.Contains(c.out.Text(), `"completed"`) || !strings.Contains(c.out.Text(), id) {
		t.Errorf("told last %s", c.out.Text())
	}
	c.hangUp()
}
