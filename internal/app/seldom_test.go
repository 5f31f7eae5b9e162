package app

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas/internal/state/redis"
)

func TestSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		begun := time.Now()
		var done []time.Duration
		s := newSeldom(2*time.Second, func(context.Context) { done = append(done, time.Since(begun)) })
		ended := make(chan error, 1)
		go func() { ended <- s.run(ctx) }()
		for _, at := range []time.Duration{0, time.Millisecond, time.Second, 1999 * time.Millisecond, 3 * time.Second, time.Minute} {
			time.Sleep(time.Until(begun.Add(at))) // the bubble's clock
			for range 1000 {
				s.ask()
			}
			synctest.Wait()
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if diff := cmp.Diff([]time.Duration{0, 2 * time.Second, 4 * time.Second, time.Minute}, done); diff != "" {
			t.Error(diff)
		}
	})
}

// lines counts what is logged.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// Whoever may talk on the bus cannot keep a replica busy with reloading, nor keep it from hearing the rest.
func TestFloodOfReloads(t *testing.T) {
	dir, log := t.TempDir(), &lines{}
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "atlas.yaml"), []byte("sources: {}\ntools: {files: []}\nredis: {url: \"redis://127.0.0.1:1\"}\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte("rules: []\n"), 0o600),
	); err != nil {
		t.Fatal(err)
	}
	a, err := Open(t.Context(), Options{ConfigFile: filepath.Join(dir, "atlas.yaml"), DataDir: filepath.Join(dir, "data"), LogTo: log, LogLevel: slog.LevelInfo.String()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	serveLife(t, a)
	const flood = 500
	begun := time.Now()
	for range flood {
		a.heard(t.Context(), redis.Message{Topic: redis.TopicReload})
		a.heard(t.Context(), redis.Message{Topic: redis.TopicGap})
	}
	within(t, "a reload", func() bool { return log.count("configuration reloaded") > 0 })
	count := log.count("configuration reloaded")
	if got, most := log.count("configuration reloaded"), 2+int(time.Since(begun)/reloadPause); got > most {
		t.Errorf("%d reloads of %d that were asked for, at most %d in that time", got, flood, most)
	}
	a.heard(t.Context(), redis.Message{Topic: redis.TopicReload})
	within(t, "one that is asked for meanwhile is not forgotten", func() bool { return log.count("configuration reloaded") > count })
}
