package tasks_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
)

// strangers are callers that have something in common with ann of acme, each named by what differs.
func strangers() map[string]atlas.Call {
	with := func(edit func(*atlas.Call, *atlas.Principal)) atlas.Call {
		p := *ann
		c := callAs(&p, "")
		edit(&c, &p)
		return c
	}
	return map[string]atlas.Call{
		"subject":                     with(func(_ *atlas.Call, p *atlas.Principal) { p.Subject = "bob" }),
		"issuer":                      with(func(_ *atlas.Call, p *atlas.Principal) { p.Issuer = "https://other.example" }),
		"tenant":                      with(func(c *atlas.Call, p *atlas.Principal) { p.Tenant, c.Tenant = "globex", "globex" }),
		"home tenant, acting as acme": with(func(_ *atlas.Call, p *atlas.Principal) { p.Tenant = "globex" }),
		"acting tenant":               with(func(c *atlas.Call, _ *atlas.Principal) { c.Tenant = "globex" }),
		"delegator":                   with(func(_ *atlas.Call, p *atlas.Principal) { p.Delegator = "agent" }),
		"scopes":                      with(func(_ *atlas.Call, p *atlas.Principal) { p.Scopes = nil }),
		"fields run together":         with(func(_ *atlas.Call, p *atlas.Principal) { p.Issuer, p.Subject = p.Issuer+"a", "nn" }),
	}
}

// Nobody but its caller can see, answer, cancel or follow a task, and to everybody else it is what no
// task is.
func TestTasksAreTheirCallersOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parked, slow := asking("parked", always, 1, "secret"), taking("slow", always, 30*time.Second)
		parked.Scopes, slow.Scopes = []string{"tool:x:read"}, []string{"tool:x:read"}
		b := newBench(t, parked, slow)
		m, elsewhere := b.serve(tasks.Config{}), b.serve(tasks.Config{})
		waits, runs := begin(t, m, callAs(ann, "parked")).ID, begin(t, m, callAs(ann, "slow")).ID
		until(t, m, ann, waits, tasks.InputRequired)
		before := []tasks.Task{get(t, m, ann, waits), get(t, m, ann, runs)}
		for name, call := range strangers() {
			for _, m := range []*tasks.Manager{m, elsewhere} {
				for _, id := range []string{waits, runs} {
					try := func(id string) []error {
						_, err := m.Get(t.Context(), call, id)
						return []error{
							err, m.Cancel(t.Context(), call, id),
							m.Update(t.Context(), call, id, map[string]json.RawMessage{"secret.1": json.RawMessage(`{}`)}),
						}
					}
					theirs, nobodys := try(id), try("NOSUCHTASK")
					for i := range theirs {
						if theirs[i] == nil || theirs[i] != nobodys[i] { //nolint:errorlint // the very same error
							t.Errorf("%s: another's task %v, nobody's %v", name, theirs[i], nobodys[i])
						}
					}
					s, agreed, err := m.Subscribe(t.Context(), call, []string{id, "NOSUCHTASK"})
					if err != nil || len(agreed) != 0 {
						t.Errorf("%s: subscribed to %v, %v", name, agreed, err)
					}
					s.Close()
				}
			}
		}
		after := []tasks.Task{get(t, m, ann, waits), get(t, m, ann, runs)}
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("a stranger changed something:\n%s", diff)
		}
		// And the caller's own next token is as good as the first.
		again := *ann
		again.TokenID, again.Expiry = "another", time.Now().Add(time.Hour)
		until(t, elsewhere, &again, runs, tasks.Completed)
	})
}

// A row that was moved to another's place in the store is not theirs.
func TestMovedRecordIsNobodys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, taking("x", always, 0))
		spy := &spyStore{Store: b.store}
		b.store = spy
		m := b.serve(tasks.Config{})
		eve := principal("acme", "eve")
		mine := begin(t, m, callAs(eve, "x")).ID
		synctest.Wait()
		evesSpace, evesKey := spy.last()
		begin(t, m, callAs(ann, "x"))
		synctest.Wait()
		space, key := spy.last()
		raw, _, err := b.store.Get(t.Context(), space, key)
		if err != nil || raw == nil {
			t.Fatal(err)
		}
		_, version, err := b.store.Get(t.Context(), evesSpace, evesKey)
		if err != nil || version == 0 {
			t.Fatal(err)
		}
		if v, err := b.store.CompareAndSet(t.Context(), evesSpace, evesKey, version, raw, time.Now().Add(time.Hour)); v == 0 || err != nil {
			t.Fatal(v, err)
		}
		if _, err := m.Get(t.Context(), callAs(eve, ""), mine); atlas.CodeOf(err) != atlas.CodeNotFound {
			t.Errorf("eve reads ann's record: %v", err)
		}
	})
}

// spyStore remembers where a task was last written.
type spyStore struct {
	tasks.Store
	mu         sync.Mutex
	space, key string
}

func (s *spyStore) CompareAndSet(ctx context.Context, space, key string, version int64, value []byte, expires time.Time) (int64, error) {
	s.mu.Lock()
	if space != "tasks-workers" {
		s.space, s.key = space, key
	}
	s.mu.Unlock()
	return s.Store.CompareAndSet(ctx, space, key, version, value, expires)
}

func (s *spyStore) last() (space, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.space, s.key
}

// One caller's flood is stopped, with all the agents and tenants that he may act through, and others
// go on as if nothing were.
func TestFloodLeavesRoomForOthers(t *testing.T) {
	for name, tc := range map[string]struct {
		takes time.Duration
		cfg   tasks.Config
	}{
		"running": {time.Minute, tasks.Config{MaxRunning: 5, MaxRunningTenant: 8, MaxRunningTotal: 12}},
		"kept":    {0, tasks.Config{MaxTasks: 5, MaxTasksTenant: 8, MaxTasksTotal: 12}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newBench(t, taking("x", atlas.TaskSpec{Timeout: time.Hour, Required: true}, tc.takes)).serve(tc.cfg)
				flood := func(p atlas.Principal, n int) (made int) {
					for i := range n {
						p := p
						p.Delegator = fmt.Sprintf("agent-%d", i)
						c := callAs(&p, "x")
						if p.Subject == "admin" {
							c.Tenant = atlas.TenantID(fmt.Sprintf("tenant-%d", i))
						}
						ans, err := m.Call(t.Context(), c)
						synctest.Wait()
						switch {
						case err == nil && ans.Task != nil:
							made++
						case atlas.CodeOf(err) != atlas.CodeRateLimited:
							t.Fatalf("%+v, %v", ans, err)
						}
					}
					return made
				}
				for _, step := range []struct {
					who  *atlas.Principal
					want int
				}{
					{principal("acme", "admin"), 5},  // as many as one caller may
					{principal("acme", "ann"), 3},    // what is left to the tenant
					{principal("globex", "carl"), 4}, // what is left in all
				} {
					if made := flood(*step.who, 20); made != step.want {
						t.Errorf("%s of %s made %d tasks, want %d", step.who.Subject, step.who.Tenant, made, step.want)
					}
				}
				time.Sleep(2 * time.Hour) // all have ended and expired
				if made := flood(*ann, 5); made != 5 {
					t.Errorf("later, %d tasks, want 5", made)
				}
			})
		})
	}
}

// Where there is no room for a task, a tool that need not be one runs as for a client that knows none.
func TestNoRoomRunsPlainly(t *testing.T) {
	for name, cfg := range map[string]tasks.Config{"running": {MaxRunning: 1}, "kept": {MaxTasks: 1}} {
		for after, takes := range map[time.Duration]time.Duration{0: time.Second, 2 * time.Second: 3 * time.Second} {
			t.Run(fmt.Sprint(name, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					b := newBench(t, taking("long", always, time.Hour), taking("x", atlas.TaskSpec{After: after, Timeout: time.Minute}, takes))
					m := b.serve(cfg)
					begin(t, m, callAs(ann, "long"))
					ans, err := m.Call(t.Context(), callAs(ann, "x"))
					if err != nil || ans.Task != nil || string(ans.Result.Structured) != `{"said":"x"}` {
						t.Errorf("%+v, %v", ans, err)
					}
					// And not for longer than an ordinary call.
					b.replace(taking("x", atlas.TaskSpec{After: after, Timeout: time.Hour}, 30*time.Minute))
					start := time.Now()
					_, err = m.Call(t.Context(), callAs(ann, "x"))
					if atlas.CodeOf(err) != atlas.CodeTimeout || time.Since(start) != 5*time.Second {
						t.Errorf("%v after %v", err, time.Since(start))
					}
				})
			})
		}
	}
}

// What the request of a call was read into is used for the next caller's while the call still runs.
func TestRunSharesNoMemoryWithItsRequest(t *testing.T) {
	for name, spec := range map[string]atlas.TaskSpec{"at once": always, "later": {After: time.Second, Timeout: time.Minute}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tl := &atlas.Tool{Name: "x", Task: spec, Run: func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
					if err := pause(ctx, 10*time.Second); err != nil {
						return atlas.Result{}, err
					}
					return say(fmt.Sprintf("%s %s %s", c.Args.Raw, c.Reply.State, c.Reply.Answers["a"]))
				}}
				m := newBench(t, tl).serve(tasks.Config{})
				c := callAs(ann, "x")
				raw := []byte(`{"of":"ann"}`)
				c.Args.Raw = raw
				c.Reply = &atlas.Reply{State: raw[1:5], Answers: map[string]json.RawMessage{"a": raw[6:11]}}
				id := begin(t, m, c).ID
				copy(raw, `{"of":"eve"}`)
				c.Reply.Answers["a"] = json.RawMessage(`"eve"`)
				task := until(t, m, ann, id, tasks.Completed)
				if got := told(t, task); got != `{"said":"{\"of\":\"ann\"} \"of\" \"ann\""}` {
					t.Errorf("ran with %s", got)
				}
			})
		})
	}
}

// The results that one caller has kept are bounded in bytes; what does not fit is lost, and said to be.
func TestKeptBytesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		big := &atlas.Tool{Name: "big", Task: always, Run: func(context.Context, atlas.Call) (atlas.Result, error) {
			return say(strings.Repeat("x", 60<<10))
		}}
		m := newBench(t, big).serve(tasks.Config{MaxKept: 150 << 10})
		kept := 0
		for range 10 {
			id := begin(t, m, callAs(ann, "big")).ID
			task := until(t, m, ann, id, tasks.Completed)
			if told(t, task) == `rate_limited` {
				continue
			}
			kept += len(task.Result)
		}
		if kept == 0 || kept > 150<<10 {
			t.Errorf("%d bytes kept", kept)
		}
		bob := principal("acme", "bob")
		if task := until(t, m, bob, begin(t, m, callAs(bob, "big")).ID, tasks.Completed); len(task.Result) < 10<<10 {
			t.Errorf("bob got %s", task.Result)
		}
	})
}

// Every answer of many callers at once is the caller's own.
func TestManyCallersAtOnce(t *testing.T) {
	tl := &atlas.Tool{Name: "who", Task: atlas.TaskSpec{Timeout: time.Minute}, Run: func(_ context.Context, c atlas.Call) (atlas.Result, error) {
		return say(string(c.Tenant) + "/" + c.Principal.Subject)
	}}
	b := newBench(t, tl)
	m := b.serve(tasks.Config{})
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			p := principal([]atlas.TenantID{"acme", "globex"}[i%2], fmt.Sprintf("user-%d", i/2))
			ans, err := m.Call(t.Context(), callAs(p, "who"))
			if err != nil {
				t.Error(err)
				return
			}
			result := ""
			if ans.Task == nil { // no room
				result = string(ans.Result.Structured)
			} else {
				s, _, err := m.Subscribe(t.Context(), callAs(p, ""), []string{ans.Task.ID})
				if err != nil {
					t.Error(err)
					return
				}
				defer s.Close()
				for result == "" {
					task, err := s.Next(t.Context())
					if err != nil {
						t.Error(err)
						return
					}
					result = told(t, task)
				}
			}
			if want := fmt.Sprintf(`{"said":"%s/%s"}`, p.Tenant, p.Subject); result != want {
				t.Errorf("%s, want %s", result, want)
			}
		})
	}
	wg.Wait()
}

var errDown = atlas.Errorf(atlas.CodeStateUnavailable, errors.New("disk is gone"), "")
