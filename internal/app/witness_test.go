package app

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/audit"
	"github.com/atlas-mcp/atlas/internal/state"
	"github.com/atlas-mcp/atlas/internal/state/memory"
)

// awayKV is a state that can be taken away.
type awayKV struct {
	kv
	away bool
}

var errAway = errors.New("away")

func (k *awayKV) Get(ctx context.Context, space, key string) ([]byte, int64, error) {
	if k.away {
		return nil, 0, errAway
	}
	return k.kv.Get(ctx, space, key)
}

func (k *awayKV) CompareAndSet(ctx context.Context, space, key string, version int64, value []byte, expires time.Time) (int64, error) {
	if k.away {
		return 0, errAway
	}
	return k.kv.CompareAndSet(ctx, space, key, version, value, expires)
}

func openWitness(t *testing.T, path string, store kv, id string) *witness {
	t.Helper()
	return newWitness(audit.FileHead(path), store, []byte(id), slog.New(slog.DiscardHandler))
}

// A log whose end is cut off, with the head beside it cut to match, is found by the witness.
func TestWitnessSeesACutEnd(t *testing.T) {
	store, err := memory.New(state.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	l, err := audit.Open(audit.Config{Path: path}, openWitness(t, path, store, "a"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	var headBefore, logBefore []byte
	for i := range 4 {
		if err := l.Record(t.Context(), atlas.AuditRecord{Kind: "admin", Action: "test", Status: "ok"}); err != nil {
			t.Fatal(err)
		}
		if err := l.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			logBefore, headBefore = read(t, path), read(t, path+".head")
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	verify := func(head audit.Head) bool {
		report, err := audit.Verify(t.Context(), path, head, audit.VerifyOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return report.OK()
	}
	if !verify(nil) || !verify(openWitness(t, path, store, "a")) {
		t.Fatal("the whole log does not verify")
	}
	if err := errors.Join(os.WriteFile(path, logBefore, 0o600), os.WriteFile(path+".head", headBefore, 0o600)); err != nil {
		t.Fatal(err)
	}
	if !verify(nil) {
		t.Error("the head beside the log was cut to match: it cannot tell")
	}
	if verify(openWitness(t, path, store, "a")) {
		t.Error("the witness does not see that the end was cut off")
	}
	if !verify(openWitness(t, path, store, "another log")) {
		t.Error("another log's witness speaks for this one")
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A witness never moves back, and a state that is away stops nothing.
func TestWitnessMovesOn(t *testing.T) {
	store, err := memory.New(state.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	away := &awayKV{kv: store}
	w, hash := openWitness(t, path, away, "a"), func(c string) string { return strings.Repeat(c, 64) }
	at := func(want uint64) {
		t.Helper()
		if seq, _, err := openWitness(t, path+".gone", store, "a").Get(); seq != want || err != nil {
			t.Errorf("the state has %d, %v; want %d", seq, err, want)
		}
	}
	for _, seq := range []uint64{1, 5, 3} {
		if err := w.Set(seq, hash("a")); err != nil {
			t.Fatal(err)
		}
	}
	at(5)
	other := openWitness(t, path, store, "a") // the process after a restart
	if err := other.Set(7, hash("b")); err != nil {
		t.Fatal(err)
	}
	if err := w.Set(8, hash("c")); err != nil { // over a version that it has not seen
		t.Fatal(err)
	}
	at(8)
	away.away = true
	if err := w.Set(9, hash("d")); err != nil {
		t.Errorf("a state that is away stops the log: %v", err)
	}
	if seq, got, err := w.Get(); seq != 9 || got != hash("d") || err != nil {
		t.Errorf("got %d, %.4s, %v", seq, got, err)
	}
	at(8)
	if !bytes.Contains(read(t, path+".head"), []byte("9 d")) {
		t.Error("the head beside the log was not set")
	}
}
