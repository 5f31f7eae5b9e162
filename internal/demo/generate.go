package demo

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// A plan says how much is generated for a tenant, and from which numbers on.
type plan struct {
	seed          uint64
	url           string
	customers     int
	firstCustomer int
	firstOrder    int
	firstTicket   int
	docPrefix     string
}

// lastDay is the newest day in the demo company; it is fixed so that the data never changes.
var lastDay = time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)

// generate adds customers, orders, tickets and documents to r by the plan.
func generate(r raw, p plan) raw {
	g := &generator{rnd: rand.New(rand.NewPCG(p.seed, 0xa71a5)), plan: p} //nolint:gosec // the same data every time is the point
	for i := range p.customers {
		c := g.customer(p.firstCustomer + i)
		r.customers = append(r.customers, c)
		for range g.rnd.IntN(4) {
			o := g.order(c)
			r.orders = append(r.orders, o)
			if g.rnd.IntN(3) == 0 {
				r.tickets = append(r.tickets, g.ticket(c, o))
			}
		}
	}
	for _, a := range articles {
		id := p.docPrefix + a.slug
		r.documents = append(r.documents, document{
			id: id, title: a.title, body: a.body, kind: "article",
			updated: g.day(600), url: p.url + "/help/" + strings.ReplaceAll(a.slug, "_", "-"),
		})
	}
	for _, pr := range products {
		slug := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(pr.sku, "SKU-"), "-", "_"))
		r.documents = append(r.documents, document{
			id: p.docPrefix + "product_" + slug, title: pr.title + ": product sheet", kind: "product",
			body:    fmt.Sprintf("%s (%s). %s Price: $%d.%02d. The warranty is two years.", pr.title, pr.sku, pr.about, pr.cents/100, pr.cents%100),
			updated: g.day(400), url: p.url + "/products/" + strings.ToLower(pr.sku),
		})
	}
	return r
}

type generator struct {
	rnd             *rand.Rand
	plan            plan
	orders, tickets int
}

// day returns a day of the last n days.
func (g *generator) day(n int) string {
	return lastDay.AddDate(0, 0, -g.rnd.IntN(n)).Format(time.DateOnly)
}

func (g *generator) customer(number int) customer {
	given, family := givenNames[g.rnd.IntN(len(givenNames))], familyNames[g.rnd.IntN(len(familyNames))]
	tier := "standard"
	if g.rnd.IntN(5) == 0 {
		tier = "gold"
	}
	return customer{
		id: fmt.Sprintf("CUST-%d", number), name: given + " " + family,
		email: fmt.Sprintf("%s.%s.%d@example.com", strings.ToLower(given), strings.ToLower(family), number),
		tier:  tier, dob: fmt.Sprintf("%d-%02d-%02d", 1950+g.rnd.IntN(55), 1+g.rnd.IntN(12), 1+g.rnd.IntN(28)),
		created: g.day(1500),
	}
}

func (g *generator) order(c customer) order {
	id := fmt.Sprintf("o_%d", g.plan.firstOrder+g.orders)
	g.orders++
	created := lastDay.AddDate(0, 0, -g.rnd.IntN(300))
	status := "delivered"
	if age := lastDay.Sub(created); age < 10*24*time.Hour {
		status = []string{"processing", "shipped"}[g.rnd.IntN(2)]
	} else if g.rnd.IntN(6) == 0 {
		status = []string{"returned", "refunded", "cancelled"}[g.rnd.IntN(3)]
	}
	o := order{
		id: id, customer: c.id, status: status, created: created.Format(time.DateOnly),
		updated: min(created.AddDate(0, 0, 1+g.rnd.IntN(9)).Format(time.DateOnly), lastDay.Format(time.DateOnly)),
	}
	first := g.rnd.IntN(len(products))
	for i := range 1 + g.rnd.IntN(3) {
		pr := products[(first+i)%len(products)]
		it := item{pr.sku, pr.title, int64(1 + g.rnd.IntN(2)), pr.cents}
		o.items = append(o.items, it)
		o.cents += it.quantity * it.cents
	}
	return o
}

func (g *generator) ticket(c customer, o order) ticket {
	id := fmt.Sprintf("t_%d", g.plan.firstTicket+g.tickets)
	g.tickets++
	t := topics[g.rnd.IntN(len(topics))]
	fill := strings.NewReplacer("{order}", o.id, "{item}", strings.ToLower(o.items[0].title))
	created, _ := time.Parse(time.DateOnly, o.updated) // generated above, so it parses
	return ticket{
		id: id, customer: c.id, order: o.id, author: "customer",
		subject: fill.Replace(t.subject), body: fill.Replace(t.body),
		status:   []string{"open", "pending", "closed", "closed"}[g.rnd.IntN(4)],
		priority: []string{"low", "normal", "normal", "high"}[g.rnd.IntN(4)],
		created:  min(created.AddDate(0, 0, g.rnd.IntN(6)).Format(time.DateOnly), lastDay.Format(time.DateOnly)),
	}
}
