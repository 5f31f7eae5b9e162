// Package memorytest is the contract of [copilot.Memory], which every store of sessions passes.
package memorytest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/copilot/memory"
)

// Run runs the contract. Open opens an empty store.
func Run(t *testing.T, open func(t *testing.T, cfg memory.Config) copilot.Memory) {
	t.Run("the last turns in their order", func(t *testing.T) { order(t, open(t, memory.Config{Turns: 5})) })
	t.Run("what is remembered is recalled", func(t *testing.T) { same(t, open(t, memory.Config{})) })
	t.Run("sessions share nothing", func(t *testing.T) { apart(t, open(t, memory.Config{})) })
	t.Run("keys are never mistaken", func(t *testing.T) { keys(t, open(t, memory.Config{})) })
	t.Run("long turns are cut", func(t *testing.T) { long(t, open(t, memory.Config{TurnBytes: 1000})) })
	t.Run("concurrent use", func(t *testing.T) { concurrent(t, open(t, memory.Config{})) })
}

func recall(t testing.TB, m copilot.Memory, k copilot.SessionKey) []copilot.Turn {
	t.Helper()
	turns, err := m.Recall(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	return turns
}

func remember(t testing.TB, m copilot.Memory, k copilot.SessionKey, turn copilot.Turn) {
	t.Helper()
	if err := m.Remember(t.Context(), k, turn); err != nil {
		t.Fatal(err)
	}
}

func order(t *testing.T, m copilot.Memory) {
	k := copilot.SessionKey{Tenant: "acme", Subject: "ann", Session: "1"}
	if got := recall(t, m, k); len(got) > 0 {
		t.Fatalf("an unknown session holds %v", got)
	}
	for i := range 12 {
		remember(t, m, k, copilot.Turn{Question: fmt.Sprint(i)})
		got := recall(t, m, k)
		first := max(0, i-4)
		if len(got) != i-first+1 {
			t.Fatalf("%d turns after %d", len(got), i+1)
		}
		for j, turn := range got {
			if turn.Question != fmt.Sprint(first+j) {
				t.Fatalf("turn %d of %d is %q", j, len(got), turn.Question)
			}
		}
	}
}

func same(t *testing.T, m copilot.Memory) {
	want := []copilot.Turn{
		{},
		{Question: "Why was it late?", Answer: "Because of <b>\"rain\"</b>, \u2028 and \x00 ☂", IDs: []string{"o_1", "CUST-1"}, At: time.Date(2026, 11, 23, 10, 0, 0, 123456789, time.UTC)},
	}
	k := copilot.SessionKey{Tenant: "acme", Subject: "ann", Session: "1"}
	for _, turn := range want {
		remember(t, m, k, turn)
	}
	got := recall(t, m, k)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
	got[1].Question, got[1].IDs = "changed", nil // the caller's own
	if diff := cmp.Diff(want, recall(t, m, k)); diff != "" {
		t.Errorf("the store's own slice was handed out: %s", diff)
	}
}

func apart(t *testing.T, m copilot.Memory) {
	k := copilot.SessionKey{Tenant: "acme", Subject: "ann", Session: "1"}
	remember(t, m, k, copilot.Turn{Question: "q"})
	for _, other := range []copilot.SessionKey{
		{Tenant: "globex", Subject: "ann", Session: "1"},
		{Tenant: "acme", Subject: "bob", Session: "1"},
		{Tenant: "acme", Subject: "ann", Session: "2"},
		{Tenant: "acme", Subject: "ann"},
		{Subject: "ann", Session: "1"},
		{},
		// The same letters, cut elsewhere.
		{Tenant: "acm", Subject: "eann", Session: "1"},
		{Tenant: "acmeann", Session: "1"},
		{Tenant: "acme", Subject: "ann1"},
		{Session: "acmeann1"},
	} {
		if got := recall(t, m, other); len(got) > 0 {
			t.Errorf("%+v sees %v", other, got)
		}
	}
	remember(t, m, copilot.SessionKey{Tenant: "globex", Subject: "ann", Session: "1"}, copilot.Turn{Question: "globex's"})
	if got := recall(t, m, k); len(got) != 1 || got[0].Question != "q" {
		t.Errorf("globex wrote to acme's session of the same name: %v", got)
	}
}

// keys: each key's session holds what was said under this very key, however keys are made up.
func keys(t *testing.T, m copilot.Memory) {
	n := 0
	part := rapid.OneOf(
		rapid.SampledFrom([]string{"", "a", "b", "ab", "acme", "globex", "a/b", "a:b", "{a}", "}", "\x00", "a\x00", "\x00a", "*", "\xff", "\xfe", "é", "e\u0301", "1", "11", strings.Repeat("a", 5000)}),
		rapid.StringOfN(rapid.RuneFrom([]rune("ab:{}/\x00")), 0, 4, -1),
	)
	rapid.Check(t, func(rt *rapid.T) {
		n++
		told := map[copilot.SessionKey]string{}
		for i := range rapid.IntRange(2, 6).Draw(rt, "keys") {
			// The run's number keeps runs apart, at a place where it joins nothing.
			k := copilot.SessionKey{
				Tenant: part.Draw(rt, "tenant"), Subject: part.Draw(rt, "subject"), Session: fmt.Sprintf("%06d%s", n, part.Draw(rt, "session")),
			}
			if _, ok := told[k]; ok {
				continue
			}
			told[k] = fmt.Sprint(i)
			remember(t, m, k, copilot.Turn{Question: told[k]})
		}
		for k, want := range told {
			if got := recall(t, m, k); len(got) != 1 || got[0].Question != want {
				rt.Fatalf("%q holds %v, want only %q", k, got, want)
			}
		}
	})
}

func long(t *testing.T, m copilot.Memory) {
	k := copilot.SessionKey{Tenant: "acme", Subject: "ann", Session: "1"}
	for _, unit := range []string{"x", "é", "☂", "🌧", "a\xff", "\""} {
		text := strings.Repeat(unit, 2000)
		ids := make([]string, 1000)
		for i := range ids {
			ids[i] = fmt.Sprint("id", i)
		}
		remember(t, m, k, copilot.Turn{Question: text, Answer: text, IDs: ids})
		all := recall(t, m, k)
		got := all[len(all)-1]
		size := len(got.Question) + len(got.Answer)
		for i, id := range got.IDs {
			size += len(id)
			if id != ids[i] {
				t.Errorf("id %d is %q", i, id)
			}
		}
		if size > 1000 || len(got.Question) < 200 || len(got.Answer) < 400 || len(got.IDs) < 10 {
			t.Errorf("%q: %d bytes are kept, %d, %d and %d ids", unit, size, len(got.Question), len(got.Answer), len(got.IDs))
		}
		if !utf8.ValidString(got.Question) || !strings.HasSuffix(got.Answer, "…") || strings.Contains(unit, "\xff") == strings.HasPrefix(text, strings.TrimSuffix(got.Answer, "…")) {
			t.Errorf("%q was cut to %q", unit, got.Answer)
		}
	}
	remember(t, m, k, copilot.Turn{IDs: []string{strings.Repeat("x", 5000)}})
	all := recall(t, m, k)
	if got := all[len(all)-1]; len(got.IDs) > 0 {
		t.Errorf("half an id is kept: %q", got.IDs)
	}
}

func concurrent(t *testing.T, m copilot.Memory) {
	k := copilot.SessionKey{Tenant: "acme", Subject: "ann", Session: "1"}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				if err := m.Remember(t.Context(), k, copilot.Turn{Question: fmt.Sprint(i, "/", j)}); err != nil {
					t.Error(err)
				}
				got, err := m.Recall(t.Context(), k)
				if err != nil || len(got) == 0 || len(got) > 20 {
					t.Errorf("%d turns, %v", len(got), err)
				}
			}
		})
	}
	wg.Wait()
	got := recall(t, m, k)
	last := map[string]int{}
	for _, turn := range got {
		who, _, _ := strings.Cut(turn.Question, "/")
		var n int
		if _, err := fmt.Sscanf(turn.Question, who+"/%d", &n); err != nil {
			t.Fatalf("%q: %v", turn.Question, err)
		}
		if before, ok := last[who]; ok && n <= before {
			t.Errorf("%s after %s/%d", turn.Question, who, before)
		}
		last[who] = n
	}
	if len(got) != 20 {
		t.Errorf("%d turns are kept, want 20", len(got))
	}
}
