package sourcetest

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

var searcherSuite = suite{
	open: openCompany,
	has:  func(s source.Source) bool { _, ok := s.(source.Searcher); return ok },
	call: func(ctx context.Context, src source.Source, tenant atlas.TenantID) error {
		_, err := src.(source.Searcher).Search(ctx, tenant, source.Search{Text: "refund"})
		return err
	},
	laws: []law{
		{"Words", "any of the words finds a document; the best hit comes first, with score, snippet and fields", searchWords},
		{"Inflection", "case, accents and inflection do not matter", searchInflection},
		{"IDs", "an id finds the documents in which it stands, and not those of a longer id", searchIDs},
		{"NoSyntax", "no text is query syntax: nothing fails, and nothing changes its meaning", searchNoSyntax},
		{"Nothing", "a text that occurs nowhere, or has no words, finds nothing; that is no failure", searchNothing},
		{"Filter", "filters hold exactly, by type and value, all of them; a list holds for any of its elements", searchFilter},
		{"BadFilter", "a filter of an impossible value is invalid_arguments", searchBadFilter},
		{"Newest", "an empty text lists what fits the filter, newest first", searchNewest},
		{"Size", "at most Size hits come, 10 if it is 0; Total tells how many there are", searchSize},
		{"Isolation", "nothing of one tenant is found, counted or inferred by another, not even under the same ids", searchIsolation},
		{"Together", "two tenants at once each find their own", searchTogether},
		{"Nobody", "a tenant without data finds nothing", searchNobody},
	},
}

func search(t *testing.T, src source.Source, tenant atlas.TenantID, s source.Search) source.Hits {
	t.Helper()
	hits, err := src.(source.Searcher).Search(t.Context(), tenant, s)
	if err != nil {
		t.Fatalf("search %q %v: %v", s.Text, s.Filter, err)
	}
	return hits
}

// ids are the ids of hits, in order.
func ids(h source.Hits) []string {
	out := []string{}
	for _, hit := range h.Hits {
		out = append(out, hit.ID)
	}
	return out
}

func wantIDs(t *testing.T, what string, got source.Hits, want ...string) {
	t.Helper()
	if want == nil {
		want = []string{}
	}
	if diff := gocmp.Diff(want, ids(got)); diff != "" {
		t.Errorf("%s (-want +got)\n%s", what, diff)
	}
}

// wantSet is wantIDs in any order.
func wantSet(t *testing.T, what string, got source.Hits, want ...string) {
	t.Helper()
	have := ids(got)
	slices.Sort(have)
	if diff := gocmp.Diff(slices.Sorted(slices.Values(want)), have); diff != "" && len(have)+len(want) > 0 {
		t.Errorf("%s (-want +got)\n%s", what, diff)
	}
}

func searchWords(t *testing.T, h Harness) {
	src := openCompany(t, h)
	hits := search(t, src, A, source.Search{Text: "refund policy"})
	wantIDs(t, "refund policy", hits, "d_1", "d_2")
	if hits.Total != 2 && hits.Total != -1 {
		t.Errorf("total %d", hits.Total)
	}
	for i, hit := range hits.Hits {
		if hit.Snippet == "" || hit.Score <= 0 || i > 0 && hit.Score > hits.Hits[i-1].Score {
			t.Errorf("hit %d: %s", i, text(t, hit))
		}
	}
	if len(hits.Hits) == 0 {
		return
	}
	want := map[string]any{
		"title": "Refund policy " + mark(A), "body": "Refunds are paid within five business days after the return arrives. " + mark(A),
		"url": "https://example.com/d_1", "kind": "policy", "year": 2026, "public": true, "created_at": "2026-01-01T00:00:00Z",
	}
	// As JSON: drivers may differ in how they hold numbers.
	if diff := gocmp.Diff(text(t, want), text(t, hits.Hits[0].Fields)); diff != "" {
		t.Errorf("fields (-want +got)\n%s", diff)
	}
	wantSet(t, "either word", search(t, src, A, source.Search{Text: "express zebraacme"}), "d_2", "only-acme")
	// A word in the title counts more than the same in the body.
	wantIDs(t, "title", search(t, src, A, source.Search{Text: "order"}), "t_7302", "t_7301")
}

func searchInflection(t *testing.T, h Harness) {
	src := openCompany(t, h)
	for _, word := range []string{"REFUNDING", "refunds", "Paying paid"} {
		if got := search(t, src, A, source.Search{Text: word}); !slices.Contains(ids(got), "d_1") {
			t.Errorf("%s: got %v", word, ids(got))
		}
	}
	for _, word := range []string{"cafe", "CAFÉ", "Zurich", "zürich", "ZU\u0308RICH"} {
		wantIDs(t, word, search(t, src, A, source.Search{Text: word}), "t_7301")
	}
}

func searchIDs(t *testing.T, h Harness) {
	src := openCompany(t, h)
	for id, want := range map[string][]string{
		"o_9002": {"t_7301"}, "CUST-1001": {"t_7301"}, "cust-1001": {"t_7301"}, "o_90021": {"t_7302"}, "CUST-10010": {"t_7302"},
		"o_900": {}, "CUST-100": {}, "o_9002, CUST-1001?": {"t_7301"}, "(CUST-10010)": {"t_7302"},
	} {
		wantSet(t, id, search(t, src, A, source.Search{Text: id}), want...)
	}
}

func searchNoSyntax(t *testing.T, h Harness) {
	src := openCompany(t, h)
	for _, tc := range []struct {
		text string
		want []string
	}{
		{`"express`, []string{"d_2"}},
		{`express"`, []string{"d_2"}},
		{`express*`, []string{"d_2"}},
		{`expr*`, nil},
		{`exp?ess`, nil},
		{`express AND zebraacme`, []string{"d_2", "only-acme"}},
		{`express NOT shipping`, []string{"d_2"}},
		{`-express`, []string{"d_2"}},
		{`+express +nosuchword`, []string{"d_2"}},
		{`^express`, []string{"d_2"}},
		{`title:express`, []string{"d_2"}},
		{`{title}: express`, []string{"d_2"}},
		{`- title : express`, []string{"d_2"}},
		{`kind:policy express`, []string{"d_1", "d_2"}},
		{`NEAR(express shipping, 1)`, []string{"d_2"}},
		{`express + shipping`, []string{"d_2"}},
		{`(express`, []string{"d_2"}},
		{`express) OR (zebraacme`, []string{"d_2", "only-acme"}},
		{`express~2`, []string{"d_2"}},
		{`/expr.*/`, nil},
		{`{"query":{"match_all":{}}}`, nil},
		{`express'; DROP TABLE doc; --`, []string{"d_2"}},
		{`[* TO *]`, nil},
		{`*:*`, nil},
		{`_exists_:title`, []string{}},
		{"express\x00zebraacme", []string{"d_2", "only-acme"}},
		{"express\xff", []string{"d_2"}},
		{`\express`, []string{"d_2"}},
		{strings.Repeat(`"(`, 2000) + `express`, []string{"d_2"}},
	} {
		hits, err := src.(source.Searcher).Search(t.Context(), A, source.Search{Text: tc.text, Size: 50})
		if err != nil {
			t.Errorf("%.40q: %v", tc.text, err)
			continue
		}
		// Words of the noise itself ("title", "to", "not") stand in documents or not; what matters is
		// that the words meant are found and that nothing matches everything.
		for _, id := range tc.want {
			if !slices.Contains(ids(hits), id) {
				t.Errorf("%.40q: got %v, want %v in it", tc.text, ids(hits), tc.want)
			}
		}
		if len(tc.want) == 0 && slices.Contains(ids(hits), "only-acme") {
			t.Errorf("%.40q: matches everything: %v", tc.text, ids(hits))
		}
	}
	if _, err := src.(source.Searcher).Search(t.Context(), A, source.Search{Text: strings.Repeat("word ", 100_000)}); err != nil {
		refused(t, err, atlas.CodeTooLarge)
	}
}

func searchNothing(t *testing.T, h Harness) {
	src := openCompany(t, h)
	for _, s := range []string{"nosuchword", "?!", "---", "\"\"", "*", "…", "\u200b."} {
		got := search(t, src, A, source.Search{Text: s})
		if len(got.Hits) != 0 || got.Total > 0 {
			t.Errorf("%q: got %v, total %d", s, ids(got), got.Total)
		}
	}
}

func searchFilter(t *testing.T, h Harness) {
	src := openCompany(t, h)
	for _, tc := range []struct {
		name   string
		filter map[string]any
		want   []string
	}{
		{"string", map[string]any{"kind": "policy"}, []string{"d_1", "d_2"}},
		{"whole string only", map[string]any{"kind": "pol"}, nil},
		{"string's case", map[string]any{"kind": "Policy"}, nil},
		{"no wildcard", map[string]any{"kind": "*"}, nil},
		{"integer", map[string]any{"year": 2026}, []string{"d_1", "t_7301"}},
		{"integer as float", map[string]any{"year": 2026.0}, []string{"d_1", "t_7301"}},
		{"JSON number", map[string]any{"year": json.Number("2026")}, []string{"d_1", "t_7301"}},
		{"fraction", map[string]any{"year": 2026.5}, []string{"t_7302"}},
		{"boolean", map[string]any{"public": false}, []string{"t_7301", "t_7302"}},
		{"all of them", map[string]any{"year": 2026, "kind": "ticket"}, []string{"t_7301"}},
		{"any of a list", map[string]any{"kind": []any{"ticket", "only-acme", "x"}}, []string{"only-acme", "t_7301", "t_7302"}},
		{"list of strings", map[string]any{"kind": []string{"ticket"}}, []string{"t_7301", "t_7302"}},
		{"empty list", map[string]any{"kind": []any{}}, nil},
		{"unknown attribute", map[string]any{"nosuch": "x"}, nil},
		{"attribute that is syntax", map[string]any{`kind" OR 1=1 --`: "x"}, nil},
		{"value that is syntax", map[string]any{"kind": `x' OR '1'='1`}, nil},
		{"the tenant is none", map[string]any{"tenant": "globex"}, nil},
	} {
		wantSet(t, tc.name, search(t, src, A, source.Search{Filter: tc.filter}), tc.want...)
	}
	wantIDs(t, "with words", search(t, src, A, source.Search{Text: "refund", Filter: map[string]any{"year": 2025}}), "d_2")
	wantIDs(t, "by id", search(t, src, A, source.Search{Filter: map[string]any{"id": "d_2"}}), "d_2")
	wantIDs(t, "by the start of an id", search(t, src, A, source.Search{Filter: map[string]any{"id": "d_"}}))
}

func searchBadFilter(t *testing.T, h Harness) {
	src := openCompany(t, h)
	many := map[string]any{}
	for i := range 1000 {
		many[strings.Repeat("x", i+1)] = "x"
	}
	for name, f := range map[string]map[string]any{
		"null": {"kind": nil}, "object": {"kind": map[string]any{"$ne": "x"}}, "list of lists": {"kind": []any{[]any{"x"}}},
		"list with null": {"kind": []any{"policy", nil}}, "too many": many, "too long": {"kind": make([]string, 100_000)},
	} {
		_, err := src.(source.Searcher).Search(t.Context(), A, source.Search{Text: "refund", Filter: f})
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		refused(t, err, atlas.CodeInvalidArguments)
	}
	_, err := src.(source.Searcher).Search(t.Context(), A, source.Search{Text: "refund", Size: -1})
	refused(t, err, atlas.CodeInvalidArguments)
}

func searchNewest(t *testing.T, h Harness) {
	src := openCompany(t, h)
	wantIDs(t, "all", search(t, src, A, source.Search{}), "d_2", "t_7302", "t_7301", "d_1", "only-acme")
	wantIDs(t, "spaces", search(t, src, A, source.Search{Text: " \t\n", Filter: map[string]any{"year": 2026}}), "t_7301", "d_1")
}

func searchSize(t *testing.T, h Harness) {
	d := source.Data{}
	for i := range 40 {
		id := "n_" + string(rune('a'+i/10)) + string(rune('0'+i%10))
		d.Documents = append(d.Documents, source.Document{ID: id, Title: "note", Body: "a common word " + id, Attrs: map[string]any{"kind": "note"}})
	}
	src := h.Open(t, map[atlas.TenantID]source.Data{A: d})
	for _, s := range []source.Search{{Text: "common"}, {Filter: map[string]any{"kind": "note"}}} {
		for size, want := range map[int]int{0: 10, 1: 1, 25: 25, 40: 40, 1 << 40: 40} {
			s.Size = size
			got := search(t, src, A, s)
			if len(got.Hits) != want || got.Total != 40 && got.Total != -1 {
				t.Errorf("size %d: got %d hits, total %d; want %d, 40", size, len(got.Hits), got.Total, want)
			}
		}
	}
}

func searchIsolation(t *testing.T, h Harness) {
	both, alone := openCompany(t, h), h.Open(t, map[atlas.TenantID]source.Data{B: data(B)})
	for _, s := range []source.Search{
		{},
		{Text: "refund"},
		{Text: "zebraacme"},
		{Text: mark(A)},
		{Text: "only-acme secret plan"},
		{Text: "d_1 t_7301"},
		{Filter: map[string]any{"kind": "only-acme"}},
		{Filter: map[string]any{"kind": []any{"only-acme", "policy"}}},
		{Text: "refund", Filter: map[string]any{"tenant": "acme", "_tenant": "acme"}},
	} {
		s.Size = 50
		got := search(t, both, B, s)
		if all := text(t, got); strings.Contains(all, mark(A)) || strings.Contains(all, "zebraacme") {
			t.Errorf("%v: B is given %s", s, all)
		}
		without := search(t, alone, B, s)
		if diff := gocmp.Diff(plain(without), plain(got)); diff != "" {
			t.Errorf("%v: B's answer depends on A (-without +with)\n%s", s, diff)
		}
	}
	only := text(t, search(t, both, B, source.Search{Text: "zebraacme"}))
	if none := text(t, search(t, both, B, source.Search{Text: "zebranowhere"})); only != none {
		t.Errorf("A's word and nobody's word differ for B:\n%s\n%s", only, none)
	}
}

// plain is what of hits is to be equal whoever else uses the store: scores may depend on the store.
func plain(h source.Hits) source.Hits {
	out := source.Hits{Total: h.Total, Hits: slices.Clone(h.Hits)}
	for i := range out.Hits {
		out.Hits[i].Score = 0
	}
	slices.SortFunc(out.Hits, func(a, b source.Hit) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

func searchTogether(t *testing.T, h Harness) {
	src := openCompany(t, h)
	together(t, func(tenant atlas.TenantID, i int) {
		s := source.Search{Text: "refund policy " + mark(other(tenant))}
		if i%3 == 2 {
			s = source.Search{Filter: map[string]any{"year": 2025}}
		}
		got, err := src.(source.Searcher).Search(t.Context(), tenant, s)
		if err != nil || len(got.Hits) == 0 {
			t.Errorf("%s: got %d hits, %v", tenant, len(got.Hits), err)
		}
		for _, hit := range got.Hits {
			if title, _ := hit.Fields["title"].(string); !strings.Contains(title, mark(tenant)) {
				t.Errorf("%s was given %v", tenant, hit.Fields)
			}
		}
	})
}

func searchNobody(t *testing.T, h Harness) {
	src := openCompany(t, h)
	for _, s := range []source.Search{{}, {Text: "refund"}, {Filter: map[string]any{"kind": "policy"}}} {
		if got := search(t, src, Nobody, s); len(got.Hits) != 0 || got.Total > 0 {
			t.Errorf("got %v, total %d", ids(got), got.Total)
		}
	}
	if a, b := text(t, search(t, src, Nobody, source.Search{Text: "zebranowhere"})), text(t, search(t, src, B, source.Search{Text: "zebranowhere"})); a != b {
		t.Errorf("nothing found differs:\n%s\n%s", a, b)
	}
}
