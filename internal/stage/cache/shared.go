package cache

import (
	"context"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A Shared is the second tier: a store that all replicas of Atlas reach. It keeps sealed answers,
// which it cannot read, and sees to it that one replica at a time loads one answer. Package
// cachetest holds its contract as a test suite, and one in memory.
//
// Names of one tenant never meet those of another. Everything that is kept expires by itself.
// Methods return soon after ctx ends, and are safe for concurrent use.
type Shared interface {
	// Claim returns the answer under c.Name, or else gives the right to load it to c.Token, or else
	// says that another has that right. All of it is one atomic step. An answer from before the
	// last purge that covers it, without an expiry, larger than c.Max, or filled by c.Except counts as none.
	// Whoever claims again with the token that has the right keeps it.
	Claim(ctx context.Context, c Claim) (Standing, error)
	// Renew prolongs the right of the token to lease from now, and reports whether it still has it.
	Renew(ctx context.Context, n Name, token string, lease time.Duration) (bool, error)
	// Fill ends the right of f.Token and, if it had it and nothing was purged since it was given, keeps
	// the answer for f.TTL, at once for all: no replica sees part of it. Who watches the name is told.
	Fill(ctx context.Context, f Fill) (Outcome, error)
	// Release ends the right of the token, if it has it, without an answer, and tells those who watch
	// the name. again says whether another should try: false means that the load has come to its end
	// and gave nothing that could be kept.
	Release(ctx context.Context, n Name, token string, again bool) error
	// Watch tells what becomes of the load of a name, from now until stop is called: Fill sends true,
	// Release its again. Only the end of a load that a claim met as Busy is told. Messages may be lost, and
	// one may stand for many. It works while Listen does. Stopping twice is fine.
	Watch(n Name) (signal <-chan bool, stop func())
	// Purge makes all answers of the tenant, or those of one of its tools, count as none, and keeps what
	// is being loaded now from being filled. Its cost does not depend on how many there are. All other
	// replicas that listen are told. A nil error means that no later Claim, by whichever replica, returns
	// an answer that was loaded under a right given before.
	Purge(ctx context.Context, tenant atlas.TenantID, tool string) error
	// Listen tells l what other replicas purge, until ctx ends; then it returns. It connects by itself
	// as often as need be. It is called once.
	Listen(ctx context.Context, l Listener)
}

// A Name is where an answer lies. The digest alone tells apart all keys of all tenants; the tenant and the
// tool are there to purge by.
type Name struct {
	Tenant atlas.TenantID
	Tool   string
	Digest [32]byte
}

// A Claim asks for an answer, or for the right to load it.
type Claim struct {
	Name
	Token  string        // names who claims, and later the answer; 26 random characters as of [crypto/rand.Text]
	Lease  time.Duration // how long the right lasts unless it is renewed; whole milliseconds, at least 1
	Max    int           // in bytes
	Except string        // the token under which an answer was filled that is not wanted; or empty
}

// A State is what a claim came to.
type State uint8

// The states.
const (
	Busy    State = iota // another has the right to load
	Granted              // the claimer has the right to load
	Found                // there is an answer
)

// A Standing is the outcome of a claim.
type Standing struct {
	State State
	// Epoch stands for all purges that there were. When granted it is to be handed to Fill; when found
	// it is the one under which the answer was filled.
	Epoch string
	Value string        // found: the answer as it was filled
	Token string        // found: the token under which it was filled
	Left  time.Duration // found: how long the answer lasts; busy: the other's right, unless renewed
}

// A Fill is an answer to keep.
type Fill struct {
	Name
	Token string // that was granted the right
	Epoch string // from the claim that granted it
	Value string
	TTL   time.Duration // whole milliseconds, at least 1
}

// An Outcome says what became of an answer.
type Outcome uint8

// The outcomes.
const (
	Lost   Outcome = iota // the right had run out, or was another's: not kept
	Kept                  // kept
	Purged                // there was a purge since the claim: not kept
)

// A Listener is told what other replicas do.
type Listener interface {
	// Purged says that another replica has purged the tenant's answers, all or one tool's.
	Purged(tenant atlas.TenantID, tool string)
	// Gap says that messages may have been lost before now. It is also called when listening begins.
	Gap()
}

// A Sealer seals answers before they leave the process. [internal/seal.Ring] is one.
type Sealer interface {
	// Seal returns plain sealed, so that it opens only beside the same bound.
	Seal(plain, bound []byte) string
	// Open returns what was sealed beside bound.
	Open(text string, bound []byte) ([]byte, error)
}
