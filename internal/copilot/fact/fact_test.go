package fact_test

import (
	"testing"

	"github.com/atlas-mcp/atlas/internal/copilot/fact"
)

func TestDebug(t *testing.T) {
	s := "Refunds are paid within five business days after the returned item arrives at our warehouse."
	t.Log(fact.Of(s), fact.Orders(s, false), fact.Orders(s, true), fact.Terms(s))
	t.Log(fact.Sentences(s + " The refund goes to the account that paid for the order. If that account is closed, x."))
}
