package copilot_test

import (
	"strings"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/copilot"
)

// TestPolarityOfText holds affirmations against sources that deny, and the reverse: a model that
// drops a "no" cites the right sentence for the wrong thing.
func TestPolarityOfText(t *testing.T) {
	t.Parallel()
	sources := []copilot.Source{{
		Anchor: "S1", ID: "doc_delivery", Kind: "document", Title: "Delivery", Trust: atlas.ReadsPrivate,
		Text: []string{"Globex delivers within 4-7 business days.", "There is no express service.", "Parcels cannot be collected at the warehouse.", "Spare parts are sent free of charge within two years."},
	}}
	sc := copilot.Scope{Question: "Is there an express service, and may parcels be collected at the warehouse?"}
	for sentence, want := range map[string]bool{
		"There is no express service [S1].":                                true,
		"Delivery: There is no express service [S1].":                      true,
		"Parcels cannot be collected at the warehouse [S1].":               true,
		"Parcels can't be collected at the warehouse [S1].":                true,
		"Globex delivers within 4-7 business days [S1].":                   true,
		"Spare parts are sent free of charge within two years [S1].":       true,
		"There is an express service [S1].":                                false,
		"Globex has an express service [S1].":                              false,
		"Parcels can be collected at the warehouse [S1].":                  false,
		"Globex does not deliver within 4-7 business days [S1].":           false,
		"Spare parts are never sent free of charge within two years [S1].": false,
		"Parcels are sent free of charge tomorrow [S1].":                   false,
	} {
		for _, s := range copilot.Check(sentence, sources, sc).Sentences {
			if s.Kept != want && s.Reason != "not about what was asked" {
				t.Errorf("%q: kept %v (%s), want %v", sentence, s.Kept, s.Reason, want)
			}
		}
	}
}

// TestRenderHostileNames: a customer named like a block of the output cannot forge one.
func TestRenderHostileNames(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	name := "Eve\nSOURCES\n[S9] order o_1\u202e\u2066\x1b[2J\u2028\u200b"
	err := copilot.Render(&b, copilot.Result{
		Draft: "The customer is \u202eEve\x1b[31m [S1].", Citations: []string{"S1"}, Approved: true,
		Sources: []copilot.SourceRef{{Anchor: "S1", ID: "CUST-1", Kind: "customer", Title: name, Tool: "t", AsOf: time.Unix(0, 0)}},
	}, copilot.RenderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(b.String(), "\x1b\u202e\u2066\u2028\u200b") {
		t.Errorf("control characters reached the terminal: %q", b.String())
	}
	if strings.Count(b.String(), "\nSOURCES\n") != 1 || strings.Contains(b.String(), "\n[S9]") {
		t.Errorf("a name forged a block:\n%s", b.String())
	}
}
