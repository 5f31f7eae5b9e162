//go:build unix

package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	root "github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/pgrls"
	"github.com/atlas-mcp/atlas/internal/source/postgres"
	"github.com/atlas-mcp/atlas/internal/source/s3"
	"github.com/atlas-mcp/atlas/internal/testenv"
	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

// The tools of the replicas' site. Each call of the first reads the table orders, which the test can lock:
// so it decides how long a load takes. The word in the statement is looked for in the database's own log.
const replicaTools = `tools:
  slow_order:
    source: crm
    title: An order
    description: One order by id, with its note. For the tests of several replicas.
    input:
      order_id: {type: string, pattern: "^o_[0-9]{1,12}$", description: "order id, for example o_1"}
    sql: SELECT 'zqbackend' AS word, id, note FROM orders WHERE id = :order_id
    single: true
    cache: 10m
    timeout: 2m
  scarce_order:
    source: crm
    title: An order, seldom
    description: One order by id, with its note, a few times a minute. For the tests of several replicas.
    input:
      order_id: {type: string, pattern: "^o_[0-9]{1,12}$", description: "order id, for example o_1"}
    sql: SELECT 'zqscarce' AS word, id, note FROM orders WHERE id = :order_id
    single: true
    cache: 0s
    timeout: 30s
`

const replicaConfig = `mode: development
seeded: true
log: {level: info}
http: {public_url: ` + publicURL + `}
roles:
  reader: ["tool:crm:read", "tool:files:read"]
  writer: ["tool:files:read", "tool:files:write"]
  approver: ["approval:*:decide"]
  operator: ["tool:*:admin"]
state:
  kind: postgres
  with: {dsn: "${env:ATLAS_STATE_DSN}", load_dsn: "${env:ATLAS_STATE_LOAD_DSN:-}"}
redis: {url: "${env:ATLAS_REDIS_URL}", key_prefix: "replicas-test:", bus_key: 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff}
sources:
  crm:
    kind: postgres
    with:
      dsn: ${env:ATLAS_POSTGRES_DSN}
      load_dsn: ${env:ATLAS_POSTGRES_LOAD_DSN:-}
      company: true
      tables: [customers, orders, order_items, documents]
      timeout: 2m
      lock_timeout: 2m
  files:
    kind: s3
    with:
      endpoint: ${env:ATLAS_S3_ENDPOINT}
      bucket: replicas
      access_key: ${env:ATLAS_S3_ACCESS_KEY}
      secret_key: ${env:ATLAS_S3_SECRET_KEY}
tools: {files: [own.yaml]}
policy: {file: rules.yaml}
egress: {file: hosts.yaml}
flood: {rate: 1000000, burst: 1000000}
ratelimit:
  tenant: {rate: 1000000, burst: 1000000}
  tool: {rate: 1000000, burst: 1000000}
  caller: {rate: 1000000, burst: 1000000}
  tools: {scarce_order: {rate: 30, per: 1m, burst: 30}}
  on_store_failure: {after: 5s}
cache: {shared_timeout: 5s, lease: 2s}
`

const replicaRules = `rules:
  - {id: all, subjects: ["*"], actions: ["tool:*"], resources: ["tenant:*/*"]}
`

// pair are two processes of one site, which share keys, state, stores and Redis.
type pair struct {
	*realSite
	one, two *server
	token    map[who]string
}

// Of each tenant ten people read.
var tenants = []string{"acme", "globex"}

func reader(tenant string, i int) who {
	return who{tenant, fmt.Sprintf("reader%d@%s", i%10, tenant), "reader"}
}

func openPair(t *testing.T) *pair {
	t.Helper()
	site := realServers(t, func(k servers.Kind) servers.Options {
		if k.Env == string(testenv.Postgres) {
			return servers.Options{Args: []string{"-c", "log_statement=all"}} // the count of calls
		}
		return servers.Options{}
	}, testenv.Postgres, testenv.Redis, testenv.S3)
	dir := t.TempDir()
	for name, text := range map[string]string{"atlas.yaml": replicaConfig, "own.yaml": replicaTools, "rules.yaml": replicaRules, "hosts.yaml": "\"*\": []\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	site.config = filepath.Join(dir, "atlas.yaml")
	here, there := t.TempDir(), t.TempDir()
	site.atlas(here, "migrate")
	for _, tenant := range tenants {
		var orders source.TableData
		orders.Name = "orders"
		for _, column := range []string{"id", "note"} {
			orders.Columns = append(orders.Columns, source.Column{Name: column, Type: "TEXT"})
		}
		for i := range 10 {
			orders.Rows = append(orders.Rows, []any{fmt.Sprintf("o_%d", i), mark(tenant, fmt.Sprintf("order %d", i))})
		}
		load(t, tenant, &postgres.Config{Connection: site.connection(), Tables: []string{"orders"}}, nil, source.Data{Tables: []source.TableData{orders}})
		load(t, tenant, site.objects("replicas"), nil, source.Data{Objects: []source.Object{{
			ObjectInfo: source.ObjectInfo{Key: "note.txt"}, ContentType: "text/plain", Content: []byte(mark(tenant, "first")),
		}}})
	}
	p := &pair{realSite: site}
	var all []who
	for _, tenant := range tenants {
		for i := range 10 {
			all = append(all, reader(tenant, i))
		}
		for _, role := range []string{"writer", "approver", "operator"} {
			all = append(all, who{tenant, role + "@" + tenant, role})
		}
	}
	p.token = site.tokens(here, all...)
	// Replicas have the same keys; how they get them is the operator's to say.
	copyKeys(t, here, there)
	p.one, p.two = site.serve(here), site.serve(there)
	for _, s := range []*server{p.one, p.two} {
		patiently(t, "a replica listens to the other", func() bool { v, _ := s.metric(t.Context(), "atlas_bus_listening", ""); return v == 1 })
	}
	return p
}

// mark is a text that says whose it is.
func mark(tenant, text string) string { return "zqmark" + tenant + " " + text }

// foreign returns a tenant whose mark is in the text and who is not the tenant.
func foreign(tenant, text string) string {
	for _, other := range tenants {
		if other != tenant && strings.Contains(text, "zqmark"+other) {
			return other
		}
	}
	return ""
}

// order asks one replica for an order and looks whether the answer is the caller's own.
func (p *pair) order(ctx context.Context, s *server, w who, tool, id string, meta object) (told, error) {
	res, err := s.ask(ctx, p.token[w], tool, object{"order_id": id}, meta)
	if err != nil {
		return res, err
	}
	if other := foreign(w.tenant, res.body); other != "" {
		p.t.Errorf("%s was told of %s: %s", w.subject, other, res.body)
	}
	if want := mark(w.tenant, "order "+strings.TrimPrefix(id, "o_")); res.code == "" && !strings.Contains(res.body, want) {
		p.t.Errorf("%s asked for %s and got %s", w.subject, id, res.body)
	}
	return res, nil
}

// backendCalls counts in Postgres's own log how often a statement with the word was run for the id.
func (p *pair) backendCalls(word string) int {
	p.t.Helper()
	log, err := os.ReadFile(p.postgres.LogFile())
	if err != nil {
		p.t.Fatal(err)
	}
	return len(regexp.MustCompile(`(?m)^.*LOG:  (?:execute|statement).*`+word).FindAllString(string(log), -1))
}

// lockOrders keeps every read of the orders waiting until release is called.
func (p *pair) lockOrders() (release func()) {
	p.t.Helper()
	conn := p.connect("crm")
	for _, s := range []string{`BEGIN`, `LOCK TABLE orders IN ACCESS EXCLUSIVE MODE`} {
		if _, err := conn.Exec(p.t.Context(), s); err != nil {
			p.t.Fatal(err)
		}
	}
	return sync.OnceFunc(func() {
		if _, err := conn.Exec(context.WithoutCancel(p.t.Context()), `COMMIT`); err != nil {
			p.t.Error(err)
		}
		_ = conn.Close(context.WithoutCancel(p.t.Context())) // nothing is left unsaid
	})
}

// loading returns how many statements wait for the lock.
func (p *pair) loading() (n int) {
	p.t.Helper()
	conn := p.connect("postgres")
	defer conn.Close(context.WithoutCancel(p.t.Context())) //nolint:errcheck // the server notices
	if err := conn.QueryRow(p.t.Context(), `SELECT count(*) FROM pg_locks WHERE NOT granted`).Scan(&n); err != nil {
		p.t.Fatal(err)
	}
	return n
}

// running returns how many calls a replica is answering.
func (s *server) running(t *testing.T) int {
	n, _ := s.metric(t.Context(), "atlas_calls_running", "")
	return int(n)
}

// Two processes of the built program on one Redis behave as one.
func TestReplicas(t *testing.T) {
	t.Parallel()
	p := openPair(t)
	for _, step := range []struct {
		name string
		test func(*testing.T)
	}{
		{"a cold key is loaded once", p.testColdKey},
		{"one limit", p.testOneLimit},
		{"a purge reaches both", p.testPurge},
		{"a write reaches both", p.testWrite},
		{"a reload reaches both", p.testReload},
		{"a load is taken over", p.testTakeover}, // the last: it kills one of them
	} {
		t.Run(step.name, step.test)
		p.t = t
	}
}

func (p *pair) testColdKey(t *testing.T) {
	p.t = t
	before := p.backendCalls("zqbackend")
	release := p.lockOrders()
	defer release()
	const callers = 1000
	var wg sync.WaitGroup
	for i := range callers {
		s, tenant := p.one, "acme"
		if i%2 == 1 {
			s = p.two
		}
		if i%10 == 9 { // a hundred of another tenant, on both
			tenant = "globex"
			if i%20 == 9 {
				s = p.one
			}
		}
		wg.Go(func() {
			res, err := p.order(t.Context(), s, reader(tenant, i/2), "slow_order", "o_1", nil)
			if err != nil || res.code != "" {
				t.Errorf("%v %s", err, res.body)
			}
		})
	}
	patiently(t, "all callers wait for one statement of each tenant", func() bool {
		return p.one.running(t)+p.two.running(t) == callers && p.loading() == len(tenants)
	})
	release()
	wg.Wait()
	if got := p.backendCalls("zqbackend") - before; got != len(tenants) {
		t.Errorf("%d callers of %d tenants caused %d calls of the database; want one for each tenant", callers, len(tenants), got)
	}
	// Who comes later is answered from what the first caller has loaded, at both.
	for _, s := range []*server{p.one, p.two} {
		for _, tenant := range tenants {
			if res, err := p.order(t.Context(), s, reader(tenant, 0), "slow_order", "o_1", nil); err != nil || res.code != "" {
				t.Errorf("%v %s", err, res.body)
			}
		}
	}
	if got := p.backendCalls("zqbackend") - before; got != len(tenants) {
		t.Errorf("later calls went to the database: %d calls", got)
	}
}

func (p *pair) testOneLimit(t *testing.T) {
	p.t = t
	const limit, each = 30, 100 // a minute; calls at each replica
	var (
		wg                sync.WaitGroup
		mu                sync.Mutex
		admitted, refused int
	)
	start := time.Now()
	for i := range 2 * each {
		s := p.one
		if i%2 == 1 {
			s = p.two
		}
		wg.Go(func() {
			// The limit is the tool's, for one tenant: all of its people share it.
			res, err := p.order(t.Context(), s, reader("acme", i/2), "scarce_order", "o_2", nil)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				t.Error(err)
			case res.code == "":
				admitted++
			case res.code == string(root.CodeRateLimited):
				refused++
				if res.retry <= 0 || res.retry > time.Minute.Milliseconds() {
					t.Errorf("refused without a time to wait: %s", res.body)
				}
			default:
				t.Errorf("%s", res.body)
			}
		})
	}
	wg.Wait()
	// The bucket is filled again as time goes by, however long this machine has taken.
	refilled := int(time.Since(start)/(time.Minute/limit)) + 1
	if admitted < limit || admitted > limit+refilled {
		t.Errorf("%d of %d calls were admitted at both together; the limit is %d, and at most %d more have been earned since", admitted, 2*each, limit, refilled)
	}
	if admitted+refused != 2*each {
		t.Errorf("%d admitted and %d refused of %d", admitted, refused, 2*each)
	}
	if got := p.backendCalls("zqscarce"); got != admitted {
		t.Errorf("%d admitted, %d calls of the database", admitted, got)
	}
	// The other tenant's limit is its own.
	if res, err := p.order(t.Context(), p.two, reader("globex", 0), "scarce_order", "o_2", nil); err != nil || res.code != "" {
		t.Errorf("%v %s", err, res.body)
	}
	t.Logf("%d of %d calls admitted at two replicas, limit %d a minute", admitted, 2*each, limit)
}

// warm has both replicas answer the order for both tenants from what is cached, and returns how often
// the database was called until then.
func (p *pair) warm(id string) int {
	p.t.Helper()
	for _, s := range []*server{p.one, p.two} {
		for _, tenant := range tenants {
			if res, err := p.order(p.t.Context(), s, reader(tenant, 0), "slow_order", id, nil); err != nil || res.code != "" {
				p.t.Fatalf("%v %s", err, res.body)
			}
		}
	}
	return p.backendCalls("zqbackend")
}

// forgotten waits until a replica has loaded acme's answer anew, once, and looks that globex's is still there.
func (p *pair) forgotten(s *server, id string, before int) {
	p.t.Helper()
	patiently(p.t, "the replica has forgotten", func() bool {
		if res, err := p.order(p.t.Context(), s, reader("acme", 0), "slow_order", id, nil); err != nil || res.code != "" {
			p.t.Fatalf("%v %s", err, res.body)
		}
		return p.backendCalls("zqbackend") > before
	})
	for _, s := range []*server{p.one, p.two} {
		if res, err := p.order(p.t.Context(), s, reader("globex", 0), "slow_order", id, nil); err != nil || res.code != "" {
			p.t.Fatalf("%v %s", err, res.body)
		}
	}
	if got := p.backendCalls("zqbackend"); got != before+1 {
		p.t.Errorf("%d calls of the database after acme's answers were purged; want 1, since globex's are kept", got-before)
	}
}

func (p *pair) testPurge(t *testing.T) {
	p.t = t
	t.Run("by the command line", func(t *testing.T) {
		p.t = t
		before := p.warm("o_3")
		out := p.atlas(p.one.data, "cache", "purge", "--tenant", "acme", "--as", "operator@acme", "--role", "operator", "--tool", "slow_order")
		if !strings.Contains(out, "forgotten on all replicas") {
			t.Error(out)
		}
		p.forgotten(p.two, "o_3", before)
	})
	t.Run("over HTTP", func(t *testing.T) {
		p.t = t
		before := p.warm("o_4")
		for role, want := range map[string]int{"reader": http.StatusForbidden, "operator": http.StatusOK} {
			w := who{"acme", role + "@acme", role}
			if role == "reader" {
				w = reader("acme", 0)
			}
			res, err := p.one.post(t.Context(), "/admin/v1/cache/purge", p.token[w], []byte(`{"tool":"slow_order"}`), nil)
			if err != nil || res.status != want {
				t.Errorf("%s: %v, %d %s", role, err, res.status, res.body)
			}
		}
		p.forgotten(p.two, "o_4", before)
	})
}

// file reads the tenant's file at a replica.
func (p *pair) file(s *server, tenant string) string {
	p.t.Helper()
	res, err := s.ask(p.t.Context(), p.token[reader(tenant, 0)], "files_get", object{"key": "note.txt"}, nil)
	if err != nil || res.code != "" {
		p.t.Fatalf("%v %s", err, res.body)
	}
	if other := foreign(tenant, res.body); other != "" {
		p.t.Errorf("%s was told of %s: %s", tenant, other, res.body)
	}
	return res.body
}

func (p *pair) testWrite(t *testing.T) {
	p.t = t
	before := p.warm("o_5") // any answer of the tenant may show what a write has changed
	for _, s := range []*server{p.one, p.two} {
		if got := p.file(s, "acme"); !strings.Contains(got, mark("acme", "first")) {
			t.Fatal(got)
		}
	}
	// The approval is asked for at one replica, given at the other, and used at the first.
	writer, approver := who{"acme", "writer@acme", "writer"}, who{"acme", "approver@acme", "approver"}
	put := func() told {
		res, err := p.one.ask(t.Context(), p.token[writer], "files_put", object{"key": "note.txt", "content": mark("acme", "second")}, object{"atlas/idempotency_key": "write-1"})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	id := approvalID.FindString(put().body)
	if res, err := p.two.post(t.Context(), "/admin/v1/approvals/"+id+"/approve", p.token[approver], []byte(`{}`), nil); err != nil || res.status != http.StatusOK {
		t.Fatalf("%v %s", err, res.body)
	}
	if res := put(); res.code != "" {
		t.Fatal(res.body)
	}
	for _, s := range []*server{p.one, p.two} {
		patiently(t, "the new text is read", func() bool { return strings.Contains(p.file(s, "acme"), mark("acme", "second")) })
	}
	p.forgotten(p.two, "o_5", before)
	// The repetition is answered by the other replica, from the first result.
	res, err := p.two.ask(t.Context(), p.token[writer], "files_put", object{"key": "note.txt", "content": mark("acme", "second")}, object{"atlas/idempotency_key": "write-1"})
	if err != nil || res.code != "" {
		t.Errorf("%v %s", err, res.body)
	}
}

func (p *pair) testReload(t *testing.T) {
	p.t = t
	// The watch on the files is quick; this waits for what only the other's message explains: both log a
	// reload although the files have not changed.
	count := func(s *server) int { return strings.Count(s.log.String(), "configuration reloaded") }
	one, two := count(p.one), count(p.two)
	if err := p.one.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	patiently(t, "both have reloaded", func() bool { return count(p.one) > one && count(p.two) > two })
	// And one change of the files is in force at both.
	rules := filepath.Join(filepath.Dir(p.config), "rules.yaml")
	closed := replicaRules + "  - {id: closed-today, subjects: [\"*\"], actions: [\"tool:crm:read\"], resources: [\"tenant:acme/*\"], effect: deny}\n"
	for _, step := range []struct{ text, code string }{{closed, "jsonrpc: Unknown tool"}, {replicaRules, ""}} {
		if err := os.WriteFile(rules+".new", []byte(step.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(rules+".new", rules); err != nil {
			t.Fatal(err)
		}
		for _, s := range []*server{p.one, p.two} {
			patiently(t, "the rules are in force", func() bool {
				res, err := p.order(t.Context(), s, reader("acme", 0), "slow_order", "o_6", nil)
				return err == nil && res.code == step.code
			})
		}
	}
	// Whoever cannot be answered by one replica's cached answer of other rules is answered by neither's.
	if res, err := p.order(t.Context(), p.two, reader("globex", 0), "slow_order", "o_6", nil); err != nil || res.code != "" {
		t.Errorf("%v %s", err, res.body)
	}
}

// A process that is killed while it loads leaves a lease behind. The other takes over when that ends, and
// whoever has less time than that is told so in time.
func (p *pair) testTakeover(t *testing.T) {
	p.t = t
	before := p.backendCalls("zqbackend")
	release := p.lockOrders()
	defer release()
	var dying, waiting sync.WaitGroup
	for i := range 10 {
		dying.Go(func() {
			if res, err := p.order(t.Context(), p.one, reader("acme", i), "slow_order", "o_7", nil); err == nil {
				t.Errorf("the process that was killed has answered: %s", res.body)
			}
		})
	}
	patiently(t, "one replica loads", func() bool { return p.one.running(t) == 10 && p.loading() == 1 })
	patient := func(i int) {
		if res, err := p.order(t.Context(), p.two, reader("acme", i), "slow_order", "o_7", nil); err != nil || res.code != "" {
			t.Errorf("%v %s", err, res.body)
		}
	}
	const budget = 3 * time.Second
	var cut sync.WaitGroup
	hurried := func(i int) {
		start := time.Now()
		res, err := p.order(t.Context(), p.two, reader("acme", i), "slow_order", "o_7", object{"atlas/budget": object{"total_ms": budget.Milliseconds()}})
		if err != nil || res.code != string(root.CodeBudgetExhausted) && res.code != string(root.CodeTimeout) {
			t.Errorf("%v %s", err, res.body)
		}
		if took := time.Since(start); took > budget+allowance {
			t.Errorf("a call with a budget of %s took %s", budget, took)
		}
	}
	for i := range 20 {
		waiting.Go(func() { patient(i) })
		cut.Go(func() { hurried(i) })
	}
	patiently(t, "the other waits for it", func() bool { return p.two.running(t) > 0 })
	p.one.stop(t, os.Kill)
	dying.Wait()
	cut.Wait() // nothing is answered: the table is locked
	// The dead process's statement and that of the one that took over wait for the lock.
	patiently(t, "the other takes over", func() bool {
		v, _ := p.two.metric(t.Context(), "atlas_cache_events_total", `"takeover"`)
		return v >= 1
	})
	patiently(t, "the other loads", func() bool { return p.loading() == 2 })
	release()
	waiting.Wait()
	patiently(t, "both statements have ended", func() bool { return p.loading() == 0 })
	if got := p.backendCalls("zqbackend") - before; got < 1 || got > 2 {
		t.Errorf("%d calls of the database; want one by the process that took over, and at most one that was left by the other", got)
	}
	if res, err := p.order(t.Context(), p.two, reader("globex", 0), "slow_order", "o_7", nil); err != nil || res.code != "" {
		t.Errorf("%v %s", err, res.body)
	}
}

// allowance is what a call may take beyond its deadline on a machine that is busy with other things. No
// answer is late for the protocol's own reasons.
const allowance = 10 * time.Second

// connection is how the company's owner loads.
func (r *realSite) connection() (c pgrls.Connection) {
	c.DSN, c.LoadDSN = r.env["ATLAS_POSTGRES_DSN"], r.env["ATLAS_POSTGRES_LOAD_DSN"]
	return c
}

// objects is the files' driver on a bucket.
func (r *realSite) objects(bucket string) *s3.Config {
	return &s3.Config{Bucket: bucket, Endpoint: r.env["ATLAS_S3_ENDPOINT"], AccessKey: r.env["ATLAS_S3_ACCESS_KEY"], SecretKey: r.env["ATLAS_S3_SECRET_KEY"]}
}
