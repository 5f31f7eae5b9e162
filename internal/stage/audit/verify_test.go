package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/audit"
)

// fillLog writes n records, in files of about maxBytes.
func fillLog(t *testing.T, p string, n int, maxBytes int64) {
	t.Helper()
	l, err := audit.Open(audit.Config{Path: p, MaxBytes: maxBytes}, nil, quiet())
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if err := l.Record(t.Context(), atlas.AuditRecord{Tenant: "acme", Caller: "alice", Action: "test", Target: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func lines(t *testing.T, p string) [][]byte {
	t.Helper()
	data, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.SplitAfter(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))
}

func rewrite(t *testing.T, p string, lines [][]byte) {
	t.Helper()
	data := append(bytes.TrimSuffix(bytes.Join(lines, nil), []byte("\n")), '\n')
	if err := os.WriteFile(p, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTampering(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func([][]byte) [][]byte
		seq   uint64
		line  int
		why   string
	}{
		"a field changed": {func(l [][]byte) [][]byte {
			l[4] = bytes.Replace(l[4], []byte("alice"), []byte("mallo"), 1)
			return l
		}, 5, 5, audit.ReasonHash},
		"a member added": {func(l [][]byte) [][]byte {
			l[4] = bytes.Replace(l[4], []byte(`{"action"`), []byte(`{"aaa":1,"action"`), 1)
			return l
		}, 5, 5, audit.ReasonHash},
		"space added": {func(l [][]byte) [][]byte {
			l[4] = bytes.Replace(l[4], []byte(`,"seq"`), []byte(` ,"seq"`), 1)
			return l
		}, 5, 5, audit.ReasonHash},
		"number changed": {func(l [][]byte) [][]byte {
			l[4] = bytes.Replace(l[4], []byte(`"seq":5`), []byte(`"seq":6`), 1)
			return l
		}, 5, 5, audit.ReasonHash},
		"a line removed":     {func(l [][]byte) [][]byte { return slices.Delete(l, 4, 5) }, 6, 5, audit.ReasonSeq},
		"a line doubled":     {func(l [][]byte) [][]byte { return slices.Insert(l, 4, l[3]) }, 4, 5, audit.ReasonSeq},
		"two lines swapped":  {func(l [][]byte) [][]byte { l[4], l[5] = l[5], l[4]; return l }, 6, 5, audit.ReasonSeq},
		"garbage":            {func(l [][]byte) [][]byte { l[4] = []byte("garbage\n"); return l }, 5, 5, audit.ReasonUnreadable},
		"an empty line":      {func(l [][]byte) [][]byte { return slices.Insert(l, 4, []byte("\n")) }, 5, 5, audit.ReasonUnreadable},
		"a line too long":    {func(l [][]byte) [][]byte { l[4] = append(bytes.Repeat([]byte("x"), 3<<20), '\n'); return l }, 5, 5, audit.ReasonUnreadable},
		"the beginning gone": {func(l [][]byte) [][]byte { return l[4:] }, 5, 1, audit.ReasonStart},
		"the end gone":       {func(l [][]byte) [][]byte { return l[:8] }, 9, 8, audit.ReasonTail},
		"everything gone":    {func([][]byte) [][]byte { return nil }, 1, 0, audit.ReasonUnreadable},
	} {
		t.Run(name, func(t *testing.T) {
			p := path(t)
			fillLog(t, p, 10, 0)
			if rep := verify(t, p); !rep.OK() || rep.Records != 10 || rep.LastSeq != 10 || rep.HeadSeq != 10 {
				t.Fatalf("before: %+v", rep)
			}
			rewrite(t, p, tc.spoil(lines(t, p)))
			rep := verify(t, p)
			if rep.OK() {
				t.Fatal("not noticed")
			}
			got := rep.Faults[0]
			if name == "everything gone" {
				got = audit.Fault{File: got.File, Line: 0, Seq: got.Seq, Reason: got.Reason}
			}
			if got != (audit.Fault{File: "audit.jsonl", Line: tc.line, Seq: tc.seq, Reason: tc.why}) {
				t.Errorf("%v, want line %d, record %d, %s", rep.Faults, tc.line, tc.seq, tc.why)
			}
			if tc.why == audit.ReasonHash && len(rep.Faults) != 1 {
				t.Errorf("one record was changed, blamed are %v", rep.Faults)
			}
		})
	}
}

// Any byte of the log, flipped, is noticed, and no record before it is blamed.
func TestEveryByteCounts(t *testing.T) {
	p := path(t)
	fillLog(t, p, 4, 0)
	data, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	for i := range data {
		bad := bytes.Clone(data)
		bad[i] ^= 1 << rand.IntN(7)
		if err := os.WriteFile(p, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		rep := verify(t, p)
		line := 1 + bytes.Count(data[:i], []byte("\n"))
		if rep.OK() || rep.Faults[0].Line < line || rep.Faults[0].Line > line+1 {
			t.Fatalf("byte %d (line %d, %q to %q): %v", i, line, data[i], bad[i], rep.Faults)
		}
	}
}

// A log that is rewritten from some record on, with a chain that fits, is noticed by the head.
func TestRewrittenChain(t *testing.T) {
	p, other := path(t), path(t)
	fillLog(t, p, 10, 0)
	fillLog(t, other, 10, 0)
	rewrite(t, p, lines(t, other))
	if rep := verify(t, p); rep.OK() || rep.Faults[0].Reason != audit.ReasonHead || rep.Faults[0].Seq != 10 {
		t.Errorf("%v", rep.Faults)
	}
}

func TestRotation(t *testing.T) {
	p := path(t)
	for range 3 { // reopened in between
		fillLog(t, p, 30, 8192)
	}
	names, err := filepath.Glob(filepath.Join(filepath.Dir(p), "audit-*.jsonl"))
	if err != nil || len(names) < 3 {
		t.Fatalf("files %v, %v", names, err)
	}
	rep := verify(t, p)
	if !rep.OK() || rep.Records != 90 || rep.Files != len(names)+1 {
		t.Errorf("%+v", rep)
	}
	got := records(t, p, audit.Filter{})
	for i, r := range got {
		if r.Seq != uint64(i+1) {
			t.Fatalf("record %d has number %d", i, r.Seq)
		}
	}
	if last := records(t, p, audit.Filter{Limit: 7}); len(last) != 7 || last[0].Seq != 84 || last[6].Seq != 90 {
		t.Errorf("the newest seven: %+v", last)
	}
	// A file in the middle is taken away, and then the oldest.
	if err := os.Rename(names[1], names[1]+".away"); err != nil {
		t.Fatal(err)
	}
	if rep := verify(t, p); rep.OK() || rep.Faults[0].Reason != audit.ReasonSeq || rep.Faults[0].File != filepath.Base(names[2]) {
		t.Errorf("without the second file: %v", rep.Faults)
	}
	if err := os.Rename(names[1]+".away", names[1]); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(names[0]); err != nil {
		t.Fatal(err)
	}
	if rep := verify(t, p); rep.OK() || rep.Faults[0].Reason != audit.ReasonStart {
		t.Errorf("without the first file: %v", rep.Faults)
	}
	rep, err = audit.Verify(t.Context(), p, nil, audit.VerifyOptions{AllowMissingStart: true})
	if err != nil || !rep.OK() {
		t.Errorf("archived: %v, %v", rep.Faults, err)
	}
}

func TestTornEnd(t *testing.T) {
	for name, tail := range map[string]string{
		"half a line":             `{"action":"x","caller":"a`,
		"zeros":                   strings.Repeat("\x00", 5000),
		"a whole line of garbage": "{}\n",
		"huge":                    strings.Repeat("x", 1<<20),
	} {
		t.Run(name, func(t *testing.T) {
			p := path(t)
			fillLog(t, p, 3, 0)
			f, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString(tail); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			if rep := verify(t, p); rep.OK() || rep.Faults[0].Line != 4 {
				t.Errorf("before the repair: %v", rep.Faults)
			}
			fillLog(t, p, 2, 0)
			rep := verify(t, p)
			if !rep.OK() || rep.Records != 6 || len(rep.Torn) != 1 {
				t.Fatalf("after the repair: %+v", rep)
			}
			side, err := os.ReadFile(filepath.Join(filepath.Dir(p), rep.Torn[0]))
			if err != nil || string(side) != tail {
				t.Errorf("set aside %d bytes, want %d (%v)", len(side), len(tail), err)
			}
			if got := records(t, p, audit.Filter{}); got[3].Action != "audit.torn_tail" || !strings.Contains(got[3].Target, rep.Torn[0]) {
				t.Errorf("the log does not tell: %+v", got[3])
			}
		})
	}
}

// Who takes the head away hides a cut end, but not that.
func TestHeadTakenAway(t *testing.T) {
	p := path(t)
	if err := open(t, audit.Config{Path: p}).Close(); err != nil {
		t.Fatal(err)
	}
	if rep := verify(t, p); !rep.OK() || rep.Records != 0 {
		t.Errorf("a new log: %+v", rep)
	}
	fillLog(t, p, 10, 0)
	rewrite(t, p, lines(t, p)[:9])
	if err := os.Remove(p + ".head"); err != nil {
		t.Fatal(err)
	}
	want := []audit.Fault{{File: "audit.jsonl", Line: 9, Seq: 10, Reason: audit.ReasonNoHead}}
	if rep := verify(t, p); !slices.Equal(rep.Faults, want) {
		t.Errorf("%v, want %v", rep.Faults, want)
	}
	rep, err := audit.Verify(t.Context(), p, nil, audit.VerifyOptions{AllowMissingHead: true})
	if err != nil || !rep.OK() || rep.Records != 9 {
		t.Errorf("a copy without its head: %+v, %v", rep, err)
	}
	var logged bytes.Buffer
	l, err := audit.Open(audit.Config{Path: p}, nil, slog.New(slog.NewTextHandler(&logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(logged.String(), "level=ERROR") || !strings.Contains(logged.String(), "audit.head_missing") {
		t.Errorf("logged %q", &logged)
	}
	for range 2 { // told once, and not forgotten
		fillLog(t, p, 1, 0)
		n := 0
		for _, r := range records(t, p, audit.Filter{Kind: "admin"}) {
			if r.Action == "audit.head_missing" && r.Seq == 10 && r.Target == "after record 9" {
				n++
			}
		}
		if n != 1 {
			t.Errorf("the log tells %d times that its head was missing", n)
		}
	}
}

// A process that is killed between the first record and its sync leaves a log with a head.
func TestHeadIsThereBeforeTheFirstRecord(t *testing.T) {
	p := path(t)
	l := open(t, audit.Config{Path: p})
	audit.BreakDisk(l, nil, func(*os.File) error { return errors.New("never") })
	_ = l.Record(t.Context(), atlas.AuditRecord{Action: "x"})
	if rep := verify(t, p); !rep.OK() || rep.Records != 1 || rep.HeadSeq != 0 {
		t.Errorf("%+v", rep)
	}
}

// Only a last line can be torn. Whatever else cannot be read was not left by a crash: it stays where
// it is, for all to see.
func TestUnreadableLinesStay(t *testing.T) {
	for name, tc := range map[string]struct {
		n     int
		spoil func([]byte) []byte
		torn  int
		fault int // line of the first
	}{
		"other line ends":          {5, func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) }, 1, 1},
		"other line ends of a lot": {9000, func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) }, 1, 1},
		"two lines of garbage":     {5, func(b []byte) []byte { return append(b, "{}\n{}\n"...) }, 1, 6},
		"garbage and a torn line":  {5, func(b []byte) []byte { return append(b, "{}\n{"...) }, 1, 6},
	} {
		t.Run(name, func(t *testing.T) {
			p := path(t)
			fillBatch(t, p, tc.n)
			data, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			bad := tc.spoil(bytes.Clone(data))
			if err := os.WriteFile(p, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			last := bytes.LastIndexByte(bad[:len(bad)-1], '\n') + 1
			fillLog(t, p, 2, 0)
			fillLog(t, p, 2, 0)
			now, err := os.ReadFile(p)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.HasPrefix(now, bad[:last]) {
				t.Error("more than the last line was taken out of the log")
			}
			rep := verify(t, p)
			if rep.OK() || rep.Faults[0].Line != tc.fault || rep.Faults[0].Reason != audit.ReasonUnreadable || len(rep.Torn) != tc.torn {
				t.Fatalf("%v, torn %v", rep.Faults, rep.Torn)
			}
			side, err := os.ReadFile(filepath.Join(filepath.Dir(p), rep.Torn[0]))
			if err != nil || !bytes.Equal(side, bad[last:]) {
				t.Errorf("set aside %q, want %q (%v)", side, bad[last:], err)
			}
			told := 0
			for r, err := range audit.Query(t.Context(), p, audit.Filter{Kind: "admin"}) {
				if err == nil && r.Action == "audit.unreadable_lines" {
					told++
				}
			}
			if told != 1 {
				t.Errorf("the log tells %d times of unreadable lines", told)
			}
		})
	}
}

// With neither a readable record nor a head there is nothing to go on from.
func TestNothingToGoOnFrom(t *testing.T) {
	p := path(t)
	fillLog(t, p, 3, 0)
	data, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
	if err := errors.Join(os.WriteFile(p, bad, 0o600), os.Remove(p+".head")); err != nil {
		t.Fatal(err)
	}
	if l, err := audit.Open(audit.Config{Path: p}, nil, quiet()); err == nil {
		_ = l.Close()
		t.Error("opened")
	}
	if now, err := os.ReadFile(p); err != nil || !bytes.Equal(now, bad) {
		t.Errorf("the log was changed (%v)", err)
	}
}

// fillBatch writes n records without waiting for the disk after each.
func fillBatch(t *testing.T, p string, n int) {
	t.Helper()
	l := open(t, audit.Config{Path: p})
	h := stage(t, l).Stage(answer(atlas.Result{}, nil))
	for range n {
		if _, err := h(t.Context(), alice("read")); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// A cut end stays to be seen after the log is used again.
func TestCutEndIsNotForgotten(t *testing.T) {
	p := path(t)
	fillLog(t, p, 10, 0)
	rewrite(t, p, lines(t, p)[:7])
	fillLog(t, p, 1, 0)
	got := records(t, p, audit.Filter{Kind: "admin", Tool: ""})
	if last := got[len(got)-2]; last.Action != "audit.tail_missing" || last.Target != "records 8 to 10" || last.Seq != 11 {
		t.Errorf("%+v", last)
	}
	rep := verify(t, p)
	if rep.OK() || len(rep.Faults) != 1 || rep.Faults[0].Reason != audit.ReasonSeq || rep.Faults[0].Seq != 11 {
		t.Errorf("%+v", rep.Faults)
	}
	if err := os.Remove(p); err != nil {
		t.Fatal(err)
	}
	fillLog(t, p, 1, 0)
	if rep := verify(t, p); rep.OK() {
		t.Error("a removed log is not noticed")
	}
}

// Several processes, here several logs, append to one file, through rotations.
func TestSeveralWriters(t *testing.T) {
	p := path(t)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			l, err := audit.Open(audit.Config{Path: p, MaxBytes: 16 << 10}, nil, quiet())
			if err != nil {
				t.Error(err)
				return
			}
			h := stage(t, l).Stage(answer(atlas.Result{}, nil))
			for i := range 100 {
				c := alice([]string{"read", "write"}[i%2])
				c.ID = fmt.Sprintf("%d-%d", w, i)
				if _, err := h(t.Context(), c); err != nil {
					t.Error(err)
				}
				if i%25 == 0 { // an auditor at the same time
					if rep := verify(t, p); !rep.OK() {
						t.Errorf("while in use: %v", rep.Faults)
					}
				}
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	rep := verify(t, p)
	if !rep.OK() || rep.Records != 600 || len(rep.Torn) != 0 {
		t.Errorf("%+v", rep)
	}
	seen := map[string]int{}
	for _, r := range records(t, p, audit.Filter{}) {
		seen[r.RequestID+r.Kind]++
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s is there %d times", id, n)
		}
	}
}

func TestQuery(t *testing.T) {
	p := path(t)
	l := open(t, audit.Config{Path: p})
	h := stage(t, l).Stage(answer(atlas.Result{}, nil))
	for i := range 10 {
		c := alice("read")
		if i%2 == 1 {
			c.Tenant, c.ID = "acme2", "other"
			c.Principal = &atlas.Principal{Subject: "bob", Tenant: "acme2"}
		}
		if _, err := h(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	all := records(t, p, audit.Filter{})
	for name, tc := range map[string]struct {
		f    audit.Filter
		want int
	}{
		"all":        {audit.Filter{}, 10},
		"tenant":     {audit.Filter{Tenant: "acme"}, 5},
		"none":       {audit.Filter{Tenant: "acm"}, 0},
		"caller":     {audit.Filter{Caller: "bob"}, 5},
		"tool":       {audit.Filter{Tool: "read"}, 10},
		"status":     {audit.Filter{Status: "denied"}, 0},
		"request":    {audit.Filter{RequestID: "other"}, 5},
		"since":      {audit.Filter{Since: all[3].Time}, 7},
		"until":      {audit.Filter{Until: all[3].Time}, 3},
		"two":        {audit.Filter{Tenant: "acme", Limit: 2}, 2},
		"contradict": {audit.Filter{Tenant: "acme", Caller: "bob"}, 0},
	} {
		if got := records(t, p, tc.f); len(got) != tc.want {
			t.Errorf("%s: %d records, want %d", name, len(got), tc.want)
		}
	}
	if _, err := os.Stat(p + ".lock"); err != nil {
		t.Error(err)
	}
	errs := 0
	for _, err := range audit.Query(t.Context(), filepath.Join(t.TempDir(), "none.jsonl"), audit.Filter{}) {
		if err != nil {
			errs++
		}
	}
	if errs != 1 {
		t.Errorf("%d errors for a log that is not there", errs)
	}
}

// Whatever stands in a log, reading it neither panics nor finds a forged record sound.
func FuzzVerify(f *testing.F) {
	dir := f.TempDir()
	f.Add([]byte(`{"caller":"a","hash":"` + strings.Repeat("0", 64) + `","prev":"` + strings.Repeat("0", 64) + `","seq":1}` + "\n"))
	f.Add([]byte(`{"hash":"` + "\n\n"))
	f.Add([]byte(`,"hash":",","prev":",,"seq":`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := filepath.Join(dir, fmt.Sprintf("%d", rand.Int()), "audit.jsonl")
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(filepath.Dir(p)) }()
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		rep, err := audit.Verify(t.Context(), p, nil, audit.VerifyOptions{AllowMissingStart: true})
		if err != nil || len(data) > 0 && rep.OK() {
			t.Fatalf("%+v, %v", rep, err)
		}
		for r, err := range audit.Query(t.Context(), p, audit.Filter{Limit: 3}) {
			if err != nil && r.Seq != 0 {
				t.Fatalf("a record beside an error: %+v, %v", r, err)
			}
		}
		l, err := audit.Open(audit.Config{Path: p}, nil, quiet())
		if err != nil {
			return
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	p := filepath.Join(b.TempDir(), "audit.jsonl")
	l, err := audit.Open(audit.Config{Path: p}, nil, quiet())
	if err != nil {
		b.Fatal(err)
	}
	a, err := audit.New(audit.Deps{Log: l, Key: key, Lookup: lookup}, quiet())
	if err != nil {
		b.Fatal(err)
	}
	h := a.Stage(answer(atlas.Result{}, nil))
	const n = 20_000
	for range n {
		_, _ = h(b.Context(), alice("read"))
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		rep, err := audit.Verify(b.Context(), p, nil, audit.VerifyOptions{})
		if err != nil || !rep.OK() || rep.Records != n {
			b.Fatal(rep, err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/record")
}
