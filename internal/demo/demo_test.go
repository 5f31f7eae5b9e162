package demo_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/demo"
)

func TestCompaniesAreTheSameEveryTime(t *testing.T) {
	if diff := cmp.Diff(demo.Companies(), demo.Companies()); diff != "" {
		t.Error(diff)
	}
}

func TestSeedRowsStand(t *testing.T) {
	want := map[atlas.TenantID]map[string][]any{
		demo.Acme: {
			"o_9001": {"o_9001", "CUST-1001", "delivered", int64(12900), "USD"},
			"o_9002": {"o_9002", "CUST-1001", "refund_pending", int64(4900), "USD"},
			"o_9003": {"o_9003", "CUST-1002", "shipped", int64(29900), "USD"},
		},
		demo.Globex: {"o_9101": {"o_9101", "CUST-2001", "delivered", int64(8900), "USD"}},
	}
	for tenant, company := range demo.Companies() {
		got := map[string][]any{}
		for _, table := range company[demo.CRM].Tables {
			if table.Name != "orders" {
				continue
			}
			for _, row := range table.Rows {
				if id := row[0].(string); want[tenant][id] != nil {
					got[id] = row[:5]
				}
			}
		}
		if diff := cmp.Diff(want[tenant], got); diff != "" {
			t.Errorf("%s: %s", tenant, diff)
		}
	}
}

// An id that both tenants had would make a leak invisible in the demo.
func TestTenantsShareNoID(t *testing.T) {
	seen := map[string]atlas.TenantID{}
	valid := regexp.MustCompile(`^(CUST-[0-9]+|o_[0-9]+(_[a-z])?|t_[0-9]+|doc_[a-z0-9_]+)$`)
	note := func(tenant atlas.TenantID, id string) {
		if other, ok := seen[id]; ok && other != tenant {
			t.Errorf("%s is of %s and of %s", id, other, tenant)
		}
		if !valid.MatchString(id) {
			t.Errorf("%s: id %q has an odd form", tenant, id)
		}
		seen[id] = tenant
	}
	for tenant, company := range demo.Companies() {
		for _, table := range company[demo.CRM].Tables {
			ids := map[any]bool{}
			for _, row := range table.Rows {
				if len(row) != len(table.Columns) {
					t.Fatalf("%s.%s: row %v has %d values, want %d", tenant, table.Name, row[0], len(row), len(table.Columns))
				}
				if ids[row[0]] {
					t.Errorf("%s.%s: %v twice", tenant, table.Name, row[0])
				}
				ids[row[0]] = true
				note(tenant, row[0].(string))
			}
		}
		for _, name := range []string{demo.Tickets, demo.Docs} {
			for _, d := range company[name].Documents {
				note(tenant, d.ID)
			}
		}
	}
	if len(seen) < 1000 {
		t.Errorf("only %d records; the demo company should have more", len(seen))
	}
}

func TestPoisonedTicketIsThere(t *testing.T) {
	for _, d := range demo.Companies()[demo.Acme][demo.Tickets].Documents {
		if d.ID == demo.PoisonedTicket && strings.Contains(d.Body, "ignore all previous instructions") {
			return
		}
	}
	t.Error("no poisoned ticket")
}
