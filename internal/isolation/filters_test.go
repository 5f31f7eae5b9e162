package isolation_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas/internal/app"
	"github.com/atlas-mcp/atlas/internal/demo"
	"github.com/atlas-mcp/atlas/internal/isolation"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

// Here nothing of ours is exchanged: what keeps tenants apart is taken out of the stores themselves.

// opens an app with the configuration, in a process of which all sources are known.
func openWith(t *testing.T, overlay string) (*app.App, *opened) {
	t.Helper()
	w := watch(t)
	o := app.Options{Overlay: []byte(limits + overlay), DataDir: t.TempDir()}
	if err := app.Migrate(t.Context(), o, func(app.Step) {}); err != nil {
		t.Fatal(err)
	}
	return openApp(t, app.Options{Overlay: o.Overlay}), w
}

// again plants and proves.
func again(t *testing.T, a *app.App, w *opened) isolation.Report {
	t.Helper()
	canaries := isolation.Plant(t.Context(), isolation.Field{Sources: w.sources, Samples: demo.Companies()[demo.Acme]}, tenants, isolation.NewKey())
	for _, p := range canaries.Plants {
		if p.Failed != "" {
			t.Fatalf("%s: %s", p.Source, p.Failed)
		}
	}
	return prove(t, isolation.Config{Storm: 2}, isolation.Deps{Target: direct(t, a), Canaries: canaries})
}

// With row-level security off on one table, the proof finds the leak and names the source and the table.
func TestRowSecurityOffOnOneTable(t *testing.T) {
	overlay, d := postgres(t)
	a, w := openWith(t, overlay)
	if r := again(t, a, w); r.Result != isolation.ResultHeld {
		dump(t, r)
		t.Fatalf("before: %s: %+v", r.Result, r.Summary)
	}
	d.Admin(`ALTER TABLE orders DISABLE ROW LEVEL SECURITY`)
	r := again(t, a, w)
	if diff := cmp.Diff([]string{demo.CRM}, sourcesOf(r.Leaks())); diff != "" || r.Result != isolation.ResultLeak {
		dump(t, r)
		t.Fatalf("%s: %s", r.Result, diff)
	}
	byTool := map[string]bool{}
	for _, l := range r.Leaks() {
		byTool[l.Tool] = true
	}
	for tool, want := range map[string]bool{"crm_order": true, "crm_order_totals": true, "crm_customer_orders": true, "crm_customer": false, "crm_order_items": false} {
		if byTool[tool] != want {
			t.Errorf("%s leaks: %t, want %t", tool, byTool[tool], want)
		}
	}
	d.Admin(`ALTER TABLE orders ENABLE ROW LEVEL SECURITY`)
	if r := again(t, a, w); r.Result != isolation.ResultHeld {
		dump(t, r)
		t.Errorf("mended: %s: %+v", r.Result, r.Summary)
	}
}

// A tamperer stands before a search server. It takes the tenant out of the searches, and, if it is told to, makes
// what comes back look like the tenant's own, which the driver checks.
type tamperer struct {
	searches, answers atomic.Bool
}

var (
	tenantTerm = regexp.MustCompile(`\{"term":\{"tenant_id":"` + string(isolation.DefaultA) + `"\}\}`)
	buckets    = regexp.MustCompile(`"sum_other_doc_count":\d+,"buckets":\[[^\]]*\]`)
)

func (m *tamperer) serve(t *testing.T, server string) string {
	t.Helper()
	up, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		ours := tenantTerm.Match(body) && strings.Contains(r.URL.Path, "_search")
		if ours && m.searches.Load() {
			body = tenantTerm.ReplaceAll(body, fmt.Appendf(nil, `{"terms":{"tenant_id":["%s","%s"]}}`, isolation.DefaultA, isolation.DefaultB))
		}
		req, err := http.NewRequestWithContext(r.Context(), r.Method, up.Scheme+"://"+up.Host+r.URL.RequestURI(), bytes.NewReader(body))
		if err != nil {
			return
		}
		req.Header = r.Header
		res, err := client.Do(req)
		if err != nil {
			return
		}
		defer func() { _ = res.Body.Close() }()
		out, err := io.ReadAll(res.Body)
		if err != nil {
			return
		}
		if ours && m.answers.Load() {
			out = bytes.ReplaceAll(out, []byte(isolation.DefaultB), []byte(isolation.DefaultA))
			out = buckets.ReplaceAll(out, fmt.Appendf(nil, `"sum_other_doc_count":0,"buckets":[{"key":"%s","doc_count":1}]`, isolation.DefaultA))
		}
		w.Header().Set("Content-Type", res.Header.Get("Content-Type"))
		w.WriteHeader(res.StatusCode)
		_, _ = w.Write(out) // the driver may have gone
	}))
	t.Cleanup(func() { s.Close(); client.CloseIdleConnections() })
	return s.URL
}

// With the filter taken out of the searches the driver's own check refuses the answers, and the proof does not call that green;
// with the check deceived, too, it finds the leak and names the source.
func TestSearchFilterTakenOut(t *testing.T) {
	server := testenv.URL(t, testenv.OpenSearch)
	m := &tamperer{}
	a, w := openWith(t, with(demo.Tickets, "elasticsearch", fmt.Sprintf("url: %q, index: %s, isolation: filter, shared_statistics: true", m.serve(t, server), indexes(t, server))))
	if r := again(t, a, w); r.Result != isolation.ResultHeld {
		dump(t, r)
		t.Fatalf("before: %s: %+v", r.Result, r.Summary)
	}
	m.searches.Store(true)
	r := again(t, a, w)
	if r.Summary.Leaks != 0 || !slices.ContainsFunc(r.Attempts, func(at isolation.Attempt) bool {
		return at.Source == demo.Tickets && at.Verdict == isolation.Inconclusive
	}) {
		dump(t, r)
		t.Errorf("with the driver's check: %s: %+v", r.Result, r.Summary)
	}
	m.answers.Store(true)
	r = again(t, a, w)
	if diff := cmp.Diff([]string{demo.Tickets}, sourcesOf(r.Leaks())); diff != "" || r.Result != isolation.ResultLeak {
		dump(t, r)
		t.Errorf("without it: %s: %s", r.Result, diff)
	}
}
