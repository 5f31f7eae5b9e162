package sourcetest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// The tenants of the suites. A and B hold things of the same ids with different content, and
// things that only one of them has; Nobody holds nothing.
const (
	A      atlas.TenantID = "acme"
	B      atlas.TenantID = "globex"
	Nobody atlas.TenantID = "initech"
)

// Vault is in a table that no caller may read.
const Vault = "vault-secret-41"

// mark is in every text of a tenant and in none of the other's.
func mark(tenant atlas.TenantID) string { return "belongsto" + string(tenant) }

// other is the other tenant of the two.
func other(tenant atlas.TenantID) atlas.TenantID {
	if tenant == A {
		return B
	}
	return A
}

// Company is what the suites load.
func Company() map[atlas.TenantID]source.Data {
	return map[atlas.TenantID]source.Data{A: data(A), B: data(B)}
}

func data(tenant atlas.TenantID) source.Data {
	m := mark(tenant)
	own := "only-" + string(tenant)
	column := func(nameType string) source.Column {
		name, typ, _ := strings.Cut(nameType, " ")
		return source.Column{Name: name, Type: typ}
	}
	customers := source.TableData{Name: "customers", Columns: []source.Column{
		column("id TEXT"), column("name TEXT"), column("tier TEXT"), column("score REAL"), column("ssn TEXT"),
	}, Rows: [][]any{
		{"CUST-1001", "Shared " + m, "gold", 0.5, "ssn-" + m},
		{"CUST-" + own, "Own " + m, nil, 2.25, "ssn-" + m},
	}}
	orders := source.TableData{Name: "orders", Columns: []source.Column{
		column("id TEXT"), column("customer_id TEXT"), column("status TEXT"), column("total_cents INTEGER"),
	}}
	for i := range 30 {
		orders.Rows = append(orders.Rows, []any{fmt.Sprintf("o_%d", 9000+i), "CUST-1001", "status-" + m, int64(100 * i)})
	}
	vault := source.TableData{Name: "vault", Columns: []source.Column{column("id TEXT"), column("secret TEXT")}, Rows: [][]any{{"1", Vault}}}

	docs := []source.Document{
		{
			ID: "d_1", Title: "Refund policy " + m, Body: "Refunds are paid within five business days after the return arrives. " + m, URL: "https://example.com/d_1",
			Attrs: map[string]any{"kind": "policy", "year": int64(2026), "public": true, "created_at": "2026-01-01T00:00:00Z"},
		},
		{
			ID: "d_2", Title: "Shipping " + m, Body: "Express shipping takes two days; a refund of the fee is not possible. " + m,
			Attrs: map[string]any{"kind": "policy", "year": int64(2025), "public": true, "created_at": "2026-03-01T00:00:00Z"},
		},
		{
			ID: "t_7301", Title: "Where is my money? " + m, Body: "Order o_9002 of CUST-1001: the card was closed. The customer's café is in Zürich. " + m,
			Attrs: map[string]any{"kind": "ticket", "year": int64(2026), "public": false, "created_at": "2026-02-01T00:00:00Z"},
		},
		{
			ID: "t_7302", Title: "Another order " + m, Body: "Order o_90021 of CUST-10010 is late. " + m,
			Attrs: map[string]any{"kind": "ticket", "year": 2026.5, "public": false, "created_at": "2026-02-02T00:00:00Z"},
		},
		{ID: own, Title: "Secret plan " + m, Body: "Word that nobody else has: zebra" + string(tenant) + ". " + m, Attrs: map[string]any{"kind": own}},
	}
	objects := []source.Object{
		object("docs/policy.md", "# Refunds\n"+m), object("docs/policy/old.md", "old "+m), object("docs/policy-b.txt", "b "+m),
		object("tickets/t_7301.json", `{"of":"`+m+`"}`), object("own/"+own+".txt", "own "+m), object("readme", "none "+m),
	}
	return source.Data{Tables: []source.TableData{customers, orders, vault}, Documents: docs, Objects: objects}
}

func object(key, content string) source.Object {
	return source.Object{
		ObjectInfo: source.ObjectInfo{Key: key, Size: int64(len(content)), Modified: time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)},
		Content:    []byte(content),
	}
}

// openCompany opens a source over the suites' data.
func openCompany(t *testing.T, h Harness) source.Source {
	t.Helper()
	if h.Open == nil {
		t.Fatal("the harness has no Open")
	}
	return h.Open(t, Company())
}

// Load loads data through the source's own Loader: most harnesses' Open ends with it.
func Load(t *testing.T, src source.Source, data map[atlas.TenantID]source.Data) source.Source {
	t.Helper()
	t.Cleanup(func() {
		if err := src.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	l, ok := src.(source.Loader)
	if !ok {
		t.Fatalf("%T does not implement source.Loader", src)
	}
	for tenant, d := range data {
		if err := l.Load(t.Context(), tenant, d); err != nil {
			t.Fatalf("load %s: %v", tenant, err)
		}
	}
	return src
}
