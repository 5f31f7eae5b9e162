package registry_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/registry"
)

// rules is a policy: who may see what, by subject.
type rules struct {
	hidden map[string][]string // subject → tools
	asked  *int
}

func (r rules) Visible(p *atlas.Principal, tenant atlas.TenantID, t *atlas.Tool) bool {
	if r.asked != nil {
		*r.asked++
	}
	return !slices.Contains(r.hidden[p.Subject], t.Name) && !slices.Contains(r.hidden[string(tenant)], t.Name)
}

func tools(names ...string) []*atlas.Tool {
	var out []*atlas.Tool
	for _, n := range names {
		out = append(out, &atlas.Tool{Name: n, Scopes: []string{"tool:crm:read"}})
	}
	return out
}

func someone(subject string) *atlas.Principal {
	return &atlas.Principal{Subject: subject, Tenant: "acme", Issuer: "i", TokenID: "t-" + subject, Scopes: []string{"tool:crm:read"}}
}

func build(t testing.TB, ts []*atlas.Tool, vis registry.Visibility, cfg registry.Config) *registry.Registry {
	t.Helper()
	r, err := registry.New(ts, vis, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func list(t testing.TB, r *registry.Registry, p *atlas.Principal, tenant atlas.TenantID) []string {
	t.Helper()
	res, err := r.Stage(func(context.Context, atlas.Call) (atlas.Result, error) {
		t.Error("a list was passed on")
		return atlas.Result{}, nil
	})(t.Context(), atlas.Call{Op: atlas.OpList, Principal: p, Tenant: tenant})
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, tl := range res.Tools {
		names = append(names, tl.Name)
	}
	return names
}

// call returns the tool that a call got, or its error.
func call(r *registry.Registry, p *atlas.Principal, name string) (*atlas.Tool, error) {
	var got *atlas.Tool
	_, err := r.Stage(func(_ context.Context, c atlas.Call) (atlas.Result, error) {
		got = c.Tool
		return atlas.Result{}, nil
	})(context.Background(), atlas.Call{Name: name, Principal: p, Tenant: "acme"})
	return got, err
}

func TestListIsSortedAndFiltered(t *testing.T) {
	ts := tools("c", "a", "b", "d")
	ts[3].Scopes = append(ts[3].Scopes, "tool:crm:write")
	r := build(t, ts, rules{hidden: map[string][]string{"bob": {"b"}}}, registry.Config{})
	for subject, want := range map[string][]string{"alice": {"a", "b", "c"}, "bob": {"a", "c"}} {
		if d := cmp.Diff(want, list(t, r, someone(subject), "acme")); d != "" {
			t.Errorf("%s: %s", subject, d)
		}
	}
	admin := someone("alice")
	admin.Scopes = []string{atlas.ScopeAdmin}
	if d := cmp.Diff([]string{"a", "b", "c", "d"}, list(t, r, admin, "acme")); d != "" {
		t.Error("admin:", d)
	}
	if d := cmp.Diff([]string{}, list(t, r, &atlas.Principal{Subject: "carol"}, "acme")); d != "" {
		t.Error("no scopes:", d)
	}
}

func TestUnknownAndInvisibleAnswerAlike(t *testing.T) {
	ts := tools("a", "hidden", "outside", "locked")
	ts[3].Scopes = []string{"tool:crm:write"}
	r := build(t, ts, rules{hidden: map[string][]string{"alice": {"hidden"}}}, registry.Config{
		Toolsets: map[string][]string{"mine": {"a", "hidden", "locked"}}, Roles: map[string][]string{"agent": {"mine"}},
	})
	p := someone("alice")
	p.Roles = []string{"agent"}
	if tl, err := call(r, p, "a"); err != nil || tl != ts[0] {
		t.Fatal(tl, err)
	}
	_, unknown := call(r, p, "no_such_tool")
	want := atlas.ErrorOf(unknown)
	if want == nil || want.Code != atlas.CodeToolNotFound {
		t.Fatal(unknown)
	}
	for _, name := range []string{"hidden", "outside", "locked", "", "A", "a ", strings.Repeat("x", 1<<16)} {
		tl, err := call(r, p, name)
		if tl != nil {
			t.Errorf("%.20q got a tool", name)
		}
		if d := cmp.Diff(want.Failure("r"), atlas.ErrorOf(err).Failure("r")); d != "" || err.Error() != unknown.Error() {
			t.Errorf("%.20q answers otherwise than an unknown tool: %s", name, d)
		}
	}
}

// What one caller sees must never be answered to another, whatever their tokens have in common.
func TestViewsAreNotMixedUp(t *testing.T) {
	r := build(t, tools("a", "b"), rules{hidden: map[string][]string{"bob": {"b"}, "globex": {"a"}}}, registry.Config{
		Toolsets: map[string][]string{"only_b": {"b"}}, Roles: map[string][]string{"agent": {"only_b"}},
	})
	with := func(change func(*atlas.Principal)) *atlas.Principal {
		p := someone("alice")
		p.TokenID = "same" // an issuer that gives every token the same id
		change(p)
		return p
	}
	for range 2 { // the second round meets what the first left behind
		for name, c := range map[string]struct {
			p      *atlas.Principal
			tenant atlas.TenantID
			want   []string
		}{
			"alice":     {with(func(*atlas.Principal) {}), "acme", []string{"a", "b"}},
			"bob":       {with(func(p *atlas.Principal) { p.Subject = "bob" }), "acme", []string{"a"}},
			"tenant":    {with(func(*atlas.Principal) {}), "globex", []string{"b"}},
			"role":      {with(func(p *atlas.Principal) { p.Roles = []string{"agent"} }), "acme", []string{"b"}},
			"scope":     {with(func(p *atlas.Principal) { p.Scopes = nil }), "acme", []string{}},
			"claim":     {with(func(p *atlas.Principal) { p.Claims = map[string]any{"toolsets": "only_b"} }), "acme", []string{"b"}},
			"bad claim": {with(func(p *atlas.Principal) { p.Claims = map[string]any{"toolsets": 7} }), "acme", []string{}},
		} {
			if d := cmp.Diff(c.want, list(t, r, c.p, c.tenant)); d != "" {
				t.Errorf("%s: %s", name, d)
			}
		}
	}
}

func TestToolsets(t *testing.T) {
	ts := tools("crm_query", "crm_order", "ticket", "files_put")
	ts[2].Toolsets = []string{"support"}
	r := build(t, ts, rules{}, registry.Config{
		Toolsets: map[string][]string{"support": {"crm_order"}, "analytics": {"crm_*"}},
		Roles:    map[string][]string{"copilot": {"support"}, "analyst": {"analytics"}, "nothing": {}},
	})
	for _, c := range []struct {
		roles []string
		claim any
		want  []string
	}{
		{nil, nil, []string{"crm_order", "crm_query", "files_put", "ticket"}},
		{[]string{"employee"}, nil, []string{"crm_order", "crm_query", "files_put", "ticket"}},
		{[]string{"copilot"}, nil, []string{"crm_order", "ticket"}},
		{[]string{"copilot", "employee"}, nil, []string{"crm_order", "ticket"}},
		{[]string{"copilot", "analyst"}, nil, []string{"crm_order", "crm_query", "ticket"}},
		{[]string{"nothing"}, nil, []string{}},
		{[]string{"copilot"}, []any{"analytics"}, []string{"crm_order"}},
		{nil, "support analytics", []string{"crm_order", "crm_query", "ticket"}},
		{nil, []string{"support"}, []string{"crm_order", "ticket"}},
		{nil, "", []string{}},
		{nil, "no_such_set", []string{}},
	} {
		p := someone("alice")
		p.Roles = c.roles
		if c.claim != nil {
			p.Claims = map[string]any{"toolsets": c.claim}
		}
		if d := cmp.Diff(c.want, list(t, r, p, "acme")); d != "" {
			t.Errorf("roles %v, claim %v: %s", c.roles, c.claim, d)
		}
	}
}

func TestVisibilityIsAskedOnce(t *testing.T) {
	asked := 0
	r := build(t, tools("a", "b", "c"), rules{asked: &asked}, registry.Config{})
	for range 10 {
		list(t, r, someone("alice"), "acme") // each time another value, as of another request
		if _, err := call(r, someone("alice"), "a"); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 3 {
		t.Errorf("asked %d times about 3 tools", asked)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	asked := 0
	r := build(t, tools("a"), rules{asked: &asked}, registry.Config{})
	for i := range 5000 {
		list(t, r, someone(fmt.Sprint(i)), "acme")
	}
	if n := r.Views(); n == 0 || n > 1024 {
		t.Errorf("%d views are held", n)
	}
}

func TestConcurrentCallers(t *testing.T) {
	r := build(t, tools("a", "b"), rules{hidden: map[string][]string{"odd": {"b"}}}, registry.Config{})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			subject, want := "even", true
			if i%2 == 1 {
				subject, want = "odd", false
			}
			for range 200 {
				if _, err := call(r, someone(subject), "b"); (err == nil) != want {
					t.Errorf("%s: %v", subject, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestMistakes(t *testing.T) {
	for want, cfg := range map[string]registry.Config{
		`no tool is named "crm_*"`:         {Toolsets: map[string][]string{"x": {"crm_*"}}},
		`"[" is not a glob`:                {Toolsets: map[string][]string{"x": {"["}}},
		`there is no toolset "supprt"`:     {Roles: map[string][]string{"r": {"supprt"}}},
		`roles.r: there is no toolset "y"`: {Toolsets: map[string][]string{"x": {"a"}}, Roles: map[string][]string{"r": {"y"}}},
	} {
		if _, err := registry.New(tools("a"), rules{}, cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if _, err := registry.New(tools("a", "a"), rules{}, registry.Config{}); err == nil {
		t.Error("two tools of one name were accepted")
	}
	if _, err := registry.New(nil, nil, registry.Config{}); err == nil {
		t.Error("no visibility was accepted")
	}
}

func TestLookup(t *testing.T) {
	r := build(t, tools("b", "a"), rules{}, registry.Config{})
	if tl, ok := r.Lookup("a"); !ok || tl.Name != "a" {
		t.Error("a is not found")
	}
	if _, ok := r.Lookup("z"); ok {
		t.Error("z is found")
	}
	if all := r.All(); len(all) != 2 || all[0].Name != "a" {
		t.Error("All:", all)
	}
	if _, err := call(r, nil, "a"); atlas.CodeOf(err) != atlas.CodeToolNotFound {
		t.Error("nobody got", err)
	}
}

func BenchmarkCall(b *testing.B) {
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprintf("tool_%04d", i))
	}
	r := build(b, tools(names...), rules{}, registry.Config{})
	h := r.Stage(func(context.Context, atlas.Call) (atlas.Result, error) { return atlas.Result{}, nil })
	for name, p := range map[string]func() *atlas.Principal{
		"same principal":  func() func() *atlas.Principal { p := someone("a"); return func() *atlas.Principal { return p } }(),
		"equal principal": func() *atlas.Principal { return someone("a") },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h(b.Context(), atlas.Call{Name: "tool_0500", Tenant: "acme", Principal: p()}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestKindsAreListedAndCalledApart(t *testing.T) {
	tools := []*atlas.Tool{{Name: "a"}, {Name: "b", Kind: atlas.KindPrompt}, {Name: "c", Kind: atlas.KindResource}}
	r, err := registry.New(tools, everybody{}, registry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	p := &atlas.Principal{Subject: "s", Tenant: "acme"}
	h := r.Stage(func(context.Context, atlas.Call) (atlas.Result, error) { return atlas.Result{}, nil })
	for kind, want := range []string{"a", "b", "c"} {
		res, err := h(t.Context(), atlas.Call{Op: atlas.OpList, Kind: atlas.Kind(kind), Principal: p, Tenant: "acme"})
		if err != nil || len(res.Tools) != 1 || res.Tools[0].Name != want {
			t.Errorf("kind %d lists %v, %v; want %s", kind, res.Tools, err, want)
		}
		for called := range atlas.Kind(3) {
			_, err := h(t.Context(), atlas.Call{Kind: called, Name: want, Principal: p, Tenant: "acme"})
			if (err == nil) != (called == atlas.Kind(kind)) {
				t.Errorf("%s called as a %s: %v", want, called, err)
			}
		}
	}
}

type everybody struct{}

func (everybody) Visible(*atlas.Principal, atlas.TenantID, *atlas.Tool) bool { return true }

// A token is verified anew each minute, into a principal of its own. Comparing it costs a hundred
// allocations, once.
func TestTheSameCallerIsComparedOnce(t *testing.T) {
	r, err := registry.New([]*atlas.Tool{{Name: "a"}}, everybody{}, registry.Config{})
	if err != nil {
		t.Fatal(err)
	}
	h := r.Stage(func(context.Context, atlas.Call) (atlas.Result, error) { return atlas.Result{}, nil })
	principal := func() *atlas.Principal {
		claims := map[string]any{}
		for i := range 50 {
			claims[strconv.Itoa(i)] = []any{"a", "b"}
		}
		return &atlas.Principal{Subject: "s", Tenant: "acme", TokenID: "t", Claims: claims}
	}
	list := func(p *atlas.Principal) []*atlas.Tool {
		res, err := h(t.Context(), atlas.Call{Op: atlas.OpList, Principal: p, Tenant: "acme"})
		if err != nil {
			t.Fatal(err)
		}
		return res.Tools
	}
	first := list(principal())
	again := principal()
	if second := list(again); &first[0] != &second[0] {
		t.Error("an equal caller has another list")
	}
	call := atlas.Call{Name: "a", Principal: again, Tenant: "acme"}
	if n := testing.AllocsPerRun(50, func() { _, _ = h(t.Context(), call) }); n > 0 {
		t.Errorf("%v allocations a call", n)
	}
}
