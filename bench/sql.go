package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/atlas-mcp/atlas/internal/app"
)

// The SQL rows: one order by its id out of Postgres, through row-level security, asked for and
// answered as the in-memory tool does.

const (
	sqlTenant = "acme"
	// sqlConns is how many connections each server has to the database: the default of Atlas.
	sqlConns = 10
	// sqlAnswer is the row as a JSON object.
	sqlAnswer = `{"id":"o_9002","customer_id":"CUST-1001","status":"refund_pending","total_cents":4900,"currency":"USD"}`
	sqlOrder  = `SELECT id, customer_id, status, total_cents, currency FROM orders WHERE id = `
	// sqlTimeout is how long a statement may take, in milliseconds: what Atlas tells the server.
	sqlTimeout = "4864"
)

// An order is a row of the table.
type order struct {
	ID         string `json:"id"`
	CustomerID string `json:"customer_id"`
	Status     string `json:"status"`
	TotalCents int64  `json:"total_cents"`
	Currency   string `json:"currency"`
}

// plainPgx answers out of Postgres with net/http, encoding/json and pgx, and does nothing else: what a
// Go program has to pay that binds a query to its tenant in one round trip. The commands before and after
// the query are the caller's; pgx prepares them, as it does by default.
func plainPgx(pool *pgxpool.Pool, before, after []string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "read", http.StatusBadRequest)
			return
		}
		var in plainRequest
		if err := json.Unmarshal(body, &in); err != nil || in.Params.Name != toolName {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		var args struct {
			ID string `json:"order_id"`
		}
		if err := json.Unmarshal(in.Params.Arguments, &args); err != nil {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		o, err := ask(r.Context(), pool, before, after, args.ID)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		structured, err := json.Marshal(o)
		if err != nil {
			http.Error(w, "encode", http.StatusInternalServerError)
			return
		}
		in.answer(w, structured)
	})
}

// ask sends the commands and the query at once.
func ask(ctx context.Context, pool *pgxpool.Pool, before, after []string, id string) (o order, err error) {
	var batch pgx.Batch
	for _, command := range before {
		batch.Queue(command)
	}
	batch.Queue(sqlOrder+"$1", id)
	for _, command := range after {
		batch.Queue(command)
	}
	results := pool.SendBatch(ctx, &batch)
	defer func() { err = errors.Join(err, results.Close()) }()
	for range before {
		if _, err := results.Exec(); err != nil {
			return o, err
		}
	}
	err = results.QueryRow().Scan(&o.ID, &o.CustomerID, &o.Status, &o.TotalCents, &o.Currency)
	return o, err
}

// sqlBatch is the batch that Atlas sends with each query; sqlRecipe is the least that binds a tenant.
// Postgres takes a batch as one transaction, but warns in its log of a SET LOCAL without BEGIN.
var (
	sqlBatch = [2][]string{
		{"BEGIN READ ONLY", "SET LOCAL app.tenant_id = '" + sqlTenant + "'", "SET LOCAL statement_timeout = " + sqlTimeout},
		{"COMMIT"},
	}
	sqlRecipe = [2][]string{{"SET LOCAL app.tenant_id = '" + sqlTenant + "'"}, nil}
)

// servePgx is net/http and pgx alone.
func servePgx(ctx context.Context, ln net.Listener, db database, commands [2][]string) (serving, error) {
	pc, err := pgxpool.ParseConfig(db.dsn(db.Reader))
	if err != nil {
		return serving{}, err
	}
	pc.MaxConns = sqlConns
	if db.Pooled { // it knows no prepared statements
		pc.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return serving{}, err
	}
	return serving{
		hello: plainHello(ln), serve: serveHTTP(ctx, ln, plainPgx(pool, commands[0], commands[1])), close: func() error { pool.Close(); return nil },
	}, nil
}

// serveAtlasSQL is Atlas with all stages on and one tool of the operator's, without cache.
func serveAtlasSQL(ctx context.Context, ln net.Listener, db database) (serving, error) {
	source, err := json.Marshal(map[string]any{"dsn": db.dsn(db.Reader), "pgbouncer": db.Pooled, "tables": []string{"orders"}, "max_conns": sqlConns})
	if err != nil {
		return serving{}, err
	}
	return serveAtlas(ctx, ln, map[string]string{
		"atlas.yaml":  benchLimits + "sources:\n  crm: {kind: postgres, with: " + string(source) + ", tools: {expose: []}}\n" + sqlConfig,
		"tools.yaml":  sqlTool,
		"policy.yaml": sqlPolicy,
	}, app.Options{})
}

const sqlConfig = `
tools: {files: [tools.yaml]}
roles: {bench: ["tool:crm:read"]}
`

const sqlPolicy = `
rules:
  - id: bench
    subjects: ["role:bench"]
    actions: ["tool:crm:read"]
    resources: ["tenant:*/crm/*"]
  - id: no-such-order
    subjects: ["*"]
    actions: ["tool:crm:read"]
    resources: ["tenant:*/crm/*"]
    effect: deny
    when: context.args.order_id == "o_0"
`

const sqlTool = `
tools:
  ` + toolName + `:
    source: crm
    description: ` + toolDescription + `
    input:
      order_id: {type: string, pattern: "^o_[0-9]+$", description: "order id, for example o_9002"}
    sql: ` + sqlOrder + `:order_id
    single: true
    output:
      id: {type: string}
      customer_id: {type: string}
      status: {type: string}
      total_cents: {type: integer}
      currency: {type: string}
    scopes: [tool:crm:read]
    cache: 0s
    timeout: 5s
`
