package isolation_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/isolation"
	"github.com/atlas-mcp/atlas/internal/source"
)

func toyField(t *toy) isolation.Field {
	return isolation.Field{Sources: map[string]source.Source{"toy": t}, Samples: map[string]source.Data{"toy": toySample}}
}

func proveToy(t *testing.T, toy *toy, cfg isolation.Config) isolation.Report {
	t.Helper()
	canaries := isolation.Plant(t.Context(), toyField(toy), tenants, isolation.NewKey())
	return prove(t, cfg, isolation.Deps{Target: toy, Canaries: canaries})
}

func TestWhatKeepsTenantsApartHolds(t *testing.T) {
	r := proveToy(t, newToy(""), isolation.Config{})
	if r.Result != isolation.ResultHeld || r.Summary.Inconclusive != 0 || r.Summary.Attempts < 200 {
		dump(t, r)
		t.Errorf("got %s: %+v", r.Result, r.Summary)
	}
	want := map[string]isolation.Status{
		"toy_ask": isolation.Proven, "toy_body": isolation.Proven, "toy_get": isolation.Proven, "toy_list": isolation.Proven, "toy_object": isolation.Proven, "toy_put": isolation.Closed,
		"toy_record": isolation.Proven, "toy_search": isolation.Proven, "toy_sql": isolation.Proven, "toy_sum": isolation.Proven,
	}
	got := map[string]isolation.Status{}
	for _, c := range r.Controls {
		got[c.Tool] = c.Status
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for i, a := range r.Attempts {
		if a.N != i+1 || a.Area == "" || a.Tried == "" || a.Got == "" {
			t.Errorf("incomplete attempt %+v", a)
		}
	}
}

// Each kind of attack finds the fault that it is there for.
func TestEveryAttackFindsItsFault(t *testing.T) {
	for _, tt := range []struct{ fault, area, tool string }{
		{"ids", "ids", "toy_get"},
		{"same ids", "same ids", "toy_get"},
		{"existence", "existence", "toy_get"},
		{"hint", "ids", "toy_get"},
		{"base64", "ids", "toy_get"},
		{"base64 of URLs, with a prefix", "ids", "toy_get"},
		{"hexadecimal", "ids", "toy_get"},
		{"odd values", "odd values", "toy_get"},
		{"tenant arguments", "tenant arguments", "toy_get"},
		{"paths", "paths", "toy_object"},
		{"sql", "sql", "toy_sql"},
		{"search", "search", "toy_search"},
		{"filters", "filters", "toy_search"},
		{"query bodies", "query bodies", "toy_body"},
		{"uris", "uris", "toy_record"},
		{"cache", "cache", "toy_get"},
		{"sum", "cache", "toy_sum"},
		{"cancelled", "cancelled", "toy_list"},
		{"retried", "retried", "toy_get"},
		{"idempotency", "idempotency", "toy_get"},
		{"cursors", "cursors", "toy_list"},
		{"request state", "request state", "toy_ask"},
		{"approvals", "approvals", "toy_put"},
		{"pool", "pool", "toy_list"},
		{"lists", "lists", ""},
		{"completion", "completion", "toy_record"},
	} {
		t.Run(tt.fault, func(t *testing.T) {
			r := proveToy(t, newToy(tt.fault), isolation.Config{})
			found := slices.ContainsFunc(r.Leaks(), func(a isolation.Attempt) bool {
				return a.Area == tt.area && a.Tool == tt.tool && (a.Source == "toy" || tt.tool == "") && len(a.Evidence) > 0 && a.Look != ""
			})
			if !found || r.Result != isolation.ResultLeak {
				dump(t, r)
				t.Errorf("no leak by %s through %s", tt.area, tt.tool)
			}
		})
	}
}

// A has asked for a write with an id of B's, and reads its own words again in the list of what waits for an
// approval. That is no leak; what B has asked for is.
func TestWhatASideAskedForItselfIsNoLeak(t *testing.T) {
	for fault, want := range map[string]string{"": isolation.ResultHeld, "approval list": isolation.ResultLeak} {
		toy := newToy(fault)
		canaries := isolation.Plant(t.Context(), toyField(toy), tenants, isolation.NewKey())
		r := prove(t, isolation.Config{Storm: 1}, isolation.Deps{Target: toy, Door: toyDoor{toy}, Canaries: canaries})
		if len(toy.waiting[isolation.A]) == 0 {
			t.Fatal("A asked for nothing")
		}
		leaks := slices.DeleteFunc(r.Leaks(), func(a isolation.Attempt) bool { return !strings.Contains(a.Tried, "lists approvals") })
		if (len(leaks) > 0) != (want == isolation.ResultLeak) {
			t.Errorf("fault %q: %d leaks through the list", fault, len(leaks))
		}
	}
}

// What a leak is reported by does not carry the other tenant's data on.
func TestReportsAreRedacted(t *testing.T) {
	toy := newToy("ids")
	r := proveToy(t, toy, isolation.Config{Storm: 1})
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	for id, rec := range toy.records[isolation.B] {
		words := strings.Fields(rec.text)
		if marker := words[len(words)-1]; !strings.HasPrefix(marker, "zqcanaryb") || strings.Contains(string(data), marker) {
			t.Errorf("the marker %q of %s is in the report, or is none", marker, id)
		}
	}
}

func TestNothingIsGreenWithoutItsControl(t *testing.T) {
	toy := newToy("")
	r := prove(t, isolation.Config{}, isolation.Deps{Target: toy}) // nothing was planted, and the tenants have nothing
	if r.Result != isolation.ResultNotProven || r.Summary.Leaks != 0 || r.Summary.NotProven == 0 {
		t.Errorf("got %s: %+v", r.Result, r.Summary)
	}
}

// A tool that gives both tenants the same records, none of which was planted, could give them everybody's.
func TestTheSameRecordsForBothProveNothing(t *testing.T) {
	r := proveToy(t, newToy("alike"), isolation.Config{Storm: 1})
	for _, c := range r.Controls {
		if c.Tool == "toy_list" && c.Status != isolation.Unproven {
			t.Errorf("toy_list is %s: %s", c.Status, c.Detail)
		}
	}
	if r.Result != isolation.ResultNotProven {
		t.Errorf("got %s: %+v", r.Result, r.Summary)
	}
	if r := proveToy(t, newToy("alike"), isolation.Config{Storm: 1, Accept: []string{"toy_list"}}); r.Result != isolation.ResultHeld {
		t.Errorf("accepted: %s: %+v", r.Result, r.Summary)
	}
}

func TestAcceptedToolsNeedNoProof(t *testing.T) {
	toy := newToy("")
	canaries := isolation.Plant(t.Context(), toyField(toy), tenants, isolation.NewKey())
	toy.objects = [2]map[string]string{{}, {}} // then toy_object has nothing
	deps := isolation.Deps{Target: toy, Canaries: canaries}
	if r := prove(t, isolation.Config{Storm: 1}, deps); r.Result != isolation.ResultNotProven || r.Summary.NotProven != 1 {
		t.Errorf("got %s: %+v", r.Result, r.Summary)
	}
	if r := prove(t, isolation.Config{Storm: 1, Accept: []string{"toy_object"}}, deps); r.Result != isolation.ResultHeld {
		t.Errorf("got %s: %+v", r.Result, r.Summary)
	}
}

func TestTenantsThatAreLearned(t *testing.T) {
	for _, fault := range []string{"", "ids"} {
		toy := newToy(fault)
		toy.records[isolation.A]["r_11"] = record{"a record of A's", 1}
		toy.records[isolation.B]["r_22"] = record{"a record of B's", 2}
		r := prove(t, isolation.Config{}, isolation.Deps{Target: toy})
		if got, want := r.Summary.Leaks > 0, fault != ""; got != want {
			dump(t, r)
			t.Errorf("fault %q: %d leaks", fault, r.Summary.Leaks)
		}
		if r.Summary.Proven == 0 {
			t.Errorf("fault %q: nothing is proven", fault)
		}
	}
}

func TestQuotaIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		toy := newToy("")
		toy.refuse = func(call int) bool { return call%3 == 0 }
		r := proveToy(t, toy, isolation.Config{Storm: 1})
		if r.Result != isolation.ResultHeld || r.Summary.Refused == 0 || r.Summary.Inconclusive != 0 {
			t.Errorf("got %s: %+v", r.Result, r.Summary)
		}
	})
}

// Quota that does not come back leaves attempts open; they do not count as held.
func TestQuotaThatDoesNotComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		toy := newToy("")
		toy.refuse = func(call int) bool { return call > 400 }
		r := proveToy(t, toy, isolation.Config{Storm: 1, Patience: time.Second})
		if r.Summary.Inconclusive == 0 {
			t.Errorf("got %s: %+v", r.Result, r.Summary)
		}
	})
}

func TestBrokenOff(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	toy := newToy("")
	toy.onCall = func(call int) {
		if call == 500 {
			cancel()
		}
	}
	canaries := isolation.Plant(ctx, toyField(toy), tenants, isolation.NewKey())
	p, err := isolation.New(isolation.Config{}, isolation.Deps{Target: toy, Canaries: canaries})
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Run(ctx)
	if err != nil || r.Result != isolation.ResultInterrupted || !r.Interrupted || len(r.Attempts) == 0 {
		t.Errorf("got %v, %s after %d attempts", err, r.Result, len(r.Attempts))
	}
}

func TestListTriesNothing(t *testing.T) {
	toy := newToy("ids")
	canaries := isolation.Plant(t.Context(), toyField(toy), tenants, isolation.NewKey())
	p, err := isolation.New(isolation.Config{}, isolation.Deps{Target: toy, Canaries: canaries})
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.List(t.Context())
	if err != nil || len(r.Attempts) < 200 {
		t.Fatalf("got %v, %d attempts", err, len(r.Attempts))
	}
	for _, a := range r.Attempts {
		if a.Verdict != isolation.Planned || a.Got != "" {
			t.Fatalf("attempt %+v was made", a)
		}
	}
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]isolation.Config{
		"same tenants": {Tenants: [2]atlas.TenantID{"x", "x"}},
		"no tenant id": {Tenants: [2]atlas.TenantID{"../x", "y"}},
		"A is B's":     {Tenants: [2]atlas.TenantID{isolation.DefaultB, ""}},
		"negative":     {Storm: -1},
	} {
		if _, err := isolation.New(cfg, isolation.Deps{Target: newToy("")}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := isolation.New(isolation.Config{}, isolation.Deps{}); err == nil {
		t.Error("no target: no error")
	}
}
