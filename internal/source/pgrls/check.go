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

	"github.com/jackc/pgx/v5"

	"github.com/atlas-mcp/atlas"
)

//go:embed catalog.sql
var catalogSQL string

// checkTime bounds one check, beside the time to connect.
const checkTime = 5 * time.Second

// check looks at role and tables and keeps what it found. It returns why queries are refused.
func (db *DB) check(ctx context.Context) error {
	report, err := db.look(ctx)
	if SQLState(err) == "08P01" && !db.conn.PgBouncer { // protocol_violation
		err = atlas.Errorf(atlas.CodeSourceMisused, fmt.Errorf("a pooler that does not know the connection's parameters is in between: set pgbouncer: true: %w", err), "")
	} else if err != nil {
		err = Failure(ctx, err)
	} else {
		err = report.refusal()
	}
	db.keep(ctx, report, err)
	return err
}

// look asks the server, on a connection of its own: a pool whose connections are all in use is no
// reason to refuse.
func (db *DB) look(ctx context.Context) (_ Report, err error) {
	conn, err := pgx.ConnectConfig(ctx, db.pool.Config().ConnConfig)
	if err != nil {
		return Report{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx)) //nolint:errcheck // it was only asked
	schemas := []string{db.conn.Schema}
	if db.conn.Extensions != "" && db.conn.Extensions != db.conn.Schema {
		schemas = append(schemas, db.conn.Extensions)
	}
	var text []byte
	if err := conn.QueryRow(ctx, catalogSQL, schemas, db.opt.Tables, db.conn.TenantSetting, slices.Sorted(maps.Keys(forging))).Scan(&text); err != nil {
		return Report{}, err
	}
	var c catalog
	if err := json.Unmarshal(text, &c); err != nil {
		return Report{}, fmt.Errorf("decode catalog: %w", err)
	}
	r := Report{Version: c.Version, Role: c.User, Findings: c.findings(db.opt, db.conn)}
	r.agents = r.Against(Agents)
	return r, nil
}

// keep stores what a check found and logs what changed. The last report stays while the server
// cannot be asked.
func (db *DB) keep(ctx context.Context, report Report, err error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	was, old := db.refused, db.report.Load()
	db.refused = ""
	if err != nil {
		db.refused = err.Error()
	}
	if report.Version == 0 {
		if db.refused != was {
			db.opt.Log.LogAttrs(ctx, slog.LevelError, "source refuses all queries", slog.Any("error", err))
		}
		return
	}
	db.report.Store(&report)
	switch {
	case err != nil && db.refused != was:
		db.opt.Log.LogAttrs(ctx, slog.LevelError, "source refuses all queries", slog.Any("error", err))
	case err == nil && was != "":
		db.opt.Log.LogAttrs(ctx, slog.LevelInfo, "source answers queries again")
	}
	if err == nil && (old == nil || !slices.EqualFunc(old.Findings, report.Findings, func(a, b Finding) bool { return a.String() == b.String() })) {
		for _, f := range report.Findings {
			db.opt.Log.LogAttrs(ctx, slog.LevelWarn, "database could be safer", slog.String("stands_against", string(f.Level)), slog.String("finding", f.String()))
		}
	}
}

// watch checks again and again until Close.
func (db *DB) watch() {
	defer close(db.done)
	tick := time.NewTicker(db.conn.CheckInterval)
	defer tick.Stop()
	for {
		select {
		case <-db.life.Done():
			return
		case <-tick.C:
			_ = db.gate.Check(db.life) // the gate keeps it, and the log tells it when it changes
		}
	}
}

// Ping asks the server whether it can answer, and checks role and tables again.
func (db *DB) Ping(ctx context.Context) error { return db.gate.Check(ctx) }

// Report returns what the last check that reached the server found: warnings, and what stands
// against agents' SQL. It is empty before one.
func (db *DB) Report() Report {
	if r := db.report.Load(); r != nil {
		return *r
	}
	return Report{}
}

// unavailable reports whether err only says that the server cannot be asked now.
func unavailable(err error) bool {
	c := atlas.CodeOf(err)
	return c == atlas.CodeSourceUnavailable || c == atlas.CodeTimeout
}
