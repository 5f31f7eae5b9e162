package mcp_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/sqlite"
)

// endless would take SQLite longer than anybody waits: 10^18 rows.
const endless = `SELECT count(*) FROM n a, n b, n c, n d, n e, n f`

// A client that goes takes its statement with it: in a real SQLite, from a real socket, in both eras.
// The statement would never end by itself and the source's own limit is an hour away, so that it ends
// at all is the interruption. That it has begun is known from the one connection, which nobody else
// can have meanwhile.
func TestDisconnectInterruptsTheStatement(t *testing.T) {
	cfg := &sqlite.Config{Tables: []string{"n"}, Timeout: time.Hour, MaxConns: 1}
	src, err := cfg.Open(t.Context(), source.Deps{Name: "db", DataDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = src.Close() }()
	rows := make([][]any, 1000)
	for i := range rows {
		rows[i] = []any{int64(i)}
	}
	data := source.Data{Tables: []source.TableData{{Name: "n", Columns: []source.Column{{Name: "id", Type: "INTEGER"}}, Rows: rows}}}
	if err := src.(source.Loader).Load(t.Context(), "acme", data); err != nil {
		t.Fatal(err)
	}
	db := src.(source.Querier)
	// free reports whether the connection can be had.
	free := func(wait time.Duration) bool {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		_, err := db.Query(ctx, "acme", source.Query{SQL: `SELECT id FROM n LIMIT 1`})
		return err == nil
	}

	ended := make(chan error, 1)
	h := newHouse(t, options{serve: func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
		_, err := db.Query(ctx, c.Tenant, source.Query{SQL: endless})
		ended <- err
		return atlas.Result{Structured: json.RawMessage(`{}`)}, err
	}})
	tok := h.token(t, issuer.Claims{})
	for _, era := range eras {
		fastest := time.Hour
		for range 5 {
			ctx, cancel := context.WithCancel(t.Context())
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL+"/mcp", strings.NewReader(message(era, "tools/call", `"name":"echo"`, "")))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header = http.Header{
					"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"}, "Mcp-Protocol-Version": {era},
					"Mcp-Method": {"tools/call"}, "Mcp-Name": {"echo"}, "Authorization": {"Bearer " + tok},
				}
				if resp, err := h.Client().Do(req); err == nil {
					_ = resp.Body.Close()
					t.Error("the call was answered")
				}
			}()
			eventually(t, "the statement runs", func() bool { return !free(20 * time.Millisecond) })
			cancel()
			begun := time.Now()
			if err := <-ended; err == nil {
				t.Error("the statement ended by itself")
			}
			fastest = min(fastest, time.Since(begun))
			<-gone
			eventually(t, "the connection is free again", func() bool { return free(time.Second) })
		}
		// Of five, because the machine may be busy; what works by luck or by a timer does not pass.
		if fastest > 100*time.Millisecond {
			t.Errorf("%s: interrupted %v after the disconnect", era, fastest)
		}
		t.Logf("%s: interrupted %v after the disconnect", era, fastest)
	}
}
