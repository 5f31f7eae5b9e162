package tasks_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
)

// asking returns a tool that asks for all of the keys in each of some rounds, and then tells what it
// was answered, by whom and with which arguments.
func asking(name string, spec atlas.TaskSpec, rounds int, keys ...string) *atlas.Tool {
	return &atlas.Tool{Name: name, Task: spec, Run: func(_ context.Context, c atlas.Call) (atlas.Result, error) {
		round := 0
		told := ""
		if c.Reply != nil {
			if _, err := fmt.Sscanf(string(c.Reply.State), "round %d", &round); err != nil {
				return atlas.Result{}, err
			}
			for _, k := range slices.Sorted(maps.Keys(c.Reply.Answers)) {
				told += k + "=" + string(c.Reply.Answers[k]) + ";"
			}
		}
		if round == rounds {
			return say(told + string(c.Args.Raw) + c.IdempotencyKey + c.ID)
		}
		a := &atlas.Ask{State: fmt.Appendf(nil, "round %d", round+1), Requests: map[string]atlas.ClientRequest{}}
		for _, k := range keys {
			a.Requests[k] = atlas.ClientRequest{Method: "elicitation/create", Params: json.RawMessage(`{"message":"` + k + `"}`)}
		}
		return atlas.Result{Ask: a}, nil
	}}
}

func answer(t *testing.T, m *tasks.Manager, p *atlas.Principal, id string, answers map[string]string) {
	t.Helper()
	c := callAs(p, "")
	c.ID = "req-update"
	raw := map[string]json.RawMessage{}
	for k, v := range answers {
		raw[k] = json.RawMessage(v)
	}
	if err := m.Update(t.Context(), c, id, raw); err != nil {
		t.Fatalf("update: %v", err)
	}
}

func asked(task tasks.Task) []string { return slices.Sorted(maps.Keys(task.InputRequests)) }

func TestTaskAsksAndGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, asking("delete", always, 1, "confirm"))
		m := b.serve(tasks.Config{})
		c := callAs(ann, "delete")
		c.Args.Raw, c.IdempotencyKey = json.RawMessage(`{"file":"a"}`), "key-1"
		id := begin(t, m, c).ID
		task := until(t, m, ann, id, tasks.InputRequired)
		want := map[string]tasks.InputRequest{"confirm.1": {Method: "elicitation/create", Params: json.RawMessage(`{"message":"confirm"}`)}}
		if diff := cmp.Diff(want, task.InputRequests); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
		answer(t, m, ann, id, map[string]string{"unknown": `{"ignored":true}`, "confirm": `{}`})
		if task := get(t, m, ann, id); task.Status != tasks.InputRequired {
			t.Errorf("unknown keys moved it to %s", task.Status)
		}
		answer(t, m, ann, id, map[string]string{"confirm.1": `{"action":"accept"}`})
		task = until(t, m, ann, id, tasks.Completed)
		if want := `confirm={"action":"accept"};{"file":"a"}key-1req-update`; told(t, task) != fmt.Sprintf(`{"said":%q}`, want) {
			t.Errorf("result %s, want %s", task.Result, want)
		}
		answer(t, m, ann, id, map[string]string{"confirm.1": `{"action":"decline"}`}) // acknowledged, without effect
		if b.runs("delete") != 2 || get(t, m, ann, id).Status != tasks.Completed {
			t.Errorf("ran %d times", b.runs("delete"))
		}
	})
}

func TestPartialAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, asking("two", always, 1, "name", "confirm"))
		m := b.serve(tasks.Config{})
		id := begin(t, m, callAs(ann, "two")).ID
		task := until(t, m, ann, id, tasks.InputRequired)
		if diff := cmp.Diff([]string{"confirm.1", "name.1"}, asked(task)); diff != "" {
			t.Fatal(diff)
		}
		answer(t, m, ann, id, map[string]string{"name.1": `{"content":"x"}`})
		answer(t, m, ann, id, map[string]string{"name.1": `{"content":"changed"}`}) // answered already
		task = get(t, m, ann, id)
		if diff := cmp.Diff([]string{"confirm.1"}, asked(task)); diff != "" || task.Status != tasks.InputRequired {
			t.Errorf("%s: %s", task.Status, diff)
		}
		if b.runs("two") != 1 {
			t.Error("went on with half of the answers")
		}
		answer(t, m, ann, id, map[string]string{"confirm.1": `{}`})
		task = until(t, m, ann, id, tasks.Completed)
		if want := `{"said":"confirm={};name={\"content\":\"x\"};req-update"}`; told(t, task) != want {
			t.Errorf("result %s, want %s", task.Result, want)
		}
	})
}

// A key is never used for two requests of one task (SEP-2663 "Task Update Requests").
func TestKeysOfRoundsDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newBench(t, asking("often", always, 3, "name")).serve(tasks.Config{})
		id := begin(t, m, callAs(ann, "often")).ID
		for round := 1; round <= 3; round++ {
			task := until(t, m, ann, id, tasks.InputRequired)
			key := fmt.Sprintf("name.%d", round)
			if diff := cmp.Diff([]string{key}, asked(task)); diff != "" {
				t.Fatal(diff)
			}
			answer(t, m, ann, id, map[string]string{key: `{}`})
		}
		until(t, m, ann, id, tasks.Completed)
	})
}

// A tool that asks without end is stopped, whether it asks the client or only to be called again.
func TestRoundsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, asking("endless", atlas.TaskSpec{Timeout: time.Hour}, 1000, "name"), asking("shedding", atlas.TaskSpec{Timeout: time.Hour}, 1000))
		m := b.serve(tasks.Config{})
		id := begin(t, m, callAs(ann, "endless")).ID
		for range 100 {
			synctest.Wait()
			task := get(t, m, ann, id)
			if task.Status == tasks.Failed {
				break
			}
			for key := range task.InputRequests {
				answer(t, m, ann, id, map[string]string{key: `{}`})
			}
		}
		until(t, m, ann, id, tasks.Failed)
		until(t, m, ann, begin(t, m, callAs(ann, "shedding")).ID, tasks.Failed)
		if n, k := b.runs("endless"), b.runs("shedding"); n > 40 || k > 40 {
			t.Errorf("ran %d and %d times", n, k)
		}
	})
}

// A tool that only wants to be called again later is, and its client hears nothing of it.
func TestSheddingIsNotTheClientsBusiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, asking("shedding", always, 2))
		m := b.serve(tasks.Config{PollInterval: 3 * time.Second})
		start := time.Now()
		task := until(t, m, ann, begin(t, m, callAs(ann, "shedding")).ID, tasks.Completed)
		if b.runs("shedding") != 3 || task.LastUpdatedAt.Sub(start) != 6*time.Second {
			t.Errorf("ran %d times in %v", b.runs("shedding"), task.LastUpdatedAt.Sub(start))
		}
	})
}

// What a tool asks before it begins is asked directly; then it becomes a task (SEP-2663 "Task
// Creation").
func TestAskThenTask(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tl := &atlas.Tool{
			Name: "both", Task: atlas.TaskSpec{After: time.Second, Timeout: time.Minute, Required: true},
			Run: func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
				if c.Reply == nil {
					return atlas.Result{Ask: &atlas.Ask{Requests: map[string]atlas.ClientRequest{"user": {Method: "elicitation/create"}}}}, nil
				}
				if err := pause(ctx, 5*time.Second); err != nil {
					return atlas.Result{}, err
				}
				return say(string(c.Reply.Answers["user"]))
			},
		}
		m := newBench(t, tl).serve(tasks.Config{})
		ans, err := m.Call(t.Context(), callAs(ann, "both"))
		if err != nil || ans.Task != nil || ans.Result.Ask == nil {
			t.Fatalf("%+v, %v; want a question", ans, err)
		}
		c := callAs(ann, "both")
		c.Reply = &atlas.Reply{Answers: map[string]json.RawMessage{"user": json.RawMessage(`"Alice"`)}}
		task := until(t, m, ann, begin(t, m, c).ID, tasks.Completed)
		if !strings.Contains(told(t, task), "Alice") {
			t.Errorf("result %s", task.Result)
		}
	})
}

func TestBadAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, asking("one", always, 1, "name"))
		m := b.serve(tasks.Config{})
		id := begin(t, m, callAs(ann, "one")).ID
		until(t, m, ann, id, tasks.InputRequired)
		for _, bad := range []string{``, `null`, `"text"`, `[]`, `{`, `{"x":"` + strings.Repeat("x", 70<<10) + `"}`} {
			err := m.Update(t.Context(), callAs(ann, ""), id, map[string]json.RawMessage{"name.1": json.RawMessage(bad)})
			if atlas.CodeOf(err) != atlas.CodeInvalidArguments {
				t.Errorf("%.20s: %v", bad, err)
			}
		}
		if b.runs("one") != 1 || get(t, m, ann, id).Status != tasks.InputRequired {
			t.Error("a bad answer was taken")
		}
	})
}

func TestCancelWhileWaitingForInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, asking("one", always, 1, "name"))
		m := b.serve(tasks.Config{})
		id := begin(t, m, callAs(ann, "one")).ID
		until(t, m, ann, id, tasks.InputRequired)
		if err := m.Cancel(t.Context(), callAs(ann, ""), id); err != nil {
			t.Fatal(err)
		}
		answer(t, m, ann, id, map[string]string{"name.1": `{}`})
		if task := get(t, m, ann, id); task.Status != tasks.Cancelled || len(task.InputRequests) > 0 || b.runs("one") != 1 {
			t.Errorf("%+v, ran %d times", task, b.runs("one"))
		}
	})
}

// Answers that come twice at once, to two processes, make the tool go on once.
func TestAnswersRaceToGoOnOnce(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			b := newBench(t, asking("one", always, 1, "name"))
			managers := []*tasks.Manager{b.serve(tasks.Config{}), b.serve(tasks.Config{})}
			id := begin(t, managers[0], callAs(ann, "one")).ID
			until(t, managers[1], ann, id, tasks.InputRequired)
			ended := make(chan error)
			for i := range 8 {
				go func() {
					ended <- managers[i%2].Update(t.Context(), callAs(ann, ""), id, map[string]json.RawMessage{"name.1": json.RawMessage(`{}`)})
				}()
			}
			for range 8 {
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}
			until(t, managers[0], ann, id, tasks.Completed)
			if n := b.runs("one"); n != 2 {
				t.Errorf("ran %d times, want 2", n)
			}
		})
	}
}

// raceStore lets something happen between one read of a task and what is done about it.
type raceStore struct {
	tasks.Store
	after func() // the next read; nil for nothing
}

func (s *raceStore) Get(ctx context.Context, space, key string) ([]byte, int64, error) {
	value, version, err := s.Store.Get(ctx, space, key)
	if f := s.after; f != nil && strings.HasPrefix(space, "tasks/") {
		s.after = nil
		f()
	}
	return value, version, err
}

// Of two updates at once one goes on with the call. The other must not take the run's place, or
// nothing would stop it when the task is cancelled.
func TestCancelStopsTheRunAfterUpdatesRaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stopped := make(chan struct{})
		tool := asking("delete", always, 1, "confirm")
		question := tool.Run
		tool.Run = func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
			if c.Reply == nil {
				return question(ctx, c)
			}
			<-ctx.Done()
			close(stopped)
			return atlas.Result{}, ctx.Err()
		}
		b := newBench(t, tool)
		store := &raceStore{Store: b.store}
		b.store = store
		m := b.serve(tasks.Config{})
		id := begin(t, m, callAs(ann, "delete")).ID
		until(t, m, ann, id, tasks.InputRequired)
		store.after = func() { answer(t, m, ann, id, map[string]string{"confirm.1": `{}`}) }
		answer(t, m, ann, id, map[string]string{"confirm.1": `{}`})
		synctest.Wait()
		if err := m.Cancel(t.Context(), callAs(ann, ""), id); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		select {
		case <-stopped:
		default:
			t.Error("the cancelled call goes on")
		}
		if n := b.runs("delete"); n != 2 {
			t.Errorf("ran %d times, want the question and one round", n)
		}
	})
}
