package pgrls

import (
	"context"
	_ "embed" // catalog.sql
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/atlas-mcp/atlas"
)

//go:embed catalog.sql
var catalogSQL string

// checkTime bounds one check, beside the time to connect.
const checkTime = 5 * time.Second

// A flight is one check that is running; all who want one wait for the same.
type flight struct {
	done chan struct{}
	err  error // set before done is closed
}

// check looks at role and tables and keeps what it found. It returns why queries are refused, or why
// it could not look.
func (db *DB) check(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return Failure(ctx, err)
	}
	db.mu.Lock()
	fl := db.running
	if fl == nil {
		if db.closed.Load() {
			db.mu.Unlock()
			return errClosed()
		}
		fl = &flight{done: make(chan struct{})}
		db.running = fl
		go db.fly(fl)
	}
	db.mu.Unlock()
	select {
	case <-fl.done:
		return fl.err
	case <-ctx.Done():
		return Failure(ctx, ctx.Err())
	}
}

// fly runs one check, for as long as the source lives and checkTime.
func (db *DB) fly(fl *flight) {
	ctx, cancel := context.WithTimeout(db.life, db.conn.ConnectTimeout+checkTime)
	defer cancel()
	report, err := db.look(ctx)
	if err != nil {
		err = db.failure(ctx, err)
		if atlas.CodeOf(err) == atlas.CodeTimeout {
			err = atlas.Errorf(atlas.CodeSourceUnavailable, err, "")
		}
	} else {
		err = report.refusal()
	}
	db.keep(report, err)
	db.mu.Lock()
	db.running = nil
	db.mu.Unlock()
	fl.err = err
	close(fl.done)
}

// look asks the server.
func (db *DB) look(ctx context.Context) (Report, error) {
	schemas := []string{db.conn.Schema}
	if db.conn.Extensions != "" && db.conn.Extensions != db.conn.Schema {
		schemas = append(schemas, db.conn.Extensions)
	}
	var text []byte
	err := db.pool.QueryRow(ctx, catalogSQL, schemas, db.opt.Tables, db.conn.TenantSetting, slices.Sorted(maps.Keys(forging))).Scan(&text)
	if err != nil {
		return Report{}, err
	}
	var c catalog
	if err := json.Unmarshal(text, &c); err != nil {
		return Report{}, fmt.Errorf("decode catalog: %w", err)
	}
	return Report{Version: c.Version, Role: c.User, Findings: c.findings(db.opt, db.conn)}, nil
}

// keep stores what a check found. When the server could not be asked, what was found before holds
// for a few checks more: a pool that is busy is no reason to refuse.
func (db *DB) keep(report Report, err error) {
	old := db.state.Load()
	if atlas.CodeOf(err) == atlas.CodeSourceUnavailable {
		if old != nil && old.err == nil && time.Since(old.at) < 4*db.conn.CheckInterval {
			return
		}
		if old != nil {
			report = old.report
		}
	}
	db.state.Store(&state{report: report, err: err, at: time.Now()})
	was := old != nil && old.err != nil
	switch {
	case err != nil && (!was || old.err.Error() != err.Error()):
		db.opt.Log.LogAttrs(db.life, slog.LevelError, "source refuses all queries", slog.Any("error", err))
	case err == nil && was:
		db.opt.Log.LogAttrs(db.life, slog.LevelInfo, "source answers queries again")
	}
	if err == nil && (old == nil || !slices.EqualFunc(old.report.Findings, report.Findings, func(a, b Finding) bool { return a.String() == b.String() })) {
		for _, f := range report.Findings {
			db.opt.Log.LogAttrs(db.life, slog.LevelWarn, "database could be safer", slog.String("stands_against", string(f.Level)), slog.String("finding", f.String()))
		}
	}
}
