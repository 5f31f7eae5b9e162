package source

import (
	"context"
	"encoding/json"
	"strings"
	"time"
	"unicode"
)

// A Watcher is a Provider that notices by itself when other tools are to be offered than those it was
// opened with: somebody approved or revoked one, or the upstream took one away.
type Watcher interface {
	// Watch runs until ctx ends, and calls changed when the source should be opened anew. It does not
	// call it again before the source is closed, unless more changes.
	Watch(ctx context.Context, changed func()) error
}

// A Reviewer is a Provider whose tools a person looks at and approves.
type Reviewer interface {
	// Review asks the upstream for its definitions and compares them with the approved ones. As says
	// which tenant's credentials to ask with; empty means the source's own choice.
	Review(ctx context.Context, as string) (Review, error)
	// Approve pins the definition of the digest, which must be what the upstream says now. By says who
	// approves. Code: definition_changed if the upstream says something else by now.
	Approve(ctx context.Context, as, tool, digest, by string) error
	// Revoke takes the approval of a tool back. Code: not_found if there is none.
	Revoke(ctx context.Context, tool, by string) error
}

// A Review is what a Provider's upstream defines beside what is approved of it.
type Review struct {
	Upstream string     `json:"upstream"` // where it is, for operators
	Trust    string     `json:"trust"`    // the policy: approve or first_use
	Down     string     `json:"down,omitempty"`
	Tools    []Reviewed `json:"tools"` // sorted by name
}

// The states of a reviewed tool.
const (
	ReviewApproved = "approved" // the upstream defines it as approved
	ReviewWaiting  = "waiting"  // nobody has approved it yet
	ReviewChanged  = "changed"  // the upstream defines it otherwise than approved: it is blocked
	ReviewRemoved  = "removed"  // approved, and no longer there
	ReviewUnusable = "unusable" // cannot be offered; Problem says why
	ReviewUnknown  = "unknown"  // approved; the upstream does not answer
)

// A Reviewed is one tool of a review.
type Reviewed struct {
	Name       string          `json:"name"`
	State      string          `json:"state"`
	Problem    string          `json:"problem,omitempty"`  // why it cannot be offered
	Warnings   []string        `json:"warnings,omitempty"` // what a person should look at in Live, or else in Approved
	Live       json.RawMessage `json:"live,omitempty"`     // canonical definition as the upstream says it now
	LiveDigest string          `json:"live_digest,omitempty"`
	Approved   json.RawMessage `json:"approved,omitempty"` // canonical definition as approved
	Digest     string          `json:"digest,omitempty"`   // of Approved
	By         string          `json:"by,omitempty"`       // who approved it
	At         time.Time       `json:"at,omitzero"`
}

// OfferName is the name of an upstream's tool as Atlas writes it: a-z, 0-9 and _, with an underscore
// where a word began with a capital and for every other character. Two names may become one; then only
// one of them can be offered.
func OfferName(upstream string) string {
	var b strings.Builder
	before := rune(0)
	for _, r := range upstream {
		switch {
		case 'A' <= r && r <= 'Z':
			if unicode.IsLower(before) || unicode.IsDigit(before) {
				b.WriteByte('_')
			}
			b.WriteRune(r + 'a' - 'A')
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			b.WriteRune(r)
		default:
			b.WriteByte('_')
		}
		before = r
	}
	return b.String()
}
