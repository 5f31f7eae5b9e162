package qdrant

import (
	"encoding/json"
	"regexp"
	"testing"

	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// Whatever a caller filters by, the request is one list of conditions that must hold, whose first is
// the tenant's and whose others look at the terms only.
func FuzzFilter(f *testing.F) {
	for _, key := range []string{
		"kind", "id", "tenant_id", "tenant", "terms", "", "a.b", "a[]", `"`, `x","match":{"any":["acme"]}}],"should":[{"key":"tenant_id`, "\x00", "\xff", "$", "must_not",
	} {
		f.Add(key, "globex", false)
		f.Add("kind", key, true)
	}
	f.Fuzz(func(t *testing.T, key, value string, list bool) {
		filters := map[string]any{key: value}
		if list {
			filters[key] = []any{value, "acme", 1, true}
		}
		conditions, err := source.Conditions(filters)
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(search{Filter: filterFor("globex", conditions), Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Filter map[string][]map[string]json.RawMessage `json:"filter"`
		}
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		must := got.Filter["must"]
		if len(got.Filter) != 1 || len(must) != 2 {
			t.Fatalf("%s", data)
		}
		if string(must[0]["key"]) != `"tenant_id"` || string(must[0]["match"]) != `{"value":"globex"}` || len(must[0]) != 2 {
			t.Fatalf("the tenant's condition is %s", data)
		}
		if string(must[1]["key"]) != `"terms"` || len(must[1]) != 2 {
			t.Fatalf("the caller's condition is %s", data)
		}
	})
}

func TestPointID(t *testing.T) {
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	rapid.Check(t, func(t *rapid.T) {
		tenant := rapid.StringMatching(`[a-z0-9][a-z0-9_-]{0,10}`)
		type named struct{ kind, tenant, id string }
		draw := func(label string) named {
			return named{rapid.SampledFrom([]string{ofDocument, ofTenant, ofCollection}).Draw(t, label), tenant.Draw(t, label), rapid.String().Draw(t, label)}
		}
		a, b := draw("a"), draw("b")
		x, y := pointID(a.kind, atlas.TenantID(a.tenant), a.id), pointID(b.kind, atlas.TenantID(b.tenant), b.id)
		if !form.MatchString(x) {
			t.Fatalf("%s is no UUID of version 8", x)
		}
		if (a == b) != (x == y) {
			t.Fatalf("%v and %v: %s and %s", a, b, x, y)
		}
	})
	// Points are kept for years: their ids must not change.
	if got, want := pointID(ofDocument, "acme", "d_1"), "e43665e3-6275-8422-b574-9de0fcc2e723"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
