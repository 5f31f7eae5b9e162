//go:build unix

package e2e_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	root "github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// settle looks at what the store has in the end: each acknowledged write once, with its content; others
// at most once, also after they were repeated with their key.
func (l *traffic) settle(t *testing.T, r *realSite, led *ledger, all []*write) {
	t.Helper()
	l.enter("settling")
	var open, running, again int
	for _, w := range all {
		if !w.acknowledged {
			open++
			if l.finish(t.Context(), w, led); !w.acknowledged {
				running++
			}
		}
	}
	store, err := r.objects(faultBucket).Open(t.Context(), source.Deps{Name: "check", DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close() //nolint:errcheck // read
	objects := store.(source.ObjectStore)
	there := map[string]int{}
	looked := map[string]bool{} // folders, of a hundred objects at most
	for _, w := range all {
		folder := path.Dir(objectPath(w.by.tenant, w.key))
		if looked[folder] {
			continue
		}
		looked[folder] = true
		list, err := objects.List(t.Context(), root.TenantID(w.by.tenant), path.Dir(w.key)+"/", 1000)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range list {
			there[objectPath(w.by.tenant, o.Key)]++
		}
	}
	expected := map[string]bool{}
	for _, w := range all {
		where := objectPath(w.by.tenant, w.key)
		expected[where] = true
		puts := led.count(where)
		if puts > 1 {
			again++
		}
		switch {
		case w.acknowledged && there[where] != 1:
			t.Errorf("%s was acknowledged and is there %d times", where, there[where])
		case w.acknowledged && puts == 0:
			t.Errorf("%s was acknowledged, and the store never took it", where)
		case !w.unsure && puts > 1:
			t.Errorf("%s was done %d times, and no fault explains that", where, puts)
		case there[where] > 1:
			t.Errorf("%s is there %d times", where, there[where])
		}
		if there[where] == 0 {
			continue
		}
		if got := content(t.Context(), objects, w); got != w.content {
			t.Errorf("%s holds %q, want %q", where, got, w.content)
		}
	}
	for where := range there {
		if !expected[where] {
			t.Errorf("%s is there, and nobody wrote it", where)
		}
	}
	if len(led.wrong) > 0 {
		t.Errorf("written with another content than was asked for: %v", led.wrong)
	}
	t.Logf("%d writes, %d not acknowledged at the end of the load; repeated, %d of these still had the lease of a process that died. "+
		"%d were done again under a fault that left their first outcome unknown, with the same content", len(all), open, running, again)
}

func content(ctx context.Context, objects source.ObjectStore, w *write) string {
	o, err := objects.Get(ctx, root.TenantID(w.by.tenant), w.key, 1<<20)
	if err != nil {
		return err.Error()
	}
	return string(o.Content)
}

// print writes the table into the test's log, and into e2e/out.
func (l *traffic) print(t *testing.T) {
	t.Helper()
	l.mu.Lock()
	table := tabulate(l.samples)
	l.mu.Unlock()
	t.Logf("\n%s", table)
	if err := os.MkdirAll("out", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join("out", "faults.md"), []byte(table), 0o644); err != nil {
		t.Fatal(err)
	}
}

// tabulate makes the table: a row for each phase and store, steady phases together.
func tabulate(samples []sample) string {
	type row struct{ phase, group string }
	var phases []string
	rows := map[row][]sample{}
	for _, s := range samples {
		phase := s.phase
		if strings.HasPrefix(phase, "steady") {
			phase = "no fault"
		}
		if phase == "warming up" || phase == "settling" {
			continue
		}
		if !slices.Contains(phases, phase) {
			phases = append(phases, phase)
		}
		for _, group := range []string{"all reads", s.group} {
			if group == "all reads" && (s.group == "writes" || s.group == "read back") {
				continue
			}
			rows[row{phase, group}] = append(rows[row{phase, group}], s)
		}
	}
	var b strings.Builder
	b.WriteString("| Fault | Store | Calls | Success | p50 | p99 | Codes |\n|---|---|---:|---:|---:|---:|---|\n")
	for _, phase := range phases {
		for _, group := range []string{"all reads", "crm", "kb", "tickets", "hybrid", "files", "writes", "read back"} {
			list := rows[row{phase, group}]
			if len(list) == 0 {
				continue
			}
			codes, times := map[string]int{}, make([]time.Duration, 0, len(list))
			good := 0
			for _, s := range list {
				times = append(times, s.took)
				// To be asked for an approval is the way of a write, and not to be there that of what is to be written.
				if s.code == "" || s.code == string(root.CodeApprovalRequired) || s.code == string(root.CodeNotFound) {
					good++
				} else {
					codes[s.code]++
				}
			}
			slices.Sort(times)
			var told []string
			for _, code := range slices.Sorted(maps.Keys(codes)) {
				told = append(told, fmt.Sprintf("%s %d", code, codes[code]))
			}
			fmt.Fprintf(&b, "| %s | %s | %d | %.1f %% | %s | %s | %s |\n", phase, group, len(list), 100*float64(good)/float64(len(list)),
				percentile(times, 50), percentile(times, 99), strings.Join(told, ", "))
		}
	}
	return b.String()
}

// percentile returns a percentile of sorted times.
func percentile(sorted []time.Duration, percent int) string {
	i := min(len(sorted)*percent/100, len(sorted)-1)
	return fmt.Sprintf("%.1f ms", float64(sorted[i].Microseconds())/1000)
}
