package places_test

import (
	"testing"

	"github.com/atlas-mcp/atlas/internal/edge/mcp/places"
)

func TestPlacesAreBoundedByUserTenantAndTotal(t *testing.T) {
	most := places.Bound{User: 1, Tenant: 2, Total: 3}
	var taken places.Taken
	ann, bob, cid := places.Holder{"ann", "acme"}, places.Holder{"bob", "acme"}, places.Holder{"cid", "acme"}
	dot, eve := places.Holder{"dot", "globex"}, places.Holder{"eve", "globex"}
	for _, step := range []struct {
		why  string
		who  places.Holder
		want bool
	}{
		{"the first", ann, true},
		{"the user's second", ann, false},
		{"the tenant's second", bob, true},
		{"the tenant's third", cid, false},
		{"the last of all", dot, true},
		{"one more than all", eve, false},
	} {
		if got := taken.Enter(step.who, most); got != step.want {
			t.Errorf("%s: got a place: %v", step.why, got)
		}
	}
	taken.Leave(ann)
	if !taken.Enter(cid, most) {
		t.Error("a place that was given back cannot be taken")
	}
	if taken.Enter(eve, most) {
		t.Error("refusals gave places back")
	}
}
