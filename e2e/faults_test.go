//go:build unix

package e2e_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	root "github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/elasticsearch"
	"github.com/atlas-mcp/atlas/internal/source/lexical"
	"github.com/atlas-mcp/atlas/internal/source/pgvector"
	"github.com/atlas-mcp/atlas/internal/source/postgres"
	"github.com/atlas-mcp/atlas/internal/testenv"
	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

// What the test's site has beside the shipped profile: a tool that is not cached, limits that the load
// does not reach, and circuits that look again after a second.
const (
	faultTools = `tools:
  fault_order:
    source: crm
    title: An order, uncached
    description: One order by id, with its note, always from the database. For the test of faults.
    input:
      order_id: {type: string, pattern: "^o_[0-9]{1,12}$", description: "order id, for example o_1"}
    sql: SELECT id, note FROM orders WHERE id = :order_id
    single: true
    cache: 0s
    timeout: 5s
`
	faultRules = `
  - {id: writers-read-what-they-wrote, subjects: ["role:human_agent"], actions: ["tool:files:read"], resources: ["tenant:*/files/attachments/*"]}
`
	faultSettings = `
flood: {rate: 1000000, burst: 1000000}
ratelimit:
  tenant: {rate: 1000000, burst: 1000000}
  tool: {rate: 1000000, burst: 1000000}
  caller: {rate: 1000000, burst: 1000000}
approval: {max_per_subject: 1000, max_per_tenant: 10000}
breaker: {recovery: 1s}
`
)

// openFaults starts everything that the stack profile needs, with marked data of both tenants under the same ids.
func openFaults(t *testing.T) (*realSite, *ledger, string) {
	t.Helper()
	began := time.Now()
	r := realServers(t, func(servers.Kind) servers.Options { return servers.Options{} },
		testenv.Postgres, testenv.Redis, testenv.S3, testenv.OpenSearch)
	site(t, func(f files) {
		f.write("tools/faults.yaml", faultTools)
		f.write("policy.yaml", f.read("policy.yaml")+faultRules)
		f.replace("stack.yaml", "  listen: 127.0.0.1:8080\n", "  listen: 127.0.0.1:8080\n  public_url: "+publicURL+"\n")
		// A call that waited for the state for as long as that may take, and not only for its own turn, would be late.
		f.replace("stack.yaml", "    load_dsn: ${env:ATLAS_STATE_LOAD_DSN:-}\n", "    load_dsn: ${env:ATLAS_STATE_LOAD_DSN:-}\n    timeout: 1m\n")
		f.write("stack.yaml", f.read("stack.yaml")+faultSettings)
		r.config = filepath.Join(f.dir, "stack.yaml")
	})
	data := t.TempDir()
	r.atlas(data, "seed")
	embed, err := lexical.New(lexical.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for _, tenant := range tenants {
		crm := source.TableData{Name: "orders"}
		for _, column := range []string{"id", "note", "status", "customer_id", "currency", "created_at", "updated_at"} {
			crm.Columns = append(crm.Columns, source.Column{Name: column, Type: "TEXT"})
		}
		crm.Columns = append(crm.Columns, source.Column{Name: "total_cents", Type: "INTEGER"})
		customers := source.TableData{
			Name: "customers", Columns: []source.Column{{Name: "id", Type: "TEXT"}, {Name: "name", Type: "TEXT"}},
			Rows: [][]any{{"CUST-77000", mark(tenant, "customer")}},
		}
		var tickets, documents []source.Document
		var objects []source.Object
		for i := range records {
			crm.Rows = append(crm.Rows, []any{fmt.Sprintf("o_%d", 77000+i), mark(tenant, fmt.Sprintf("order %d", i)), "paid", "CUST-77000", "USD", "2026-01-01", "2026-01-02", 100})
			text := mark(tenant, fmt.Sprintf("number%d", i))
			tickets = append(tickets, source.Document{
				ID: fmt.Sprintf("t_%d", 77000+i), Title: text, Body: text + " is a ticket",
				Attrs: map[string]any{"status": "open", "priority": "low", "customer_id": "CUST-77000", "order_id": "o_77000", "author": "nobody"},
			})
			documents = append(documents, source.Document{ID: fmt.Sprintf("doc_fault_%d", i), Title: text, Body: text + " is a document", URL: "https://help.example/" + fmt.Sprint(i)})
			for _, key := range []string{fmt.Sprintf("docs/fault-%d.txt", i), fmt.Sprintf("docs/zqmark%s-%d.txt", tenant, i)} {
				objects = append(objects, source.Object{ObjectInfo: source.ObjectInfo{Key: key}, ContentType: "text/plain", Content: []byte(text)})
			}
		}
		kb := &pgvector.Config{Connection: r.connection(), Table: "kb"}
		search := r.env["ATLAS_ELASTICSEARCH_URL"]
		for _, one := range []struct {
			driver source.Config
			data   source.Data
		}{
			{&postgres.Config{Connection: r.connection(), Tables: []string{"customers", "orders"}}, source.Data{Tables: []source.TableData{customers, crm}}},
			{kb, source.Data{Documents: documents}},
			{&elasticsearch.Config{URL: search, Index: "atlas-tickets", Attributes: map[string]string{
				"status": "keyword", "priority": "keyword", "customer_id": "keyword", "order_id": "keyword", "author": "keyword",
			}}, source.Data{Documents: tickets}},
			{&elasticsearch.Config{URL: search, Index: "atlas-docs"}, source.Data{Documents: documents}},
			{r.objects(faultBucket), source.Data{Objects: objects}},
		} {
			load(t, tenant, one.driver, embed, one.data)
		}
	}
	led := newLedger(t, r.env["ATLAS_S3_ENDPOINT"])
	r.env["ATLAS_S3_ENDPOINT"] = led.server.URL
	t.Logf("servers and data ready after %s", time.Since(began).Round(100*time.Millisecond))
	return r, led, data
}

// A fault is what happens to one of the things that Atlas depends on, under load.
type fault struct {
	name   string
	shaky  bool // nobody can know what became of a write into which it falls
	strike func() error
	seen   map[string]func() bool // what must be seen before it is mended
	mend   func() error
	back   map[string]func() bool // what must be seen afterwards
}

// Stores die, hang and come back while two tenants work: no answer is wrong, another tenant's or late; no
// write is lost or done twice; circuits open and close.
func TestFaults(t *testing.T) {
	t.Parallel()
	r, led, data := openFaults(t)
	load := &traffic{t: t, began: time.Now(), demo: markers(t), phase: "warming up", count: map[string]int{}}
	var readers, writers, all []who
	for _, tenant := range tenants {
		for i := range 12 {
			readers = append(readers, who{tenant, fmt.Sprintf("reader%d@%s", i, tenant), "support_copilot"})
		}
		for i := range 3 {
			writers = append(writers, who{tenant, fmt.Sprintf("writer%d@%s", i, tenant), "human_agent"})
		}
		all = append(all, who{tenant, "lead@" + tenant, "approver"})
	}
	load.token = r.tokens(data, slices.Concat(all, readers, writers)...)
	load.server.Store(r.serve(data))

	ctx, stop := context.WithCancel(t.Context())
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		done []*write
	)
	defer wg.Wait()
	defer stop()
	for i, w := range readers {
		wg.Go(func() { load.read(ctx, w, 7*i) })
	}
	for _, w := range writers {
		wg.Go(func() {
			wrote := load.write(ctx, w, led)
			mu.Lock()
			defer mu.Unlock()
			done = append(done, wrote...)
		})
	}
	load.await("warm", load.working())
	for _, f := range load.plan(r, data) {
		load.enter("steady, before: " + f.name)
		load.await(f.name+": steady", load.working())
		if f.shaky {
			led.shaky.Add(1)
		}
		load.enter(f.name)
		if err := f.strike(); err != nil {
			t.Fatalf("%s: %v", f.name, err)
		}
		load.await(f.name, both(f.seen, load.enough()))
		load.enter(f.name + ", mended")
		if err := f.mend(); err != nil {
			t.Fatalf("%s: mend it: %v", f.name, err)
		}
		back := load.working()
		maps.Copy(back, f.back)
		load.await(f.name+": back", back)
		load.tiers(f.name)
		if f.shaky {
			led.shaky.Add(1)
		}
	}
	load.enter("steady, at the end")
	load.await("the end", load.working())
	stop()
	wg.Wait()
	load.print(t)
	load.settle(t, r, led, done)
	if out := r.atlas(data, "audit", "verify"); !strings.Contains(out, "ok: ") {
		t.Error(out)
	}
	if load.faults > 0 {
		t.Errorf("%d answers broke a promise", load.faults)
	}
}

// working is that all is well: each kind of call succeeds again and again without the help of the cache, and the server says that it is ready.
func (l *traffic) working() map[string]func() bool {
	conditions := map[string]func() bool{
		"writes are acknowledged": func() bool { return l.seen("writes", "") >= 5 },
		"it is ready":             l.readiness(http.StatusOK),
	}
	for _, r := range reads {
		conditions[r.tool+" answers"] = func() bool { return l.seen(r.tool, "") >= 5 }
		if !r.cached {
			conditions["the circuit of "+r.tool+" is closed"] = func() bool {
				state, found := l.server.Load().metric(l.t.Context(), "atlas_circuit_state", `tool="`+r.tool+`"`)
				return found && state == 0
			}
		}
	}
	return conditions
}

// tiers logs what the cache did until now.
func (l *traffic) tiers(after string) {
	var did []string
	for _, event := range []string{"memory_hit", "shared_hit", "miss", "fallback", "takeover", "lost", "purged"} {
		n, _ := l.server.Load().metric(l.t.Context(), "atlas_cache_events_total", `"`+event+`"`)
		did = append(did, fmt.Sprintf("%s %.0f", event, n))
	}
	l.t.Logf("after %s the cache had counted: %s", after, strings.Join(did, ", "))
}

// enough is that there are calls for a row of the table.
func (l *traffic) enough() map[string]func() bool {
	return map[string]func() bool{"enough calls": func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.calls >= 200
	}}
}

func (l *traffic) readiness(status int) func() bool {
	return func() bool { got, _ := l.server.Load().probe(l.t.Context(), "/readyz"); return got == status }
}

func (l *traffic) gauge(name string, value float64) func() bool {
	return func() bool {
		got, found := l.server.Load().metric(l.t.Context(), name, "")
		return found && got == value
	}
}

// await waits until each condition has been seen once.
func (l *traffic) await(what string, conditions map[string]func() bool) {
	l.t.Helper()
	left := maps.Clone(conditions)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(long)
	for {
		maps.DeleteFunc(left, func(_ string, ok func() bool) bool { return ok() })
		if len(left) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			l.print(l.t)
			l.t.Fatalf("%s: never seen: %s", what, strings.Join(slices.Sorted(maps.Keys(left)), "; "))
		}
	}
}

// failing waits for the code at a tool of each of the sources.
func (l *traffic) failing(code root.Code, tools ...string) map[string]func() bool {
	seen := map[string]func() bool{}
	for _, tool := range tools {
		seen[tool+" answers "+string(code)] = func() bool { return l.seen(tool, code) > 0 }
	}
	return seen
}

func both(a, b map[string]func() bool) map[string]func() bool {
	all := map[string]func() bool{}
	maps.Copy(all, a)
	maps.Copy(all, b)
	return all
}

func (l *traffic) plan(r *realSite, data string) []fault {
	red := map[string]func() bool{"it is not ready": l.readiness(http.StatusServiceUnavailable)}
	hang := func(s *servers.Server) func() error { return func() error { return s.Pause(l.t.Context()) } }
	restart := func(s *servers.Server) func() error { return func() error { return s.Restart(l.t.Context()) } }
	databases := both(red, l.failing(root.CodeCircuitOpen, "fault_order", "kb_search"))
	refused, late := l.failing(root.CodeStateUnavailable, "files_put"), l.failing(root.CodeTimeout, "files_put")
	// Without Redis each replica holds limits and caches for itself: reads go on, and writes are refused.
	alone := both(refused, map[string]func() bool{
		"limits are held without it": l.gauge("atlas_limiter_store_up", 0),
		"reads go on":                func() bool { return l.seen("fault_order", "") >= 20 && l.seen("tickets_search", "") >= 20 },
		"it is ready all the same":   l.readiness(http.StatusOK),
	})
	together := map[string]func() bool{
		"limits are shared":        l.gauge("atlas_limiter_store_up", 1),
		"replicas are listened to": l.gauge("atlas_bus_listening", 1),
	}
	return []fault{
		{"Redis killed", false, r.redis.Kill, alone, restart(r.redis), together},
		{"Redis hangs", false, hang(r.redis), alone, r.redis.Resume, together},
		{"Postgres killed", true, r.postgres.Kill, both(databases, refused), restart(r.postgres), nil},
		{"Postgres restarted at once", true, restart(r.postgres), nil, func() error { return nil }, nil},
		{"Postgres hangs", true, hang(r.postgres), both(databases, late), r.postgres.Resume, nil},
		{"S3 killed", true, r.s3.Kill, both(red, l.failing(root.CodeCircuitOpen, "files_list", "files_put")), restart(r.s3), nil},
		{"OpenSearch killed", false, r.opensearch.Kill, both(red, l.failing(root.CodeCircuitOpen, "tickets_search")), restart(r.opensearch), nil},
		{"Atlas killed", true, func() error {
			s := l.server.Load()
			l.doomed.Store(s, true)
			s.stop(l.t, os.Kill)
			return nil
		}, map[string]func() bool{"nobody answers": func() bool { return l.seen("crm", gone) > 0 }}, func() error {
			l.server.Store(r.serve(data))
			return nil
		}, nil},
	}
}
