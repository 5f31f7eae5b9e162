// Package demo makes the demo company: two tenants, acme and globex, with customers, orders,
// tickets, documents and files, and the personas who work there. The data is the same at every
// run. It is only data; the app loads it into whatever sources are configured.
package demo

import (
	"slices"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// The tenants of the demo company.
const (
	Acme   atlas.TenantID = "acme"
	Globex atlas.TenantID = "globex"
)

// Version changes when the data does, so that it is loaded again.
const Version = "1"

// Question is the golden question, which the demo answers when it is given no other.
const Question = "Why was the refund on order o_9002 for CUST-1001 delayed?"

// PoisonedTicket is the ticket of acme whose text orders its reader to reveal another customer's
// data.
const PoisonedTicket = "t_7399"

// A Company is the data of one tenant, by the name of the source that holds it.
type Company map[string]source.Data

// The names of the sources that the company's data is made for.
const (
	CRM     = "crm"     // customers, orders, items, documents
	Tickets = "tickets" // support tickets, full text
	Docs    = "docs"    // help-centre documents, full text
	KB      = "kb"      // the same documents, vectors
	Files   = "files"   // objects
)

// Companies returns the data of both tenants.
func Companies() map[atlas.TenantID]Company {
	return map[atlas.TenantID]Company{
		Acme:   build(acme()),
		Globex: build(globex()),
	}
}

// A customer, an order, an item, a ticket and a document, before they become rows and documents.
type (
	customer struct {
		id, name, email, tier, dob, created string
	}
	order struct {
		id, customer, status string
		cents                int64
		created, updated     string
		note                 string
		items                []item
	}
	item struct {
		sku, title string
		quantity   int64
		cents      int64 // each
	}
	ticket struct {
		id, customer, order, subject, body, status, priority, created, author string
	}
	document struct {
		id, title, body, url, kind, updated string
	}
	file struct {
		key, contentType, content string
	}
	raw struct {
		customers []customer
		orders    []order
		tickets   []ticket
		documents []document
		files     []file
	}
)

// build turns a tenant's records into what its sources hold.
func build(r raw) Company {
	docs := documents(r.documents)
	return Company{
		CRM:     {Tables: []source.TableData{customerTable(r), orderTable(r), itemTable(r), documentTable(r)}},
		Tickets: {Documents: tickets(r.tickets)},
		Docs:    {Documents: docs},
		KB:      {Documents: docs},
		Files:   {Objects: objects(r.files)},
	}
}

func columns(nameType ...string) []source.Column {
	cols := make([]source.Column, 0, len(nameType)/2)
	for pair := range slices.Chunk(nameType, 2) {
		cols = append(cols, source.Column{Name: pair[0], Type: pair[1]})
	}
	return cols
}

func customerTable(r raw) source.TableData {
	t := source.TableData{Name: "customers", Columns: columns(
		"id", "TEXT", "name", "TEXT", "email", "TEXT", "tier", "TEXT", "dob", "TEXT", "created_at", "TEXT")}
	for _, c := range r.customers {
		t.Rows = append(t.Rows, []any{c.id, c.name, c.email, c.tier, c.dob, c.created})
	}
	return t
}

func orderTable(r raw) source.TableData {
	t := source.TableData{Name: "orders", Columns: columns(
		"id", "TEXT", "customer_id", "TEXT", "status", "TEXT", "total_cents", "INTEGER", "currency", "TEXT",
		"created_at", "TEXT", "updated_at", "TEXT", "note", "TEXT")}
	for _, o := range r.orders {
		t.Rows = append(t.Rows, []any{o.id, o.customer, o.status, o.cents, "USD", o.created, o.updated, o.note})
	}
	return t
}

func itemTable(r raw) source.TableData {
	t := source.TableData{Name: "order_items", Columns: columns(
		"id", "TEXT", "order_id", "TEXT", "sku", "TEXT", "title", "TEXT", "quantity", "INTEGER", "unit_cents", "INTEGER")}
	for _, o := range r.orders {
		for i, it := range o.items {
			id := o.id + "_" + string(rune('a'+i))
			t.Rows = append(t.Rows, []any{id, o.id, it.sku, it.title, it.quantity, it.cents})
		}
	}
	return t
}

func documentTable(r raw) source.TableData {
	t := source.TableData{Name: "documents", Columns: columns(
		"id", "TEXT", "title", "TEXT", "body", "TEXT", "url", "TEXT", "created_at", "TEXT")}
	for _, d := range r.documents {
		t.Rows = append(t.Rows, []any{d.id, d.title, d.body, d.url, d.updated})
	}
	return t
}

func tickets(in []ticket) []source.Document {
	out := make([]source.Document, 0, len(in))
	for _, t := range in {
		out = append(out, source.Document{ID: t.id, Title: t.subject, Body: t.body, Attrs: map[string]any{
			"customer_id": t.customer, "order_id": t.order, "status": t.status,
			"priority": t.priority, "created_at": t.created, "author": t.author,
		}})
	}
	return out
}

func documents(in []document) []source.Document {
	out := make([]source.Document, 0, len(in))
	for _, d := range in {
		out = append(out, source.Document{
			ID: d.id, Title: d.title, Body: d.body, URL: d.url,
			Attrs: map[string]any{"kind": d.kind, "updated_at": d.updated},
		})
	}
	return out
}

func objects(in []file) []source.Object {
	out := make([]source.Object, 0, len(in))
	for _, f := range in {
		out = append(out, source.Object{
			ObjectInfo:  source.ObjectInfo{Key: f.key, Size: int64(len(f.content))},
			ContentType: f.contentType, Content: []byte(f.content),
		})
	}
	return out
}
