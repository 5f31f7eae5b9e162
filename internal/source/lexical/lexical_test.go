package lexical_test

import (
	"context"
	"errors"
	"hash/fnv"
	"math"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/lexical"
)

var _ source.Embedder = (*lexical.Embedder)(nil)

func embedder(t testing.TB, dim int) *lexical.Embedder {
	t.Helper()
	e, err := lexical.New(lexical.Config{Dim: dim})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func embed(t testing.TB, e *lexical.Embedder, text string) []float32 {
	t.Helper()
	v, err := e.Embed(context.Background(), []string{text})
	if err != nil {
		t.Fatal(err)
	}
	return v[0]
}

func dot(a, b []float32) float64 {
	var s float64
	for i := range a {
		s += float64(a[i]) * float64(b[i])
	}
	return s
}

func TestNearness(t *testing.T) {
	e := embedder(t, 0)
	for _, tc := range []struct{ name, query, near, far string }{
		{"shared words", "refund policy", "Our refund policy: five business days after the return arrives", "Express shipping takes two days"},
		{"inflection", "refunds delayed", "Why a refund is sometimes delayed", "How to change an address"},
		{"typing mistake", "refnud polcy", "refund policy", "shipping prices"},
		{"ids stay whole", "CUST-1001", "Note on customer CUST-1001", "Note on customer CUST-1002"},
		{"ids in other case", "cust-1001", "CUST-1001 called", "CUST-2001 called"},
		{"accents", "livraison a Montreal", "Livraison à Montréal", "Retour de Toulouse"},
		{"common words count little", "what is the warranty", "warranty terms", "what is the time and what is it for"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q := embed(t, e, tc.query)
			near, far := dot(q, embed(t, e, tc.near)), dot(q, embed(t, e, tc.far))
			if near <= far+0.02 {
				t.Errorf("near %.3f, far %.3f", near, far)
			}
		})
	}
}

// Vectors are stored for years: a change of them needs another ID.
func TestVectorsAreStable(t *testing.T) {
	e := embedder(t, 0)
	if e.ID() != "lexical-hash-v1-384" || e.Dim() != 384 {
		t.Errorf("id %q, dim %d", e.ID(), e.Dim())
	}
	h := fnv.New64a()
	for _, text := range []string{"Why was the refund on order o_9002 for CUST-1001 delayed?", "Zoë's café", "東京 2026", "a a a b"} {
		for _, v := range embed(t, e, text) {
			_, _ = h.Write([]byte(strconv.FormatFloat(math.Round(float64(v)*1e5), 'f', 0, 64) + ","))
		}
	}
	if got, want := h.Sum64(), uint64(golden); got != want {
		t.Errorf("vectors changed (digest %#x, want %#x): give the embedder a new version", got, want)
	}
}

func TestLength(t *testing.T) {
	e := embedder(t, 64)
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		vs, err := e.Embed(context.Background(), []string{text, text})
		if err != nil {
			t.Fatal(err)
		}
		if !cmp.Equal(vs[0], vs[1]) {
			t.Fatal("two vectors for one text")
		}
		if n := dot(vs[0], vs[0]); len(vs[0]) != 64 || math.Abs(n-1) > 1e-4 && n != 0 {
			t.Fatalf("dimension %d, length %v", len(vs[0]), n)
		}
	})
	for _, nothing := range []string{"", "  ", "?!…", "\xff\xfe", "---"} {
		if v := embed(t, e, nothing); dot(v, v) != 0 {
			t.Errorf("%q has a vector", nothing)
		}
	}
}

func TestLimits(t *testing.T) {
	for dim, ok := range map[int]bool{-1: false, 15: false, 16: true, 0: true, 4096: true, 4097: false} {
		if err := (lexical.Config{Dim: dim}).Validate(); (err == nil) != ok {
			t.Errorf("dim %d: %v", dim, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := embedder(t, 0).Embed(ctx, []string{"x"}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	embed(t, embedder(t, 0), strings.Repeat("x", 1<<20)) // one endless word
}

func TestConcurrentUse(t *testing.T) {
	e := embedder(t, 0)
	want := embed(t, e, "the refund of order o_9002")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if got := embed(t, e, "the refund of order o_9002"); !cmp.Equal(got, want) {
					t.Error("another vector")
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkEmbed(b *testing.B) {
	e := embedder(b, 0)
	text := strings.Repeat("Refunds are paid within five business days after the return arrives. ", 20)
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		embed(b, e, text)
	}
}

const golden = 0xa7ef411a46e56ca2
