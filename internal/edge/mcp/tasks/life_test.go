package tasks_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
)

// A task is shown, answered and cancelled by any process over the same store.
func TestAnotherProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stopped := make(chan struct{})
		hangs := &atlas.Tool{Name: "hangs", Task: always, Run: func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
			<-ctx.Done()
			close(stopped)
			return atlas.Result{}, ctx.Err()
		}}
		b := newBench(t, hangs, taking("slow", always, 40*time.Second), asking("asks", always, 1, "name"))
		one, two := b.serve(tasks.Config{}), b.serve(tasks.Config{})

		slow := begin(t, one, callAs(ann, "slow")).ID
		if diff := cmp.Diff(get(t, one, ann, slow), get(t, two, ann, slow)); diff != "" {
			t.Errorf("two processes show two things:\n%s", diff)
		}
		until(t, two, ann, slow, tasks.Completed) // beyond the lease's 30s, which was renewed

		asks := begin(t, one, callAs(ann, "asks")).ID
		until(t, two, ann, asks, tasks.InputRequired)
		answer(t, two, ann, asks, map[string]string{"name.1": `{}`})
		until(t, one, ann, asks, tasks.Completed)

		id := begin(t, one, callAs(ann, "hangs")).ID
		if err := two.Cancel(t.Context(), callAs(ann, ""), id); err != nil {
			t.Fatal(err)
		}
		<-stopped
		if task := get(t, one, ann, id); task.Status != tasks.Cancelled {
			t.Errorf("%+v", task)
		}
	})
}

// A process that dies leaves its tasks working until its lease ends, and failed from then on. Nobody
// runs them again, and if it was not dead after all, its late answer changes nothing.
func TestDeadProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := taking("slow", atlas.TaskSpec{Timeout: time.Hour}, 10*time.Minute)
		b := newBench(t, slow, asking("asks", always, 1, "name"))
		dead := b.manager(tasks.Config{Lease: 20 * time.Second}) // nobody renews its lease
		defer dead.Close()
		id, parked := begin(t, dead, callAs(ann, "slow")).ID, begin(t, dead, callAs(ann, "asks")).ID
		synctest.Wait()
		other := b.serve(tasks.Config{})
		time.Sleep(19 * time.Second)
		if task := get(t, other, ann, id); task.Status != tasks.Working {
			t.Errorf("before the lease ends: %+v", task)
		}
		time.Sleep(2 * time.Second)
		failed := get(t, other, ann, id)
		if failed.Status != tasks.Failed || len(failed.Error) == 0 || failed.Result != nil {
			t.Errorf("after the lease ended: %+v", failed)
		}
		time.Sleep(20 * time.Minute)
		if diff := cmp.Diff(failed, get(t, other, ann, id)); diff != "" {
			t.Errorf("changed its mind:\n%s", diff)
		}
		if b.runs("slow") != 1 {
			t.Errorf("ran %d times", b.runs("slow"))
		}
		_ = parked
	})
}

// What waits for its client waits over the end of the process.
func TestWaitingTaskSurvivesItsProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, asking("asks", always, 1, "name"))
		first := b.manager(tasks.Config{})
		c := callAs(ann, "asks")
		c.Args.Raw = json.RawMessage(`{"file":"a"}`)
		id := begin(t, first, c).ID
		until(t, first, ann, id, tasks.InputRequired)
		first.Close()
		next := b.serve(tasks.Config{})
		time.Sleep(5 * time.Minute)
		answer(t, next, ann, id, map[string]string{"name.1": `{}`})
		if task := until(t, next, ann, id, tasks.Completed); told(t, task) != `{"said":"name={};{\"file\":\"a\"}req-update"}` {
			t.Errorf("%s", task.Result)
		}
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, taking("short", always, 5*time.Second), taking("long", always, 50*time.Second), taking("plain", atlas.TaskSpec{Timeout: time.Minute}, time.Second))
		m := b.manager(tasks.Config{})
		short, long := begin(t, m, callAs(ann, "short")).ID, begin(t, m, callAs(ann, "long")).ID
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		drained := make(chan struct{})
		go func() { m.Drain(ctx); close(drained) }()
		synctest.Wait()
		if _, err := m.Call(t.Context(), callAs(ann, "short")); atlas.CodeOf(err) != atlas.CodeShuttingDown {
			t.Errorf("a new task while draining: %v", err)
		}
		if ans, err := m.Call(t.Context(), callAs(ann, "plain")); err != nil || ans.Task != nil {
			t.Errorf("a call that need not be a task: %+v, %v", ans, err)
		}
		<-drained
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("drained for %v", d)
		}
		other := b.serve(tasks.Config{})
		if task := get(t, other, ann, short); task.Status != tasks.Completed {
			t.Errorf("short: %+v", task)
		}
		// At once, not when the lease ends.
		if task := get(t, other, ann, long); task.Status != tasks.Failed || len(task.Error) == 0 {
			t.Errorf("long: %+v", task)
		}
		m.Close()
	})
}

// A process that drains for long is not taken for dead.
func TestDrainRenewsTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, taking("long", atlas.TaskSpec{Timeout: time.Hour}, 10*time.Minute))
		m, other := b.manager(tasks.Config{}), b.serve(tasks.Config{})
		defer m.Close()
		id := begin(t, m, callAs(ann, "long")).ID
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		drained := make(chan struct{})
		go func() { m.Drain(ctx); close(drained) }()
		time.Sleep(9 * time.Minute)
		if task := get(t, other, ann, id); task.Status != tasks.Working {
			t.Errorf("%+v", task)
		}
		<-drained
		if task := get(t, other, ann, id); task.Status != tasks.Completed {
			t.Errorf("%+v", task)
		}
	})
}

func TestDrainOfNothingReturnsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newBench(t).manager(tasks.Config{})
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		m.Drain(ctx)
		if time.Since(start) != 0 {
			t.Error("waited")
		}
	})
}

// A task is there as long as its ttlMs says, and then is what no task is.
func TestTasksExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, taking("x", always, 0))
		spy := &spyStore{Store: b.store}
		b.store = spy
		m := b.serve(tasks.Config{TTL: time.Minute})
		task := begin(t, m, callAs(ann, "x"))
		time.Sleep(time.Duration(task.TTLMs)*time.Millisecond - time.Millisecond)
		if got := get(t, m, ann, task.ID); got.Status != tasks.Completed {
			t.Errorf("before its end: %+v", got)
		}
		time.Sleep(time.Millisecond)
		if _, err := m.Get(t.Context(), callAs(ann, ""), task.ID); atlas.CodeOf(err) != atlas.CodeNotFound {
			t.Errorf("after its end: %v", err)
		}
		time.Sleep(3 * time.Second)
		space, key := spy.last()
		if raw, _, err := b.store.Get(t.Context(), space, key); raw != nil || err != nil {
			t.Errorf("the store still has %s, %v", raw, err)
		}
	})
}

// flaky is a store that fails while it is told to.
type flaky struct {
	tasks.Store
	down atomic.Bool
}

func (f *flaky) CompareAndSet(ctx context.Context, space, key string, version int64, value []byte, expires time.Time) (int64, error) {
	if f.down.Load() {
		return 0, errDown
	}
	return f.Store.CompareAndSet(ctx, space, key, version, value, expires)
}

func (f *flaky) Get(ctx context.Context, space, key string) ([]byte, int64, error) {
	if f.down.Load() {
		return nil, 0, errDown
	}
	return f.Store.Get(ctx, space, key)
}

// Without a store nothing is promised; an answer that is there when the store is not is kept until it
// is back.
func TestStoreOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, taking("must", always, 10*time.Second), taking("may", atlas.TaskSpec{Timeout: time.Minute}, time.Second))
		store := &flaky{Store: b.store}
		b.store = store
		m := b.serve(tasks.Config{})
		id := begin(t, m, callAs(ann, "must")).ID
		store.down.Store(true)
		if _, err := m.Call(t.Context(), callAs(ann, "must")); atlas.CodeOf(err) != atlas.CodeStateUnavailable || b.runs("must") > 1 {
			t.Errorf("%v, and ran %d times", err, b.runs("must"))
		}
		if ans, err := m.Call(t.Context(), callAs(ann, "may")); err != nil || ans.Task != nil {
			t.Errorf("%+v, %v", ans, err)
		}
		if _, err := m.Get(t.Context(), callAs(ann, ""), id); atlas.CodeOf(err) != atlas.CodeStateUnavailable {
			t.Errorf("get: %v", err)
		}
		time.Sleep(time.Minute)
		store.down.Store(false)
		time.Sleep(10 * time.Second)
		until(t, m, ann, id, tasks.Completed)
	})
}

// A store that is full when an answer comes keeps at least that there was one.
func TestFullStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		big := &atlas.Tool{Name: "big", Task: always, Run: func(context.Context, atlas.Call) (atlas.Result, error) {
			return say(fmt.Sprintf("%100000d", 1))
		}}
		b := newBench(t, big)
		b.store = fullStore{b.store}
		m := b.serve(tasks.Config{})
		task := until(t, m, ann, begin(t, m, callAs(ann, "big")).ID, tasks.Completed)
		if told(t, task) != `rate_limited` {
			t.Errorf("%.100s", task.Result)
		}
	})
}

type fullStore struct{ tasks.Store }

func (s fullStore) CompareAndSet(ctx context.Context, space, key string, version int64, value []byte, expires time.Time) (int64, error) {
	if len(value) > 50_000 {
		return 0, atlas.Errorf(atlas.CodeRateLimited, nil, "")
	}
	return s.Store.CompareAndSet(ctx, space, key, version, value, expires)
}

func TestSubscription(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, asking("asks", always, 1, "name"), taking("slow", always, 20*time.Second))
		m, elsewhere := b.serve(tasks.Config{}), b.serve(tasks.Config{})
		asks, slow := begin(t, m, callAs(ann, "asks")).ID, begin(t, m, callAs(ann, "slow")).ID
		synctest.Wait()
		var wg sync.WaitGroup
		for _, via := range []*tasks.Manager{m, elsewhere} {
			s, agreed, err := via.Subscribe(t.Context(), callAs(ann, ""), []string{slow, "nothing", asks, slow})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{slow, asks}, agreed); diff != "" {
				t.Error(diff)
			}
			wg.Go(func() {
				defer s.Close()
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				var got []string
				for len(got) < 4 { // the working state between two may be gone before it is told
					task, err := s.Next(ctx)
					if err != nil {
						t.Errorf("%v after %v", err, got)
						return
					}
					name := map[string]string{asks: "asks", slow: "slow"}[task.ID]
					if task.Status == tasks.Working && name == "asks" {
						continue
					}
					got = append(got, name+" "+string(task.Status))
				}
				want := []string{"slow working", "asks input_required", "asks completed", "slow completed"}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("told (-want +got):\n%s", diff)
				}
				ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				if task, err := s.Next(ctx); err == nil {
					t.Errorf("told again: %+v", task)
				}
			})
		}
		time.Sleep(5 * time.Second)
		answer(t, m, ann, asks, map[string]string{"name.1": `{}`})
		wg.Wait()
	})
}

// The peer of a call is silent once the call is a task.
func TestPeerEndsWithTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tl := &atlas.Tool{Name: "tells", Task: atlas.TaskSpec{After: 5 * time.Second, Timeout: time.Minute}, Run: func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
			for i := range 10 {
				c.Peer.Progress(float64(i), 10, "")
				c.Peer.Log(atlas.LogInfo, "tool", i)
				if err := pause(ctx, time.Second); err != nil {
					return atlas.Result{}, err
				}
			}
			return say("done")
		}}
		m := newBench(t, tl).serve(tasks.Config{})
		heard := &counter{}
		c := callAs(ann, "tells")
		c.Peer = heard
		id := begin(t, m, c).ID
		n := heard.n.Load()
		until(t, m, ann, id, tasks.Completed)
		if n < 8 || heard.n.Load() != n {
			t.Errorf("heard %d before and %d in all", n, heard.n.Load())
		}
	})
}

type counter struct{ n atomic.Int64 }

func (c *counter) Progress(float64, float64, string) { c.n.Add(1) }
func (c *counter) Log(atlas.LogLevel, string, any)   { c.n.Add(1) }

// A task is gone when its time has come, also before anybody has swept it away.
func TestExpiredTaskIsGoneAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, &atlas.Tool{Name: "job", Task: always, Run: func(context.Context, atlas.Call) (atlas.Result, error) { return say("done") }})
		m := b.manager(tasks.Config{TTL: time.Minute}) // which nobody keeps in order
		defer m.Close()
		id := begin(t, m, callAs(ann, "job")).ID
		task := until(t, m, ann, id, tasks.Completed)
		time.Sleep(time.Until(task.CreatedAt.Add(time.Duration(task.TTLMs) * time.Millisecond))) // a bubble's clock
		if _, err := m.Get(t.Context(), callAs(ann, ""), id); atlas.CodeOf(err) != atlas.CodeNotFound {
			t.Errorf("after its time: %v", err)
		}
	})
}

// A call that is answered by a handle at once has nobody to tell of its progress: the request's stream
// is not the task's.
func TestTaskHasNoPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got atlas.Peer
		b := newBench(t, &atlas.Tool{Name: "job", Task: always, Run: func(_ context.Context, c atlas.Call) (atlas.Result, error) {
			got = c.Peer
			return say("done")
		}})
		m := b.serve(tasks.Config{})
		c := callAs(ann, "job")
		c.Peer = noPeer{}
		until(t, m, ann, begin(t, m, c).ID, tasks.Completed)
		if got != nil {
			t.Errorf("the task got its request's peer %v", got)
		}
	})
}

type noPeer struct{}

func (noPeer) Progress(float64, float64, string) {}

func (noPeer) Log(atlas.LogLevel, string, any) {}
