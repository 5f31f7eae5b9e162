package sourcetest

import (
	"context"
	"errors"
	"hash/fnv"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

var vectorSuite = suite{
	open: func(t *testing.T, h Harness) source.Source { t.Helper(); return openVectors(t, h, Company()) },
	has:  func(s source.Source) bool { _, ok := s.(source.VectorIndex); return ok },
	call: func(ctx context.Context, src source.Source, tenant atlas.TenantID) error {
		_, err := src.(source.VectorIndex).Nearest(ctx, tenant, source.Nearest{Text: "refund"})
		return err
	},
	laws: []law{
		{"Nearest", "the nearest document comes first, with score, snippet and fields; a vector finds like its text", vectorNearest},
		{"Vector", "a vector of another dimension, or without direction, is invalid_arguments, as is none or both", vectorBad},
		{"Filter", "filters hold before the nearest are chosen, exactly, by type and value", vectorFilter},
		{"K", "at most K hits come, 10 if it is 0", vectorK},
		{"Replace", "loading a document again replaces it", vectorReplace},
		{"Slow", "a call ends with its context while the embedder works", vectorSlow},
		{"Embedder", "an embedder's failure is source_unavailable and tells nothing", vectorEmbedder},
		{"Other", "vectors of two embedders are never compared: asking is source_misconfigured", vectorOther},
		{"Isolation", "nothing of one tenant is near to another's question, not even under the same ids", vectorIsolation},
		{"Together", "two tenants at once each find their own", vectorTogether},
		{"Nobody", "a tenant without data finds nothing", vectorNobody},
	},
}

// Embedder is the suites' embedder: words hashed to 32 places. Vectors of the same text are equal.
type Embedder struct {
	Name  string                      // its ID; "suite-32" if empty
	Begin func(context.Context) error // called before embedding; may be nil
}

// ID implements source.Embedder.
func (e Embedder) ID() string {
	if e.Name != "" {
		return e.Name
	}
	return "suite-32"
}

// Dim implements source.Embedder.
func (e Embedder) Dim() int { return 32 }

// Embed implements source.Embedder.
func (e Embedder) Embed(ctx context.Context, texts []string) ([][]float32, error) {
	if e.Begin != nil {
		if err := e.Begin(ctx); err != nil {
			return nil, err
		}
	}
	out := make([][]float32, len(texts))
	for i, s := range texts {
		v := make([]float32, 32)
		var square float64
		for w := range strings.FieldsSeq(strings.ToLower(s)) {
			h := fnv.New32a()
			_, _ = h.Write([]byte(strings.Trim(w, ".,?:;")))
			v[h.Sum32()%32]++
		}
		for _, f := range v {
			square += float64(f) * float64(f)
		}
		if square > 0 {
			for j := range v {
				v[j] /= float32(math.Sqrt(square))
			}
		}
		out[i] = v
	}
	return out, nil
}

func openVectors(t *testing.T, h Harness, data map[atlas.TenantID]source.Data) source.Source {
	t.Helper()
	if h.OpenEmbed == nil {
		t.Fatal("the harness has no OpenEmbed")
	}
	return h.OpenEmbed(t, Embedder{}, data)
}

func near(t *testing.T, src source.Source, tenant atlas.TenantID, n source.Nearest) source.Hits {
	t.Helper()
	hits, err := src.(source.VectorIndex).Nearest(t.Context(), tenant, n)
	if err != nil {
		t.Fatalf("nearest %q %v: %v", n.Text, n.Filter, err)
	}
	return hits
}

func titleAndBody(d source.Document) string { return d.Title + "\n" + d.Body }

func vectorNearest(t *testing.T, h Harness) {
	src := openVectors(t, h, Company())
	for _, d := range data(A).Documents {
		got := near(t, src, A, source.Nearest{Text: titleAndBody(d), K: 3})
		if len(got.Hits) != 3 || got.Hits[0].ID != d.ID || got.Hits[0].Snippet == "" {
			t.Errorf("%s: got %s", d.ID, text(t, got))
			continue
		}
		for i := 1; i < len(got.Hits); i++ {
			if got.Hits[i].Score > got.Hits[i-1].Score {
				t.Errorf("%s: scores rise: %s", d.ID, text(t, got))
			}
		}
		if f := got.Hits[0].Fields; f["title"] != d.Title || f["body"] != d.Body || f["kind"] != d.Attrs["kind"] {
			t.Errorf("%s: fields %v", d.ID, f)
		}
		vs, err := Embedder{}.Embed(t.Context(), []string{titleAndBody(d)})
		if err != nil {
			t.Fatal(err)
		}
		if diff := gocmp.Diff(got, near(t, src, A, source.Nearest{Vector: vs[0], K: 3})); diff != "" {
			t.Errorf("%s: by vector (-text +vector)\n%s", d.ID, diff)
		}
	}
}

func vectorBad(t *testing.T, h Harness) {
	src := openVectors(t, h, Company())
	ones := func(n int, first float64) []float32 {
		v := make([]float32, n)
		for i := range v {
			v[i] = 1
		}
		if n > 0 {
			v[0] = float32(first)
		}
		return v
	}
	for name, n := range map[string]source.Nearest{
		"none": {}, "both": {Text: "x", Vector: ones(32, 1)}, "short": {Vector: ones(31, 1)}, "long": {Vector: ones(33, 1)}, "empty": {Vector: []float32{}},
		"zero": {Vector: make([]float32, 32)}, "not a number": {Vector: ones(32, math.NaN())}, "infinite": {Vector: ones(32, math.Inf(1))},
		"negative k": {Text: "x", K: -1}, "bad filter": {Text: "x", Filter: map[string]any{"kind": nil}},
	} {
		for _, tenant := range []atlas.TenantID{A, Nobody} {
			_, err := src.(source.VectorIndex).Nearest(t.Context(), tenant, n)
			if err == nil {
				t.Errorf("%s: accepted", name)
				continue
			}
			refused(t, err, atlas.CodeInvalidArguments)
		}
	}
}

func vectorFilter(t *testing.T, h Harness) {
	src := openVectors(t, h, Company())
	first := data(A).Documents[0]
	for _, tc := range []struct {
		filter map[string]any
		want   []string
	}{
		{map[string]any{"kind": "policy"}, []string{"d_1", "d_2"}},
		{map[string]any{"kind": "ticket", "year": 2026}, []string{"t_7301"}},
		{map[string]any{"kind": []any{"only-acme", "ticket"}}, []string{"only-acme", "t_7301", "t_7302"}},
		{map[string]any{"kind": "x' OR 1=1 --"}, nil},
		{map[string]any{"public": true, "year": 2025}, []string{"d_2"}},
		{map[string]any{"nosuch": 1}, nil},
		{map[string]any{"kind": []any{}}, nil},
	} {
		wantSet(t, text(t, tc.filter), near(t, src, A, source.Nearest{Text: titleAndBody(first), Filter: tc.filter}), tc.want...)
	}
	// The farthest of all is found with K = 1 if it is the only one that fits.
	wantIDs(t, "prefilter", near(t, src, A, source.Nearest{Text: titleAndBody(first), Filter: map[string]any{"kind": "only-acme"}, K: 1}), "only-acme")
}

func vectorK(t *testing.T, h Harness) {
	d := source.Data{}
	for i := range 40 {
		d.Documents = append(d.Documents, source.Document{ID: "n_" + string(rune('A'+i)), Title: "note", Body: strings.Repeat("word ", i+1)})
	}
	src := openVectors(t, h, map[atlas.TenantID]source.Data{A: d})
	for k, want := range map[int]int{0: 10, 1: 1, 25: 25, 1 << 40: 40} {
		if got := near(t, src, A, source.Nearest{Text: "note word", K: k}); len(got.Hits) != want {
			t.Errorf("k %d: got %d hits, want %d", k, len(got.Hits), want)
		}
	}
}

func vectorReplace(t *testing.T, h Harness) {
	src := openVectors(t, h, Company())
	changed := source.Document{ID: "d_1", Title: "Giraffe", Body: "An animal with a long neck.", Attrs: map[string]any{"kind": "animal"}}
	if err := src.(source.Loader).Load(t.Context(), A, source.Data{Documents: []source.Document{changed}}); err != nil {
		t.Fatal(err)
	}
	wantIDs(t, "new", near(t, src, A, source.Nearest{Text: "giraffe neck", K: 1}), "d_1")
	wantSet(t, "old attribute", near(t, src, A, source.Nearest{Text: "refund", Filter: map[string]any{"kind": "policy"}}), "d_2")
	if got := near(t, src, A, source.Nearest{Text: "refund", K: 50}); len(got.Hits) != 5 || strings.Contains(text(t, got), "five business days") {
		t.Errorf("got %v", ids(got))
	}
	wantIDs(t, "other tenant", near(t, src, B, source.Nearest{Text: titleAndBody(data(B).Documents[0]), K: 1}), "d_1")
}

func vectorSlow(t *testing.T, h Harness) {
	var (
		mu   sync.Mutex
		slow bool
	)
	ctx, cancel := context.WithCancel(t.Context())
	src := h.OpenEmbed(t, Embedder{Begin: func(ctx context.Context) error {
		mu.Lock()
		wait := slow
		mu.Unlock()
		if !wait {
			return nil
		}
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}}, Company())
	mu.Lock()
	slow = true
	mu.Unlock()
	_, err := src.(source.VectorIndex).Nearest(ctx, A, source.Nearest{Text: "refund"})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	refused(t, err, atlas.CodeCanceled)
}

func vectorEmbedder(t *testing.T, h Harness) {
	var (
		mu   sync.Mutex
		fail error
	)
	src := h.OpenEmbed(t, Embedder{Begin: func(context.Context) error {
		mu.Lock()
		defer mu.Unlock()
		return fail
	}}, Company())
	mu.Lock()
	fail = errors.New("dial " + Marker + ": refused")
	mu.Unlock()
	_, err := src.(source.VectorIndex).Nearest(t.Context(), A, source.Nearest{Text: "refund"})
	refused(t, err, atlas.CodeSourceUnavailable)
}

func vectorOther(t *testing.T, h Harness) {
	// The harness's Open for another embedder's data: load with one, ask with the other.
	name := &swap{Embedder: Embedder{}}
	src := h.OpenEmbed(t, name, Company())
	name.set("suite-other")
	_, err := src.(source.VectorIndex).Nearest(t.Context(), A, source.Nearest{Text: "refund"})
	seen := refused(t, err, atlas.CodeSourceMisused)
	_, err = src.(source.VectorIndex).Nearest(t.Context(), A, source.Nearest{Vector: append(make([]float32, 31), 1)})
	if again := refused(t, err, atlas.CodeSourceMisused); seen != again {
		t.Errorf("text and vector differ:\n%s\n%s", seen, again)
	}
	// Loading mends it, for the documents that were there before too.
	extra := source.Document{ID: "x_1", Title: "Giraffe", Body: "long neck"}
	if err := src.(source.Loader).Load(t.Context(), A, source.Data{Documents: []source.Document{extra}}); err != nil {
		t.Fatal(err)
	}
	first := data(A).Documents[0]
	wantIDs(t, "old", near(t, src, A, source.Nearest{Text: titleAndBody(first), K: 1}), first.ID)
	wantIDs(t, "new", near(t, src, A, source.Nearest{Text: "giraffe long neck", K: 1}), "x_1")
}

// A swap is an embedder that can become another one.
type swap struct {
	Embedder
	mu   sync.Mutex
	name string
}

func (s *swap) set(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.name = name
}

func (s *swap) ID() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Embedder.ID() + s.name
}

func vectorIsolation(t *testing.T, h Harness) {
	both, alone := openVectors(t, h, Company()), openVectors(t, h, map[atlas.TenantID]source.Data{B: data(B)})
	var asked []source.Nearest
	for _, d := range data(A).Documents {
		asked = append(asked, source.Nearest{Text: titleAndBody(d)}, source.Nearest{Text: titleAndBody(d), Filter: map[string]any{"kind": d.Attrs["kind"]}})
	}
	asked = append(asked, source.Nearest{Text: "refund", Filter: map[string]any{"tenant": "acme"}})
	for _, n := range asked {
		n.K = 50
		got := near(t, both, B, n)
		if all := text(t, got); strings.Contains(all, mark(A)) || slices.Contains(ids(got), "only-acme") {
			t.Errorf("%q: B is given %s", n.Text, all)
		}
		if diff := gocmp.Diff(plain(near(t, alone, B, n)), plain(got)); diff != "" {
			t.Errorf("%q: B's answer depends on A (-without +with)\n%s", n.Text, diff)
		}
	}
}

func vectorTogether(t *testing.T, h Harness) {
	src := openVectors(t, h, Company())
	together(t, func(tenant atlas.TenantID, _ int) {
		got, err := src.(source.VectorIndex).Nearest(t.Context(), tenant, source.Nearest{Text: "refund policy " + mark(other(tenant)), K: 5})
		if err != nil || len(got.Hits) != 5 {
			t.Errorf("%s: got %d hits, %v", tenant, len(got.Hits), err)
		}
		for _, hit := range got.Hits {
			if title, _ := hit.Fields["title"].(string); !strings.Contains(title, mark(tenant)) {
				t.Errorf("%s was given %v", tenant, hit.Fields)
			}
		}
	})
}

func vectorNobody(t *testing.T, h Harness) {
	src := openVectors(t, h, Company())
	if got := near(t, src, Nobody, source.Nearest{Text: "refund"}); len(got.Hits) != 0 || got.Total > 0 {
		t.Errorf("got %v, total %d", ids(got), got.Total)
	}
}
