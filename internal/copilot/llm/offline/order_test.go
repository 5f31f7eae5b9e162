package offline_test

import (
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/copilot/llm/offline"
)

// TestArrival asks when an order comes, with what a customer wrote about it: a way of shipping
// counts only where the text states it, and a wish is never quoted as an answer.
func TestArrival(t *testing.T) {
	t.Parallel()
	const rule = "Express shipping takes 1-2 business days"
	for _, c := range []struct {
		name, status, text string
		rule               bool
	}{
		{"stated", "shipped", "I paid for express shipping and would like to know on which day it comes.", true},
		{"denied", "shipped", "I did not pay for express shipping within 3 days.", false},
		{"wished", "shipped", "I would like express shipping, so please send it within 2 days.", false},
		{"asked", "shipped", "Did I pay for express shipping?", false},
		{"another way", "shipped", "I paid for standard shipping.", false},
		{"already there", "delivered", "I paid for express shipping.", false},
		{"another order", "shipped", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ticket := copilot.Source{
				Anchor: "S2", ID: "t_12", Kind: "ticket", Title: "When does it arrive?", Trust: atlas.ReadsUntrusted, Owners: []string{"CUST-7"},
				Fields: []copilot.Field{{Name: "author", Value: "customer"}, {Name: "order_id", Value: "o_5"}}, Text: []string{c.text},
			}
			if c.text == "" {
				ticket.Fields[1].Value, ticket.Text = "o_6", []string{"I paid for express shipping."}
			}
			got, _, err := offline.New().Synthesize(t.Context(), copilot.SynthesizeRequest{
				Question: "When will order o_5 arrive?", Plan: copilot.Plan{IDs: []string{"o_5"}}, Words: 200,
				Sources: []copilot.Source{
					{
						Anchor: "S1", ID: "o_5", Kind: "order", Trust: atlas.ReadsPrivate, Owners: []string{"CUST-7"},
						Fields: []copilot.Field{{Name: "status", Value: c.status}, {Name: "updated_at", Value: "2026-11-19T10:00:00Z"}},
					},
					ticket,
					{Anchor: "S3", ID: "doc_ways", Kind: "document", Title: "Ways of shipping", Trust: atlas.ReadsPrivate, Text: []string{rule + "."}},
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			if want := "Order o_5 is " + c.status + ", last updated on 2026-11-19 [S1]."; !strings.Contains(got, want) {
				t.Errorf("%q lacks %q", got, want)
			}
			if strings.Contains(got, rule) != c.rule {
				t.Errorf("quotes the rule: %v, want %v: %q", !c.rule, c.rule, got)
			}
			if strings.Contains(got, "would like") {
				t.Errorf("quotes a wish: %q", got)
			}
		})
	}
}
