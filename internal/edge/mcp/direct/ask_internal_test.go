package direct

import (
	"strconv"
	"testing"

	"github.com/atlas-mcp/atlas"
)

// All callers together are bounded as well, and both bounds are told alike.
func TestWaitingCallsOfAllAreBounded(t *testing.T) {
	var a asks
	leave := make([]func(), maxAsksTotal)
	for i := range leave {
		var err error
		if leave[i], err = a.enter(strconv.Itoa(i), 1); err != nil {
			t.Fatalf("call %d: %v", i, err)
		}
	}
	_, all := a.enter("another", 1)
	_, own := a.enter("0", 1)
	if atlas.CodeOf(all) != atlas.CodeRateLimited || atlas.CodeOf(own) != atlas.CodeRateLimited || all.Error() != own.Error() {
		t.Errorf("%v and %v", all, own)
	}
	leave[0]()
	if _, err := a.enter("another", 1); err != nil {
		t.Errorf("there is a place again: %v", err)
	}
	if len(a.calls) != maxAsksTotal {
		t.Errorf("%d callers are counted", len(a.calls))
	}
}
