package vec_test

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/lexical"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
	"github.com/atlas-mcp/atlas/internal/source/vec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	_ source.Config      = (*vec.Config)(nil)
	_ source.VectorIndex = (*vec.Index)(nil)
	_ source.Loader      = (*vec.Index)(nil)
)

func openWith(t testing.TB, cfg vec.Config, embed source.Embedder, dir string) source.Source {
	t.Helper()
	src, err := cfg.Open(t.Context(), source.Deps{Name: "kb", DataDir: dir, Embed: embed})
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

func TestContract(t *testing.T) {
	sourcetest.Run(t, sourcetest.Harness{
		OpenEmbed: func(t *testing.T, embed source.Embedder, data map[atlas.TenantID]source.Data) source.Source {
			t.Helper()
			return sourcetest.Load(t, openWith(t, vec.Config{}, embed, filepath.Join(t.TempDir(), sourcetest.Marker)), data)
		},
	}, sourcetest.VectorIndex)
}

func TestOpen(t *testing.T) {
	if _, err := (&vec.Config{}).Open(t.Context(), source.Deps{Name: "kb", DataDir: t.TempDir()}); atlas.CodeOf(err) != atlas.CodeSourceMisused {
		t.Errorf("without an embedder: %v", err)
	}
	err := (&vec.Config{MaxK: 1001, MaxTextBytes: -1, MaxDocumentBytes: -1, Timeout: -1, MaxTenants: -1, MaxConns: -1}).Validate()
	for _, key := range []string{"max_k", "max_text_bytes", "max_document_bytes", "timeout", "max_tenants", "max_conns"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%v does not name %s", err, key)
		}
	}
}

// A service that embeds may answer nonsense; it must not get into the store or the answer.
func TestNonsense(t *testing.T) {
	nan := float32(math.NaN())
	for name, answer := range map[string][][]float32{"none": nil, "short": {{1, 2}}, "not a number": {append(make([]float32, 31), nan)}} {
		src := openWith(t, vec.Config{}, fixed{answer}, t.TempDir())
		_, err := src.(source.VectorIndex).Nearest(t.Context(), "acme", source.Nearest{Text: "x"})
		if atlas.CodeOf(err) != atlas.CodeSourceError {
			t.Errorf("%s: got %v", name, err)
		}
		err = src.(source.Loader).Load(t.Context(), "acme", source.Data{Documents: []source.Document{{ID: "d", Body: "x"}}})
		if atlas.CodeOf(err) != atlas.CodeSourceError {
			t.Errorf("%s: load: %v", name, err)
		}
	}
}

type fixed struct{ answer [][]float32 }

func (f fixed) ID() string                                           { return "fixed" }
func (f fixed) Dim() int                                             { return 32 }
func (f fixed) Embed(context.Context, []string) ([][]float32, error) { return f.answer, nil }

func TestTooLarge(t *testing.T) {
	src := openWith(t, vec.Config{MaxTextBytes: 10, MaxDocumentBytes: 10}, sourcetest.Embedder{}, t.TempDir())
	_, err := src.(source.VectorIndex).Nearest(t.Context(), "acme", source.Nearest{Text: "more than ten"})
	if atlas.CodeOf(err) != atlas.CodeTooLarge {
		t.Errorf("got %v", err)
	}
	err = src.(source.Loader).Load(t.Context(), "acme", source.Data{Documents: []source.Document{{ID: "d", Body: "more than ten"}}})
	if atlas.CodeOf(err) != atlas.CodeTooLarge {
		t.Errorf("got %v", err)
	}
}

func BenchmarkNearest(b *testing.B) {
	embed, err := lexical.New(lexical.Config{})
	if err != nil {
		b.Fatal(err)
	}
	src := openWith(b, vec.Config{}, embed, b.TempDir())
	var docs []source.Document
	for i := range 2000 {
		docs = append(docs, source.Document{ID: fmt.Sprint("d_", i), Title: fmt.Sprint("Document ", i), Body: fmt.Sprint("order o_", i, " of customer CUST-", i%97)})
	}
	if err := src.(source.Loader).Load(b.Context(), "acme", source.Data{Documents: docs}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := src.(source.VectorIndex).Nearest(b.Context(), "acme", source.Nearest{Text: "refund of order o_1234"}); err != nil {
			b.Fatal(err)
		}
	}
}
