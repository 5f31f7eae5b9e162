package tasks_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
	"github.com/atlas-mcp/atlas/internal/state"
	"github.com/atlas-mcp/atlas/internal/state/memory"
)

// A bench is one store, the tools that everybody may see, and what runs of them were begun.
type bench struct {
	t     *testing.T
	store tasks.Store

	mu    sync.Mutex // guards what follows
	tools map[string]*atlas.Tool
	ran   map[string]int

	closed    error    // what the flood gate says
	cancelled []string // by whom, and which
}

func newBench(t *testing.T, tools ...*atlas.Tool) *bench {
	t.Helper()
	store, err := memory.New(state.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{t: t, store: store, tools: map[string]*atlas.Tool{}, ran: map[string]int{}}
	for _, tl := range tools {
		b.tools[tl.Name] = tl
	}
	return b
}

// manager returns a manager over the bench's store: a process of its own.
func (b *bench) manager(cfg tasks.Config) *tasks.Manager {
	b.t.Helper()
	m, err := tasks.New(cfg, tasks.Deps{
		Handler: b.handle,
		Store:   b.store,
		Tool: func(c atlas.Call) (*atlas.Tool, bool) {
			tl := b.tool(c.Name)
			return tl, tl != nil && c.Principal.HasScopes(tl.Scopes)
		},
		Admit: func(context.Context, atlas.Call) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.closed
		},
		Cancelled: func(_ context.Context, c atlas.Call, id string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.cancelled = append(b.cancelled, c.Principal.Subject+" "+id)
		},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return m
}

// serve returns a manager that is kept in order until the test ends.
func (b *bench) serve(cfg tasks.Config) *tasks.Manager {
	b.t.Helper()
	m := b.manager(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- m.Run(ctx) }()
	b.t.Cleanup(func() {
		m.Close()
		cancel()
		if err := <-ended; err != nil {
			b.t.Error(err)
		}
	})
	return m
}

// handle stands for the pipeline: it refuses what the edge found wrong, hides what may not be seen,
// gives a task its time and runs the tool.
func (b *bench) handle(ctx context.Context, c atlas.Call) (atlas.Result, error) {
	if c.Fault != nil {
		return atlas.Result{}, c.Fault
	}
	tl := b.tool(c.Name)
	if tl == nil || !c.Principal.HasScopes(tl.Scopes) {
		return atlas.Result{}, atlas.Errorf(atlas.CodeToolNotFound, nil, "")
	}
	b.mu.Lock()
	b.ran[c.Name]++
	b.mu.Unlock()
	c.Tool = tl
	limit := tl.Timeout
	if c.Task {
		limit = tl.Task.Timeout
	}
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	return tl.Run(ctx, c)
}

func (b *bench) tool(name string) *atlas.Tool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tools[name]
}

func (b *bench) replace(tl *atlas.Tool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tools[tl.Name] = tl
}

func (b *bench) runs(name string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ran[name]
}

// told returns what is in a task's result or error, without what every one of them has.
func told(t *testing.T, task tasks.Task) string {
	t.Helper()
	if len(task.Error) > 0 {
		var e struct {
			Code    int
			Message string
		}
		if err := json.Unmarshal(task.Error, &e); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(`%d %s`, e.Code, e.Message)
	}
	if len(task.Result) == 0 {
		return ""
	}
	var r struct {
		ResultType string          `json:"resultType"`
		Content    []any           `json:"content"`
		Structured json.RawMessage `json:"structuredContent"`
		IsError    bool            `json:"isError"`
	}
	if err := json.Unmarshal(task.Result, &r); err != nil {
		t.Fatal(err)
	}
	if r.ResultType != "complete" || len(r.Content) == 0 {
		t.Errorf("result %s", task.Result)
	}
	if r.IsError {
		var f atlas.Failure
		if err := json.Unmarshal(r.Structured, &f); err != nil {
			t.Fatal(err)
		}
		return string(f.Code)
	}
	return string(r.Structured)
}

// taking returns a tool whose runs take d, or less if they are cut.
func taking(name string, spec atlas.TaskSpec, d time.Duration) *atlas.Tool {
	return &atlas.Tool{Name: name, Task: spec, Timeout: 5 * time.Second, Run: func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
		if err := pause(ctx, d); err != nil {
			return atlas.Result{}, err
		}
		return say(c.Name)
	}}
}

func say(text string) (atlas.Result, error) {
	return atlas.Result{Structured: json.RawMessage(fmt.Sprintf(`{"said":%q}`, text))}, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func principal(tenant atlas.TenantID, subject string) *atlas.Principal {
	return &atlas.Principal{Subject: subject, Tenant: tenant, Issuer: "https://issuer.example", Scopes: []string{"tool:x:read"}}
}

var ann = principal("acme", "ann")

func callAs(p *atlas.Principal, name string) atlas.Call {
	return atlas.Call{
		ID: "req", Op: atlas.OpCall, Name: name, Principal: p, Tenant: p.Tenant, Transport: "http",
		Client: atlas.Client{Tasks: true, Elicit: true}, Received: time.Now(),
	}
}

// begin makes a task.
func begin(t *testing.T, m *tasks.Manager, c atlas.Call) *tasks.Task {
	t.Helper()
	ans, err := m.Call(t.Context(), c)
	if err != nil || ans.Task == nil {
		t.Fatalf("call %s: %+v, %v; want a task", c.Name, ans, err)
	}
	return ans.Task
}

func get(t *testing.T, m *tasks.Manager, p *atlas.Principal, id string) tasks.Task {
	t.Helper()
	task, err := m.Get(t.Context(), callAs(p, ""), id)
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	return task
}

// until polls as a client does, until the task has the status.
func until(t *testing.T, m *tasks.Manager, p *atlas.Principal, id string, want tasks.Status) tasks.Task {
	t.Helper()
	for range 1000 {
		task := get(t, m, p, id)
		if task.Status == want {
			return task
		}
		if task.Status.Final() {
			t.Fatalf("task ended %s: %+v; want %s", task.Status, task, want)
		}
		time.Sleep(100 * time.Millisecond) // a bubble's clock
	}
	t.Fatalf("task is not %s", want)
	return tasks.Task{}
}

var always = atlas.TaskSpec{Timeout: time.Minute, Required: true}

func TestTaskOutlastsItsCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, taking("slow", atlas.TaskSpec{After: time.Second, Timeout: time.Minute}, 30*time.Second))
		m := b.serve(tasks.Config{TTL: time.Hour, PollInterval: 2 * time.Second})
		start := time.Now()
		ctx, gone := context.WithCancel(t.Context())
		ans, err := m.Call(ctx, callAs(ann, "slow"))
		if err != nil || ans.Task == nil {
			t.Fatalf("%+v, %v", ans, err)
		}
		if d := time.Since(start); d != time.Second {
			t.Errorf("the handle took %v, want 1s", d)
		}
		gone() // the request ends with its answer
		h := *ans.Task
		want := tasks.Task{
			ID: h.ID, Status: tasks.Working, CreatedAt: h.CreatedAt, LastUpdatedAt: h.CreatedAt,
			TTLMs: (time.Hour + time.Minute).Milliseconds(), PollIntervalMs: 2000,
		}
		if diff := cmp.Diff(want, h); diff != "" || len(h.ID) < 22 {
			t.Errorf("handle %q (-want +got):\n%s", h.ID, diff)
		}
		if diff := cmp.Diff(want, get(t, m, ann, h.ID)); diff != "" {
			t.Errorf("at once (-want +got):\n%s", diff)
		}
		done := until(t, m, ann, h.ID, tasks.Completed)
		if d := done.LastUpdatedAt.Sub(start); d != 30*time.Second || told(t, done) != `{"said":"slow"}` {
			t.Errorf("ended after %v with %s", d, done.Result)
		}
		if n := b.runs("slow"); n != 1 {
			t.Errorf("ran %d times", n)
		}
	})
}

func TestWhoGetsATask(t *testing.T) {
	slow := 3 * time.Second
	for name, tc := range map[string]struct {
		spec   atlas.TaskSpec
		takes  time.Duration
		client atlas.Client
		edit   func(*atlas.Call)
		task   tasks.Status // empty: answered directly
		code   atlas.Code
	}{
		"ends in time":                  {spec: atlas.TaskSpec{After: 5 * time.Second, Timeout: time.Minute}, takes: slow, client: atlas.Client{Tasks: true}},
		"takes too long":                {spec: atlas.TaskSpec{After: time.Second, Timeout: time.Minute}, takes: slow, client: atlas.Client{Tasks: true}, task: tasks.Working},
		"at once":                       {spec: atlas.TaskSpec{Timeout: time.Minute}, client: atlas.Client{Tasks: true}, task: tasks.Working},
		"undeclared":                    {spec: atlas.TaskSpec{After: time.Second, Timeout: time.Minute}, takes: slow},
		"never a task":                  {spec: atlas.TaskSpec{After: time.Second}, takes: slow, client: atlas.Client{Tasks: true}},
		"required":                      {spec: always, takes: slow, client: atlas.Client{Tasks: true}, task: tasks.Working},
		"required, undeclared":          {spec: always, takes: slow, code: atlas.CodeMissingCapability},
		"required after a while":        {spec: atlas.TaskSpec{After: time.Second, Timeout: time.Minute, Required: true}, takes: slow, client: atlas.Client{Tasks: true}, task: tasks.Working},
		"required, ends within a while": {spec: atlas.TaskSpec{After: 5 * time.Second, Timeout: time.Minute, Required: true}, takes: slow, client: atlas.Client{Tasks: true}, task: tasks.Completed},
		"a fault of the request":        {spec: always, client: atlas.Client{Tasks: true}, edit: func(c *atlas.Call) { c.Fault = atlas.Errorf(atlas.CodeInvalidArguments, nil, "") }, code: atlas.CodeInvalidArguments},
		"the turn ends first":           {spec: atlas.TaskSpec{After: time.Minute, Timeout: time.Minute}, takes: slow, client: atlas.Client{Tasks: true}, edit: func(c *atlas.Call) { c.Budget.Total = 4 * time.Second }, task: tasks.Working},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, taking("x", tc.spec, tc.takes))
				m := b.serve(tasks.Config{})
				c := callAs(ann, "x")
				c.Client = tc.client
				if tc.edit != nil {
					tc.edit(&c)
				}
				ans, err := m.Call(t.Context(), c)
				if atlas.CodeOf(err) != tc.code {
					t.Fatalf("error %v, want code %q", err, tc.code)
				}
				if tc.code == atlas.CodeMissingCapability {
					if diff := cmp.Diff([]string{"tasks"}, atlas.ErrorOf(err).Context["required"]); diff != "" {
						t.Error(diff)
					}
					if b.runs("x") != 0 {
						t.Error("the tool ran")
					}
				}
				switch {
				case tc.task == "" && ans.Task != nil, tc.task != "" && (ans.Task == nil || ans.Task.Status != tc.task):
					t.Errorf("answer %+v, want a task that is %q", ans.Task, tc.task)
				case tc.task == tasks.Completed && ans.Task.Result != nil:
					t.Error("the handle holds the result")
				case tc.task != "":
					until(t, m, ann, ans.Task.ID, tasks.Completed)
				}
			})
		})
	}
}

// A hidden tool is answered as one that does not exist, whatever it declares.
func TestHiddenToolLooksLikeNone(t *testing.T) {
	hidden := taking("hidden", always, 0)
	hidden.Scopes = []string{"tool:hidden:read"}
	b := newBench(t, hidden)
	m := b.serve(tasks.Config{})
	for _, client := range []atlas.Client{{}, {Tasks: true}} {
		var got []string
		for _, name := range []string{"hidden", "nothing"} {
			c := callAs(ann, name)
			c.Client = client
			ans, err := m.Call(t.Context(), c)
			got = append(got, fmt.Sprint(ans, err))
		}
		if got[0] != got[1] || !strings.Contains(got[0], string(atlas.CodeToolNotFound)) {
			t.Errorf("client %+v: hidden %q, none %q", client, got[0], got[1])
		}
	}
}

func TestHowTasksEnd(t *testing.T) {
	fails := func(name string, err error) *atlas.Tool {
		return &atlas.Tool{Name: name, Task: always, Run: func(context.Context, atlas.Call) (atlas.Result, error) { return atlas.Result{}, err }}
	}
	for _, tc := range []struct {
		tool   *atlas.Tool
		status tasks.Status
		holds  string
	}{
		{taking("good", always, time.Second), tasks.Completed, `{"said":"good"}`},
		{fails("bad", atlas.Errorf(atlas.CodeInvalidQuery, errors.New("secret cause"), "")), tasks.Completed, `invalid_query`},
		{fails("broken", errors.New("secret cause")), tasks.Failed, `-32603 Internal error`},
		{taking("late", always, time.Hour), tasks.Completed, `timeout`},
		{
			&atlas.Tool{Name: "panics", Task: always, Run: func(context.Context, atlas.Call) (atlas.Result, error) { panic("secret cause") }},
			tasks.Failed, `-32603 Internal error`,
		},
		{
			&atlas.Tool{Name: "garbled", Task: always, Run: func(context.Context, atlas.Call) (atlas.Result, error) {
				return atlas.Result{Structured: json.RawMessage(`{"secret":`)}, nil
			}},
			tasks.Completed, `internal_error`,
		},
		{
			&atlas.Tool{Name: "asks garbled", Task: always, Run: func(context.Context, atlas.Call) (atlas.Result, error) {
				return atlas.Result{Ask: &atlas.Ask{Requests: map[string]atlas.ClientRequest{"x": {Params: json.RawMessage(`{"secret":`)}}}}, nil
			}},
			tasks.Failed, `-32603 Internal error`,
		},
		{
			&atlas.Tool{Name: "huge", Task: always, Run: func(context.Context, atlas.Call) (atlas.Result, error) { return say(strings.Repeat("x", 300<<10)) }},
			tasks.Completed, `too_large`,
		},
	} {
		t.Run(tc.tool.Name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newBench(t, tc.tool).serve(tasks.Config{})
				id := begin(t, m, callAs(ann, tc.tool.Name)).ID
				task := until(t, m, ann, id, tc.status)
				if got := told(t, task); got != tc.holds {
					t.Errorf("holds %s, want %s", got, tc.holds)
				}
				if all := fmt.Sprintf("%s%s%s", task.StatusMessage, task.Result, task.Error); strings.Contains(all, "secret") {
					t.Errorf("tells %s", all)
				}
			})
		})
	}
}

func TestCancelReachesTheTool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stopped := make(chan time.Time, 1)
		tl := &atlas.Tool{Name: "slow", Task: always, Run: func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
			<-ctx.Done()
			stopped <- time.Now()
			return say("too late")
		}}
		m := newBench(t, tl).serve(tasks.Config{})
		id := begin(t, m, callAs(ann, "slow")).ID
		start := time.Now()
		if err := m.Cancel(t.Context(), callAs(ann, ""), id); err != nil {
			t.Fatal(err)
		}
		if at := <-stopped; at != start {
			t.Errorf("the tool was told after %v", at.Sub(start))
		}
		synctest.Wait()
		if task := get(t, m, ann, id); task.Status != tasks.Cancelled || task.Result != nil {
			t.Errorf("%+v; want it cancelled, without a result", task)
		}
		if err := m.Cancel(t.Context(), callAs(ann, ""), id); err != nil {
			t.Errorf("again: %v", err)
		}
	})
}

// The client that goes away before it has a handle ends its call; nobody could follow it.
func TestCallEndsWithItsRequestUntilItIsATask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told := make(chan struct{})
		tl := &atlas.Tool{Name: "slow", Task: atlas.TaskSpec{After: time.Minute, Timeout: time.Hour}, Run: func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
			<-ctx.Done()
			close(told)
			return atlas.Result{}, ctx.Err()
		}}
		m := newBench(t, tl).serve(tasks.Config{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ans, err := m.Call(ctx, callAs(ann, "slow"))
		if ans.Task != nil || atlas.CodeOf(err) != atlas.CodeTimeout {
			t.Errorf("%+v, %v", ans, err)
		}
		<-told
	})
}

// Unknown capability and unknown task are told apart only for who could know.
func TestMethodsNeedTheCapability(t *testing.T) {
	m := newBench(t).serve(tasks.Config{})
	bare := callAs(ann, "")
	bare.Client.Tasks = false
	for _, call := range []atlas.Call{bare, callAs(ann, "")} {
		want := atlas.CodeNotFound
		if !call.Client.Tasks {
			want = atlas.CodeMissingCapability
		}
		for _, id := range []string{"", "nothing", strings.Repeat("x", 1000)} {
			_, err := m.Get(t.Context(), call, id)
			if atlas.CodeOf(err) != want {
				t.Errorf("get: %v, want %s", err, want)
			}
			if err := m.Update(t.Context(), call, id, nil); atlas.CodeOf(err) != want {
				t.Errorf("update: %v, want %s", err, want)
			}
			if err := m.Cancel(t.Context(), call, id); atlas.CodeOf(err) != want {
				t.Errorf("cancel: %v, want %s", err, want)
			}
		}
	}
	if _, _, err := m.Subscribe(t.Context(), bare, []string{"x"}); atlas.CodeOf(err) != atlas.CodeMissingCapability {
		t.Errorf("subscribe: %v", err)
	}
}

func TestConfig(t *testing.T) {
	if err := (tasks.Config{}).Validate(); err != nil {
		t.Errorf("zero: %v", err)
	}
	err := tasks.Config{TTL: -1, PollInterval: time.Hour, Lease: time.Millisecond, MaxResult: -1, MaxTasksTotal: -1}.Validate()
	for _, key := range []string{"ttl", "poll_interval", "lease", "max_result", "max_tasks_total"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%v does not name %s", err, key)
		}
	}
	if _, err := tasks.New(tasks.Config{}, tasks.Deps{}); err == nil {
		t.Error("made without anything")
	}
}

// The methods of tasks are no calls of the pipeline: the flood gate stands before them, and what a
// caller ends is told to the audit log.
func TestMethodsAreAdmittedAndCancelsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, asking("one", always, 1, "name"))
		m := b.serve(tasks.Config{})
		id := begin(t, m, callAs(ann, "one")).ID
		until(t, m, ann, id, tasks.InputRequired)
		b.mu.Lock()
		b.closed = atlas.Errorf(atlas.CodeRateLimited, nil, "")
		b.mu.Unlock()
		_, get := m.Get(t.Context(), callAs(ann, ""), id)
		for name, err := range map[string]error{
			"get": get, "update": m.Update(t.Context(), callAs(ann, ""), id, nil), "cancel": m.Cancel(t.Context(), callAs(ann, ""), id),
		} {
			if atlas.CodeOf(err) != atlas.CodeRateLimited {
				t.Errorf("%s past the gate: %v", name, err)
			}
		}
		b.mu.Lock()
		b.closed = nil
		b.mu.Unlock()
		for range 2 { // the second cancels nothing
			if err := m.Cancel(t.Context(), callAs(ann, ""), id); err != nil {
				t.Fatal(err)
			}
		}
		if want := []string{callAs(ann, "").Principal.Subject + " " + id}; !slices.Equal(b.cancelled, want) {
			t.Errorf("told %v, want %v", b.cancelled, want)
		}
	})
}
