package pgvector_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/pgrls/pgrlstest"
	"github.com/atlas-mcp/atlas/internal/source/pgvector"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	acme   = sourcetest.A
	globex = sourcetest.B
)

// database is a fresh database with the extension.
func database(tb testing.TB) *pgrlstest.Database {
	tb.Helper()
	d := pgrlstest.New(tb)
	d.Admin("CREATE EXTENSION vector")
	return d
}

func deps(embed source.Embedder, log io.Writer) source.Deps {
	if log == nil {
		log = io.Discard
	}
	return source.Deps{Name: "kb", Embed: embed, Log: slog.New(slog.NewTextHandler(log, nil))}
}

// open migrates and opens.
func open(tb testing.TB, cfg pgvector.Config, d source.Deps) source.Source {
	tb.Helper()
	if err := cfg.Migrate(tb.Context(), d); err != nil {
		tb.Fatal(err)
	}
	src, err := cfg.Open(tb.Context(), d)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := src.Close(); err != nil {
			tb.Errorf("Close: %v", err)
		}
	})
	return src
}

func load(tb testing.TB, src source.Source, tenant atlas.TenantID, docs ...source.Document) error {
	tb.Helper()
	return src.(source.Loader).Load(tb.Context(), tenant, source.Data{Documents: docs})
}

func company(tb testing.TB, src source.Source) {
	tb.Helper()
	for tenant, d := range sourcetest.Company() {
		if err := load(tb, src, tenant, d.Documents...); err != nil {
			tb.Fatal(err)
		}
	}
}

func ask(tb testing.TB, src source.Source, tenant atlas.TenantID, n source.Nearest) (source.Hits, error) {
	tb.Helper()
	return src.(source.VectorIndex).Nearest(tb.Context(), tenant, n)
}

// seen is what a caller is told of err.
func seen(tb testing.TB, err error) string {
	tb.Helper()
	data, e := json.Marshal(atlas.ErrorOf(err).Failure("req_1"))
	if e != nil {
		tb.Fatal(e)
	}
	return string(data)
}

func TestContract(t *testing.T) {
	for name, change := range map[string]struct {
		bouncer bool
		cfg     pgvector.Config
	}{
		"direct":     {false, pgvector.Config{}},
		"pgbouncer":  {true, pgvector.Config{}},
		"partitions": {false, pgvector.Config{PartitionByTenant: true}},
		"index":      {false, pgvector.Config{ExactRows: 1}}, // as for a tenant with many vectors
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, tables := database(t), 0 // each source has a table of its own
			sourcetest.Run(t, sourcetest.Harness{
				OpenEmbed: func(t *testing.T, embed source.Embedder, data map[atlas.TenantID]source.Data) source.Source {
					t.Helper()
					cfg := change.cfg
					tables++
					cfg.Connection = d.Connection(change.bouncer)
					cfg.Table = fmt.Sprintf("%s_%d", strings.ReplaceAll(sourcetest.Marker, "-", "_"), tables)
					return sourcetest.Load(t, open(t, cfg, deps(embed, nil)), data)
				},
			}, sourcetest.VectorIndex)
		})
	}
}

func TestValidate(t *testing.T) {
	err := (&pgvector.Config{
		Table: `x"; DROP`, ExactRows: -1, MaxK: 1001, MaxTextBytes: -1, MaxDocumentBytes: -1, Timeout: -1,
	}).Validate()
	for _, key := range []string{"dsn", "table", "exact_rows", "max_k", "max_text_bytes", "max_document_bytes", "timeout"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%v does not name %s", err, key)
		}
	}
}

// An embedder of another name, and of any dimension.
type embedder struct {
	sourcetest.Embedder
	name string
	dim  int
}

func (e embedder) ID() string { return e.name }

func (e embedder) Dim() int { return e.dim }

// What is wrong is told at the start, with the statement that mends it; the same on a running source
// makes calls fail until it is mended.
func TestFindings(t *testing.T) {
	table := `ALTER TABLE documents `
	for name, tc := range map[string]struct {
		admin string
		want  []string
		mend  string
	}{
		"row-level security off": {table + "DISABLE ROW LEVEL SECURITY", []string{"row-level security", "ENABLE ROW LEVEL SECURITY"}, table + "ENABLE ROW LEVEL SECURITY"},
		"not forced":             {table + "NO FORCE ROW LEVEL SECURITY", []string{"FORCE ROW LEVEL SECURITY"}, table + "FORCE ROW LEVEL SECURITY"},
		"open policy":            {"CREATE POLICY all_rows ON documents USING (true)", []string{"all_rows", "DROP POLICY"}, "DROP POLICY all_rows ON documents"},
		"bypass":                 {"ALTER ROLE APP BYPASSRLS", []string{"BYPASSRLS"}, "ALTER ROLE APP NOBYPASSRLS"},
		"dimension": {
			table + "ALTER embedding TYPE vector(16) USING NULL",
			[]string{"vector(16)", "vector(32)", "suite-32"},
			table + "ALTER embedding TYPE vector(32) USING NULL",
		},
		"no index for the distance": {"DROP INDEX documents_nearest", []string{"USING hnsw"}, "CREATE INDEX documents_nearest ON documents USING hnsw (embedding vector_cosine_ops)"},
		"no index for the embedder": {"DROP INDEX documents_embedder", []string{"(tenant_id, embedder)"}, "CREATE INDEX documents_embedder ON documents (tenant_id, embedder)"},
		"other type":                {table + "ALTER attrs TYPE text", []string{"attrs", "jsonb"}, table + "ALTER attrs TYPE jsonb USING attrs::jsonb"},
	} {
		t.Run(name, func(t *testing.T) {
			d := database(t)
			cfg := pgvector.Config{Connection: d.Connection(false)}
			src := open(t, cfg, deps(sourcetest.Embedder{}, nil))
			company(t, src)
			d.Admin(strings.ReplaceAll(tc.admin, "APP", d.App))
			says := func(what string, err error) {
				t.Helper()
				for _, want := range tc.want {
					if atlas.CodeOf(err) != atlas.CodeSourceMisused || !strings.Contains(err.Error(), want) {
						t.Errorf("%s: %v; does not say %q", what, err, want)
					}
				}
				if s := seen(t, err); strings.Contains(s, "documents") || strings.Contains(s, d.App) {
					t.Errorf("%s: callers are told %s", what, s)
				}
			}
			_, err := cfg.Open(t.Context(), deps(sourcetest.Embedder{}, nil))
			says("Open", err)
			says("Ping", src.Ping(t.Context()))
			_, err = ask(t, src, acme, source.Nearest{Text: "refund"})
			says("Nearest", err)
			d.Admin(strings.ReplaceAll(tc.mend, "APP", d.App))
			if err := src.Ping(t.Context()); err != nil {
				t.Fatalf("mended: %v", err)
			}
			company(t, src) // what a change of type lost
			if got, err := ask(t, src, acme, source.Nearest{Text: "refund", K: 50}); err != nil || len(got.Hits) != 5 {
				t.Errorf("mended: %d hits, %v", len(got.Hits), err)
			}
		})
	}
}

func TestOpen(t *testing.T) {
	d := pgrlstest.New(t)
	cfg := pgvector.Config{Connection: d.Connection(false)}
	for name, tc := range map[string]struct {
		embed source.Embedder
		want  string
	}{
		"no embedder": {nil, "embedder"},
		"dimension":   {embedder{name: "large", dim: 3072}, "2000"},
		"no table":    {sourcetest.Embedder{}, "documents"},
	} {
		if _, err := cfg.Open(t.Context(), deps(tc.embed, nil)); atlas.CodeOf(err) != atlas.CodeSourceMisused || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	cfg.LoadDSN = ""
	if err := cfg.Migrate(t.Context(), deps(sourcetest.Embedder{}, nil)); atlas.CodeOf(err) != atlas.CodeSourceMisused || !strings.Contains(err.Error(), "load_dsn") {
		t.Errorf("no load_dsn: %v", err)
	}
}

// Migrating again changes nothing, and the table of another embedder stays what it is.
func TestMigrateAgain(t *testing.T) {
	d := database(t)
	cfg := pgvector.Config{Connection: d.Connection(false)}
	src := open(t, cfg, deps(sourcetest.Embedder{}, nil))
	company(t, src)
	for _, embed := range []source.Embedder{sourcetest.Embedder{}, embedder{name: "other", dim: 16}} {
		if err := cfg.Migrate(t.Context(), deps(embed, nil)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := ask(t, src, acme, source.Nearest{Text: "refund", K: 50}); err != nil || len(got.Hits) != 5 {
		t.Errorf("got %d hits, %v", len(got.Hits), err)
	}
	if n := d.Ask("SELECT count(*)::text FROM documents"); n != "10" {
		t.Errorf("%s rows", n)
	}
}

// Row-level security is switched off under a running source: until the next check sees it, a search
// is bound by its own condition. Should the database take two tenants for one, by a collation that
// does not see punctuation, the rows are caught, nothing of them is given, and the log says so.
func TestWallsBehindThePolicy(t *testing.T) {
	const dash, line atlas.TenantID = "ac-me", "ac_me"
	d := database(t)
	log := &lockedBuffer{}
	cfg := pgvector.Config{Connection: d.Connection(false)}
	cfg.CheckInterval = time.Hour
	src := open(t, cfg, deps(sourcetest.Embedder{}, log))
	if err := errors.Join(load(t, src, dash, source.Document{ID: "d", Body: "secret of dash"}), load(t, src, line, source.Document{ID: "l", Body: "secret of line"})); err != nil {
		t.Fatal(err)
	}
	alone := func(when string) {
		t.Helper()
		got, err := ask(t, src, line, source.Nearest{Text: "secret of dash"})
		if err != nil || len(got.Hits) != 1 || got.Hits[0].ID != "l" {
			t.Errorf("%s: %v, %v", when, got, err)
		}
	}
	alone("at first")
	d.Admin("ALTER TABLE documents DISABLE ROW LEVEL SECURITY")
	alone("without the policy")
	d.Admin(
		"CREATE COLLATION loose (provider = icu, locale = 'und-u-ka-shifted', deterministic = false)",
		"DROP POLICY tenant ON documents",
		"ALTER TABLE documents ALTER tenant_id TYPE text COLLATE loose",
	)
	got, err := ask(t, src, line, source.Nearest{Text: "secret of dash"})
	if atlas.CodeOf(err) != atlas.CodeSourceError || len(got.Hits) > 0 {
		t.Fatalf("with a loose collation: %v, %v", got, err)
	}
	if s := seen(t, err); strings.Contains(s, "dash") || strings.Contains(s, "tenant") {
		t.Errorf("callers are told %s", s)
	}
	if l := log.String(); !strings.Contains(l, "level=ERROR") || !strings.Contains(l, "tenant isolation") || strings.Contains(l, "secret") {
		t.Errorf("log: %s", l)
	}
	// The same is found by the check.
	d.Admin(d.Connection(false).Secure("documents", d.App)...)
	if err := src.Ping(t.Context()); atlas.CodeOf(err) != atlas.CodeSourceMisused || !strings.Contains(err.Error(), "loose") {
		t.Errorf("Ping: %v", err)
	}
}

// hold runs a statement in a transaction of the superuser, and returns what ends it.
func hold(t *testing.T, d *pgrlstest.Database, sql string) (end func()) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	dsn, err := url.Parse(testenv.URL(t, testenv.Postgres))
	if err != nil {
		t.Fatal(err)
	}
	dsn.Path = "/" + d.Name
	conn, err := pgx.Connect(ctx, dsn.String())
	if err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() { _ = conn.Close(ctx) })
	t.Cleanup(end)
	for _, s := range []string{"BEGIN", sql} {
		if _, err := conn.Exec(ctx, s); err != nil {
			t.Fatal(err)
		}
	}
	return end
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// renamed is the suites' embedder under a name that changes, which can fail.
type renamed struct {
	sourcetest.Embedder
	mu   sync.Mutex
	name string
	left int // texts until it fails; 0: never
}

func (r *renamed) ID() string { r.mu.Lock(); defer r.mu.Unlock(); return r.name }

func (r *renamed) set(name string, left int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.name, r.left = name, left
}

func (r *renamed) Embed(ctx context.Context, texts []string) ([][]float32, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left > 0 {
		if r.left -= len(texts); r.left <= 0 {
			r.left = 1
			return nil, errors.New("the embedder is gone")
		}
	}
	return r.Embedder.Embed(ctx, texts)
}

// Embedding anew that ends half way changes nothing; a tenant that was not loaded again is refused,
// and one that was is not; Ping tells that the embedder changed.
func TestOtherEmbedder(t *testing.T) {
	embed := &renamed{name: "one"}
	d := database(t)
	src := open(t, pgvector.Config{Connection: d.Connection(false)}, deps(embed, nil))
	var docs []source.Document
	for i := range 200 {
		docs = append(docs, source.Document{ID: fmt.Sprintf("d_%03d", i), Title: "note", Body: strings.Repeat("word ", i+1)})
	}
	for _, tenant := range []atlas.TenantID{acme, globex} {
		if err := load(t, src, tenant, docs...); err != nil {
			t.Fatal(err)
		}
	}
	embed.set("two", 100)
	if err := load(t, src, acme, source.Document{ID: "new"}); atlas.CodeOf(err) != atlas.CodeSourceUnavailable {
		t.Fatalf("got %v", err)
	}
	embed.set("one", 0)
	if got, err := ask(t, src, acme, source.Nearest{Text: "note word", K: 100}); err != nil || len(got.Hits) != 100 {
		t.Errorf("after half a load: %d hits, %v", len(got.Hits), err)
	}
	embed.set("two", 0)
	if err := src.Ping(t.Context()); atlas.CodeOf(err) != atlas.CodeSourceMisused || !strings.Contains(err.Error(), `"one"`) {
		t.Errorf("Ping: %v", err)
	}
	if err := load(t, src, acme, source.Document{ID: "new"}); err != nil {
		t.Fatal(err)
	}
	if got, err := ask(t, src, acme, source.Nearest{Text: "note word", K: 100}); err != nil || len(got.Hits) != 100 {
		t.Errorf("loaded again: %d hits, %v", len(got.Hits), err)
	}
	if _, err := ask(t, src, globex, source.Nearest{Text: "note word"}); atlas.CodeOf(err) != atlas.CodeSourceMisused {
		t.Errorf("not loaded again: %v", err)
	}
	if err := src.Ping(t.Context()); err != nil {
		t.Errorf("Ping: %v", err)
	}
}

// A call that is cancelled while the server works ends, and so does the statement.
func TestCancel(t *testing.T) {
	d := database(t)
	cfg := pgvector.Config{Connection: d.Connection(false), Timeout: time.Minute}
	cfg.LockTimeout = time.Minute
	src := open(t, cfg, deps(sourcetest.Embedder{}, nil))
	company(t, src)
	// Whoever reads waits for this lock.
	held := hold(t, d, "LOCK TABLE documents IN ACCESS EXCLUSIVE MODE")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := src.(source.VectorIndex).Nearest(ctx, acme, source.Nearest{Text: "refund"})
		done <- err
	}()
	for d.Ask("SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'") == "0" {
		if t.Context().Err() != nil {
			t.Fatal("the search did not begin")
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || atlas.CodeOf(err) != atlas.CodeCanceled {
		t.Errorf("got %v", err)
	}
	if n := d.Ask("SELECT count(*)::text FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"); n != "0" {
		t.Errorf("%s statements still wait", n)
	}
	held()
	if got, err := ask(t, src, acme, source.Nearest{Text: "refund"}); err != nil || len(got.Hits) == 0 {
		t.Errorf("the next call: %v, %v", got, err)
	}
}

// random is n documents whose vectors lie near the place, at random.
func random(seed uint64, n int, word string) []source.Document {
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]source.Document, n)
	for i := range out {
		var b strings.Builder
		for range 12 {
			fmt.Fprintf(&b, "w%d ", r.IntN(60))
		}
		out[i] = source.Document{ID: fmt.Sprintf("d_%05d", i), Title: word, Body: b.String(), Attrs: map[string]any{"tenth": i % 10, "rare": i%200 == 0}}
	}
	return out
}

// A tenant with one vector in a hundred, in one index with a huge one, finds all of its nearest, with
// filters too; and the huge one, which is searched by the index, nearly all, and never fewer than it
// asks for.
func TestRecall(t *testing.T) {
	d := database(t)
	src := open(t, pgvector.Config{Connection: d.Connection(false), ExactRows: 100, Timeout: time.Minute}, deps(sourcetest.Embedder{}, nil))
	const k = 10
	big, small := random(1, 2970, "big"), random(2, 30, "small")
	if err := errors.Join(load(t, src, acme, big...), load(t, src, globex, small...)); err != nil {
		t.Fatal(err)
	}
	d.Admin("ANALYZE documents")
	measure := func(tenant atlas.TenantID, docs []source.Document, filter map[string]any) (recall float64, fewest int) {
		var matching []source.Document
		for _, doc := range docs {
			if filter == nil || doc.Attrs["rare"] == filter["rare"] && filter["rare"] != nil || filter["rare"] == nil && doc.Attrs["tenth"] == filter["tenth"] {
				matching = append(matching, doc)
			}
		}
		found, want := 0, 0
		fewest = k
		for _, q := range random(3, 20, "small") {
			text := q.Title + " " + q.Body
			got, err := ask(t, src, tenant, source.Nearest{Text: text, K: k, Filter: filter})
			if err != nil {
				t.Fatal(err)
			}
			fewest = min(fewest, len(got.Hits))
			worst := nthScore(t, matching, text, k)
			for _, h := range got.Hits {
				if h.Score >= worst-1e-5 {
					found++
				}
			}
			want += min(k, len(matching))
		}
		return float64(found) / float64(want), fewest
	}
	for _, tc := range []struct {
		tenant atlas.TenantID
		docs   []source.Document
		filter map[string]any
		recall float64
		fewest int
	}{
		{globex, small, nil, 1, k},
		{globex, small, map[string]any{"tenth": 3}, 1, 3},
		{globex, small, map[string]any{"rare": true}, 1, 1},
		{acme, big, nil, 0.9, k},
		{acme, big, map[string]any{"tenth": 3}, 0.9, k},
		{acme, big, map[string]any{"rare": true}, 0.9, k},
	} {
		recall, fewest := measure(tc.tenant, tc.docs, tc.filter)
		t.Logf("%s of %d, filter %v: recall %.3f, at least %d of %d hits", tc.tenant, len(tc.docs), tc.filter, recall, fewest, k)
		if recall < tc.recall || fewest < tc.fewest {
			t.Errorf("%s, filter %v: recall %.3f, want %.2f; at least %d hits, want %d", tc.tenant, tc.filter, recall, tc.recall, fewest, tc.fewest)
		}
	}
}

// An index that gives up before enough rows passed the filters is no reason to answer less: all are
// compared after all.
func TestIndexGivesUp(t *testing.T) {
	d := database(t)
	d.Admin("ALTER ROLE "+d.App+" SET hnsw.max_scan_tuples = 10", "ALTER ROLE "+d.App+" SET enable_sort = off") // the planner takes the index
	src := open(t, pgvector.Config{Connection: d.Connection(false), ExactRows: 1}, deps(sourcetest.Embedder{}, nil))
	if err := errors.Join(load(t, src, acme, random(1, 1000, "big")...), load(t, src, globex, random(2, 20, "small")...)); err != nil {
		t.Fatal(err)
	}
	d.Admin("ANALYZE documents")
	for _, tc := range []struct {
		tenant atlas.TenantID
		filter map[string]any
		want   int
	}{{globex, nil, 10}, {globex, map[string]any{"tenth": 3}, 2}, {acme, map[string]any{"rare": true}, 5}, {acme, map[string]any{"rare": "no"}, 0}} {
		got, err := ask(t, src, tc.tenant, source.Nearest{Text: "small w1 w2 w3", Filter: tc.filter})
		if err != nil || len(got.Hits) != tc.want {
			t.Errorf("%s %v: %d hits, %v; want %d", tc.tenant, tc.filter, len(got.Hits), err, tc.want)
		}
	}
}

// nthScore is the score of the n-th nearest of docs, computed here.
func nthScore(t *testing.T, docs []source.Document, text string, n int) float64 {
	t.Helper()
	texts := []string{text}
	for _, d := range docs {
		texts = append(texts, source.EmbeddedText(d.Title, d.Body))
	}
	vs, err := sourcetest.Embedder{}.Embed(t.Context(), texts)
	if err != nil {
		t.Fatal(err)
	}
	var scores []float64
	for _, v := range vs[1:] {
		var dot float64
		for i := range v {
			dot += float64(v[i]) * float64(vs[0][i])
		}
		scores = append(scores, -dot)
	}
	slices.Sort(scores)
	return -scores[min(n, len(scores))-1]
}

func BenchmarkNearest(b *testing.B) {
	d := database(b)
	src := open(b, pgvector.Config{Connection: d.Connection(false), ExactRows: 2000}, deps(sourcetest.Embedder{}, nil))
	if err := errors.Join(load(b, src, acme, random(1, 5000, "big")...), load(b, src, globex, random(2, 1000, "small")...)); err != nil {
		b.Fatal(err)
	}
	d.Admin("VACUUM ANALYZE documents")
	for name, tenant := range map[string]atlas.TenantID{"index of 5000": acme, "exact of 1000": globex} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if got, err := ask(b, src, tenant, source.Nearest{Text: "big w1 w2 w3", K: 5}); err != nil || len(got.Hits) != 5 {
					b.Fatal(got, err)
				}
			}
		})
	}
}
