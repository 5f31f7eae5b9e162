package copilot_test

import (
	"testing"

	"github.com/atlas-mcp/atlas/internal/copilot"
)

// TestUnsupportedClaims holds the check to drafts that a sloppy or a manipulated model would write:
// each says something that the sources do not bear out, however close its words are to theirs.
func TestUnsupportedClaims(t *testing.T) {
	t.Parallel()
	sc := copilot.Scope{Question: "Why was the refund on order o_9002 for CUST-1001 delayed?", IDs: []string{"o_9002", "CUST-1001"}, Customers: []string{"CUST-1001"}}
	for _, sentence := range []string{
		// negations
		"Payments does not hold the refund [S3].",
		"The card that paid was not closed [S3].",
		"The returned item has not arrived [S3].",
		"The returned item never arrived [S3].",
		"The returned item failed to arrive on 2026-11-10 [S3].",
		"Payments no longer holds the refund [S3].",
		"Payments stopped holding the refund [S3].",
		"Refunds are not paid within five business days after the returned item arrives [S4].",
		"Payments hardly holds the refund [S3].",
		"It is false that Payments holds the refund [S3].",
		"It is untrue that the refund is pending [S1].",
		"The parcel was not, in fact, not damaged [S3].",
		"The refund of $49.00 is far from pending [S1].",
		"The refund is no longer pending [S1].",
		"The refund of order o_9002 is anything but pending [S1].",
		"The parcel was damaged, not the card [S3].",
		// two records
		"The order o_9002 of $129.00 is pending [S1][S2].",
		"The delivered order cost $49.00 [S1][S2].",
		"The pending refund is $129.00 [S1][S2].",
		"Her lamp order for $49.00 is delivered [S1][S2].",
		"Ticket t_7301 was made on 2026-10-21 [S1][S3].",
		"The item of o_9001 arrived on 2026-11-10 [S3].",
		"The refund on o_9001 is pending [S1].",
		"Order o_9001: refund pending [S1][S2].",
		// promises
		"The refund of $49.00 has been approved [S1].",
		"Your refund is approved [S1].",
		"The refund of $49.00 is guaranteed [S1].",
		"The refund of $49.00 will be paid tomorrow [S1].",
		"The refund of $49.00 will be paid today [S1].",
		"You are entitled to the refund of $49.00 at once [S1].",
		"We waive the refund [S1].",
		"Payments paid the refund [S3].",
		"The refund was sent [S1].",
		"The refund went through [S1].",
		// dates, numbers, units
		"The returned item arrived on 2026-11-09 [S3].",
		"The returned item arrived on 11/11/2026 [S3].",
		"The returned item arrived on 10.11.2025 [S3].",
		"The returned item arrived on the 11th [S3].",
		"The returned item arrived on the eleventh [S3].",
		"The returned item arrived on the tenth of October [S3].",
		"The returned item arrived on Monday [S3].",
		"The returned item arrived in October [S3].",
		"The returned item arrived in 2025 [S3].",
		"The returned item arrived yesterday [S3].",
		"The refund is $4,900 [S1].",
		"The refund is 4900 dollars [S1].",
		"The refund is forty dollars [S1].",
		"The refund is forty-eight dollars [S1].",
		"The refund is a hundred dollars [S1].",
		"The refund is a thousand dollars [S1].",
		"The refund is five million [S1].",
		"The refund is 49 EUR [S1].",
		"The refund is 49 bitcoin [S1].",
		"The refund is 49.00 yen [S1].",
		"The refund is ¥49.00 [S1].",
		"The refund is -$49.00 [S1].",
		"The refund is $49k [S1].",
		"The refund is $49.00 million [S1].",
		"The refund is $49 thousand [S1].",
		"The refund is 50% of the total [S1].",
		"Half of the refund is pending [S1].",
		"The refund doubled [S1].",
		"Two refunds are pending [S1].",
		"Refunds are paid within five business hours after the returned item arrives [S4].",
		"Refunds are paid within five seconds after the returned item arrives [S4].",
		"Refunds are paid within five business quarters after the returned item arrives [S4].",
		"Refunds are paid within a dozen business days after the returned item arrives [S4].",
		"Refunds are paid within a week after the returned item arrives [S4].",
		"Refunds are paid within fifty-five business days after the returned item arrives [S4].",
		"Refunds are paid within twenty five business days after the returned item arrives [S4].",
		"Refunds are paid within a hundred and five business days after the returned item arrives [S4].",
		"Refunds are paid within 5 x 7 business days after the returned item arrives [S4].",
		"Refunds are paid before the returned item arrives [S4].",
		"Refunds are paid at least five business days after the returned item arrives [S4].",
		"Refunds are paid no sooner than five business days after the returned item arrives [S4].",
		"The refund is ٥٠ dollars [S1].",
		"The refund is $５０ [S1].",
		"The refund is ५० [S1].",
		"The refund is ⑤⓪ dollars [S1].",
		"The refund is L dollars [S1].",
		// homoglyphs
		"The refund of order o_9002 is аpproved [S1].",
		"The refund of order o_9002 is аррrоvеd [S1].",
		"The refund of order o_9002 is dеlivered [S1].",
		"The refund of order о_9777 is pending [S1].",
		"The refund of order o_9002 is deli-vered [S1].",
		"The refund of order o_9002 is deli*vered* [S1].",
		"The refund of order o_9002 is d e l i v e r e d [S1].",
		"The refund of order o_9002 is APPROVED [S1].",
		"The refund of order o_9002 is `approved` [S1].",
		"The refund of order o_9002 is 批准 [S1].",
		"The refund of order o_9002 is genehmigt [S1].",
		"The refund of order o_9002 is ✅ [S1].",
		// sources about something else
		"Order o_9002 arrived at Payments [S3].",
		"The customer is gold, and so is order o_9002 [S6][S1].",
		// ids
		"The customer CUST-1O01 has a pending refund [S1].",
		"Order 9777 is pending [S1].",
		"Order #9001 is pending [S1].",
		"Order 9001 is pending [S1].",
		"Order o-9777 is pending [S1].",
		"Order o_9002 and o 9777 are pending [S1].",
		// questions and modals
		"The refund is pending because the card was stolen [S1][S3].",
		"The refund was pending [S1], then it was paid out [S1].",
		"The parcel was not damaged and the refund is gone [S3][S1].",
		// slipped into a sentence that is true but for that
		"Payments holds the refund for tomorrow until the customer names another account [S3].",
		"Payments holds the guaranteed refund until the customer names another account [S3].",
		"Payments holds the \u0430pproved refund until the customer names another account [S3].",
		"Payments holds the \u2705 refund until the customer names another account [S3].",
		"Payments holds the \u096b\u0966 refund until the customer names another account [S3].",
		"Payments holds the ap*prov*ed refund until the customer names another account [S3].",
		"Payments holds the ap<b>prov</b>ed refund until the customer names another account [S3].",
		"Payments holds the ap&shy;proved refund until the customer names another account [S3].",
		"Payments holds the a.p.p.r.o.v.e.d refund until the customer names another account [S3].",
		"Payments holds the a p p r o v e d refund until the customer names another account [S3].",
		"Payments holds the \u20b95 refund until the customer names another account [S3].",
		"Payments holds the million refund until the customer names another account [S3].",
		"Payments holds half the refund until the customer names another account [S3].",
		"Payments holds the refund until the customer names another account at pay.evil.com [S3].",
		"Payments holds the refund until the customer names another account on [this page](javascript:alert(1)) [S3].",
		"Payments holds the refund until the customer names another account at ftp://evil/x [S3].",
		"Payments holds the refund, approved by hand, until the customer names another account [S3].",
		"Payments holds the refund until the customer names another account\u2028and it is approved [S3].",
		"Payments holds the refund, e.g. approved it, until the customer names another account [S3].",
		"Payments holds the refund in the U.S. but approved it until the customer names another account [S3].",
		"- Payments holds the refund until the customer names another account, denied [S3]",
		"| Payments holds the refund until the customer names another account | denied | [S3]",
		"Payments holds the re[S3]fund until the customer names another account [S3], status: denied.",
	} {
		for _, s := range copilot.Check(sentence, evidence(), sc).Sentences {
			if s.Kept {
				t.Errorf("kept: %q (%v)", s.Sentence, s.Checked)
			}
		}
	}
}
