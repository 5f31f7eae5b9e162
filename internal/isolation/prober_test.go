package isolation_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atlas-mcp/atlas/internal/app"
	"github.com/atlas-mcp/atlas/internal/demo"
	"github.com/atlas-mcp/atlas/internal/isolation"
)

// probe runs a prober over the toy for so long and returns what it counted.
func probe(t *testing.T, toy *toy, cfg isolation.ProberConfig, d time.Duration) (map[string]int, *isolation.Prober) {
	t.Helper()
	counts := map[string]int{}
	p, err := isolation.NewProber(cfg, isolation.ProberDeps{
		Target: toy, Field: func() isolation.Field { return toyField(toy) }, Version: func() string { return "1" },
		Count: func(result string) { counts[result]++ },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	time.Sleep(d) // of the bubble's clock
	cancel()
	if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	return counts, p
}

func TestProberHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		toy := newToy("")
		counts, p := probe(t, toy, isolation.ProberConfig{}, time.Hour)
		// 60 rounds, give or take the jitter, of three checks each.
		if n := counts["held"]; n < 150 || n > 210 || counts["leak"] != 0 || counts["inconclusive"] != 0 {
			t.Errorf("got %v", counts)
		}
		s := p.Status()
		if !s.On || s.Held != counts["held"] || len(s.Leaking) != 0 || len(s.NotProven) != 0 || s.Failed != "" || p.Healthy(t.Context()) != nil {
			t.Errorf("got %+v", s)
		}
		if perRound := toy.calls / 60; perRound > 40 { // learning once, and a few calls for each check
			t.Errorf("%d calls in an hour", toy.calls)
		}
	})
}

func TestProberFindsLeaksAndSeesThemMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		toy := newToy("cache")
		counts := map[string]int{}
		p, err := isolation.NewProber(isolation.ProberConfig{Checks: 30}, isolation.ProberDeps{
			Target: toy, Field: func() isolation.Field { return toyField(toy) }, Version: func() string { return "1" },
			Count: func(result string) { counts[result]++ },
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		if counts["leak"] == 0 || p.Healthy(ctx) == nil || p.Status().Leaking[0].Source != "toy" {
			t.Errorf("got %v, %+v", counts, p.Status())
		}
		toy.mu.Lock()
		toy.fault = ""
		toy.mu.Unlock()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if err := p.Healthy(ctx); err != nil {
			t.Errorf("mended, and still %v", err)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestProberOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		toy := newToy("")
		counts, p := probe(t, toy, isolation.ProberConfig{Interval: new(time.Duration(0))}, time.Hour)
		if len(counts) != 0 || toy.calls != 0 || p.Status().On {
			t.Errorf("got %v, %d calls", counts, toy.calls)
		}
	})
}

// Where B's canary is gone, nothing is held.
func TestProberNeedsItsControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		toy := newToy("")
		gone := false
		toy.onCall = func(call int) {
			if call > 1000 && !gone {
				gone = true
				toy.mu.Lock()
				toy.records[isolation.B] = map[string]record{}
				toy.objects[isolation.B] = map[string]string{}
				toy.mu.Unlock()
			}
		}
		counts, _ := probe(t, toy, isolation.ProberConfig{Checks: 20}, 2*time.Hour)
		if counts["inconclusive"] == 0 || counts["leak"] != 0 {
			t.Errorf("got %v", counts)
		}
	})
}

func TestProberConfig(t *testing.T) {
	for name, cfg := range map[string]isolation.ProberConfig{
		"too often":    {Interval: new(time.Millisecond)},
		"negative":     {Interval: new(-time.Minute)},
		"too much":     {Checks: 1000},
		"same tenants": {TenantA: "x", TenantB: "x"},
		"no tenant":    {TenantA: "X Y"},
	} {
		if cfg.Validate() == nil {
			t.Errorf("%s: no mistake is found", name)
		}
	}
	if err := (isolation.ProberConfig{}).Validate(); err != nil {
		t.Error(err)
	}
}

// On the demo profile, with the limits that it ships with, a server's own checks hold.
func TestProberOnTheDemo(t *testing.T) {
	w := watch(t)
	a := openApp(t, app.Options{})
	results := make(chan string, 1000)
	p, err := isolation.NewProber(isolation.ProberConfig{Interval: new(time.Second), Checks: 10}, isolation.ProberDeps{
		Target: direct(t, a), Count: func(result string) { results <- result }, Version: func() string { return "1" },
		Field: func() isolation.Field {
			return isolation.Field{Sources: w.sources, Samples: demo.Companies()[demo.Acme]}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	for range 50 { // the first round: ten checks on each of five sources
		if got := <-results; got != string(isolation.Held) {
			t.Errorf("a check ended %s: %+v", got, p.Status())
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if s := p.Status(); len(s.NotProven) != 0 || len(s.Leaking) != 0 {
		t.Errorf("got %+v", s)
	}
	calls := 0
	if err := a.FlushAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for rec, err := range app.QueryAudit(t.Context(), a.Config().Audit.Path, app.AuditFilter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Transport != isolation.Transport {
			t.Fatalf("a record that does not show that it is the prober's: %+v", rec)
		}
		calls++
	}
	if calls > 600 {
		t.Errorf("%d calls to learn and for fifty checks", calls)
	}
	t.Logf("%d calls", calls)
}
