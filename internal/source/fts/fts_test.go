package fts_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/fts"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	_ source.Config   = (*fts.Config)(nil)
	_ source.Searcher = (*fts.Index)(nil)
	_ source.Loader   = (*fts.Index)(nil)
)

func openWith(t testing.TB, cfg fts.Config, dir string) source.Source {
	t.Helper()
	src, err := cfg.Open(t.Context(), source.Deps{Name: "tickets", DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := src.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return src
}

func open(t *testing.T, data map[atlas.TenantID]source.Data) source.Source {
	t.Helper()
	return sourcetest.Load(t, openWith(t, fts.Config{}, filepath.Join(t.TempDir(), sourcetest.Marker)), data)
}

func TestContract(t *testing.T) {
	sourcetest.Run(t, sourcetest.Harness{Open: open}, sourcetest.Searcher)
}

func TestValidate(t *testing.T) {
	if err := (&fts.Config{}).Validate(); err != nil {
		t.Error(err)
	}
	err := (&fts.Config{TitleWeight: -1, MaxSize: 1001, MaxWords: -1, MaxDocumentBytes: -1, Timeout: -1, MaxTenants: -1, MaxConns: -1}).Validate()
	for _, key := range []string{"title_weight", "max_size", "max_words", "max_document_bytes", "timeout", "max_tenants", "max_conns"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%v does not name %s", err, key)
		}
	}
}

// The index is kept beside the documents by hand: replaced words must not be found again.
func TestReplacing(t *testing.T) {
	src := openWith(t, fts.Config{}, t.TempDir())
	for _, body := range []string{"alpha beta", "beta gamma", "gamma delta"} {
		doc := source.Document{ID: "d", Title: body + " title", Body: body, Attrs: map[string]any{"last": body}}
		if err := src.(source.Loader).Load(t.Context(), "acme", source.Data{Documents: []source.Document{doc, {ID: "e", Body: "still here"}}}); err != nil {
			t.Fatal(err)
		}
	}
	for word, want := range map[string]int{"alpha": 0, "beta": 0, "gamma": 1, "delta": 1, "title": 1, "still": 1} {
		hits, err := src.(source.Searcher).Search(t.Context(), "acme", source.Search{Text: word})
		if err != nil || hits.Total != want || len(hits.Hits) != want {
			t.Errorf("%s: got %+v, %v", word, hits, err)
		}
	}
	hits, err := src.(source.Searcher).Search(t.Context(), "acme", source.Search{Filter: map[string]any{"last": "alpha beta"}})
	if err != nil || hits.Total != 0 {
		t.Errorf("an old attribute: %+v, %v", hits, err)
	}
}

func TestLoadRefuses(t *testing.T) {
	src := openWith(t, fts.Config{MaxDocumentBytes: 100}, t.TempDir())
	for name, tc := range map[string]struct {
		doc  source.Document
		code atlas.Code
	}{
		"no id":         {source.Document{Body: "x"}, atlas.CodeInvalidArguments},
		"too large":     {source.Document{ID: "x", Body: strings.Repeat("x", 101)}, atlas.CodeTooLarge},
		"bad attribute": {source.Document{ID: "x", Attrs: map[string]any{"a": []string{"b"}}}, atlas.CodeInvalidArguments},
	} {
		good := source.Document{ID: "good", Body: "good"}
		err := src.(source.Loader).Load(t.Context(), "acme", source.Data{Documents: []source.Document{good, tc.doc}})
		if atlas.CodeOf(err) != tc.code {
			t.Errorf("%s: got %v, want %s", name, err, tc.code)
		}
		hits, err := src.(source.Searcher).Search(t.Context(), "acme", source.Search{})
		if err != nil || hits.Total > 0 {
			t.Errorf("%s: half of it was loaded: %+v, %v", name, hits, err)
		}
	}
}

func FuzzSearch(f *testing.F) {
	for _, s := range []string{"refund", `"`, `a" OR "b`, "NEAR(a b)", "title:x", "*", "-", "o_9002", "\x00", "\xff", "é\u0301", "ﬁ", "日本", "a-", "_", "١٢"} {
		f.Add(s)
	}
	src := openWith(f, fts.Config{}, f.TempDir())
	for tenant, d := range sourcetest.Company() {
		if err := src.(source.Loader).Load(f.Context(), tenant, d); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		hits, err := src.(source.Searcher).Search(t.Context(), sourcetest.A, source.Search{Text: text})
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		for _, h := range hits.Hits {
			if title, _ := h.Fields["title"].(string); !strings.Contains(title, "belongstoacme") {
				t.Errorf("%q: %v", text, h.Fields)
			}
		}
		if hits.Total < len(hits.Hits) {
			t.Errorf("%q: %d hits of %d", text, len(hits.Hits), hits.Total)
		}
		// A word that is in no document changes nothing.
		if _, err := src.(source.Searcher).Search(t.Context(), sourcetest.A, source.Search{Text: text + ` nosuchword" * (`}); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
	})
}

func BenchmarkSearch(b *testing.B) {
	src := openWith(b, fts.Config{}, b.TempDir())
	words := strings.Fields("order refund card return shipping express invoice customer account payment delay policy warranty address")
	var docs []source.Document
	for i := range 2000 {
		body := ""
		for j := range 60 {
			body += words[(i*7+j*j)%len(words)] + " "
		}
		docs = append(docs, source.Document{ID: fmt.Sprint("d_", i), Title: words[i%len(words)], Body: body + fmt.Sprint("o_", i), Attrs: map[string]any{"kind": words[i%3]}})
	}
	if err := src.(source.Loader).Load(b.Context(), "acme", source.Data{Documents: docs}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := src.(source.Searcher).Search(b.Context(), "acme", source.Search{Text: "refund of order o_1234 delayed", Filter: map[string]any{"kind": "order"}}); err != nil {
			b.Fatal(err)
		}
	}
}
