// Package rounds is the stage of multi round-trip requests (SEP-2322): a tool that needs something
// from its client asks, and the client sends the call again with the replies. The stage lets a
// tool's questions complete the arguments before anything else looks at them, seals the state that
// the client carries from one round to the next, and accepts it back only for the same caller,
// tool, version and arguments, for a while, and from a tool with effects only once. How the protocol
// writes questions and replies is the edge's.
package rounds

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/canonical"
	"github.com/atlas-mcp/atlas/internal/seal"
)

// Config is the stage's settings. The zero value means the defaults.
type Config struct {
	TTL       time.Duration `yaml:"ttl"`        // how long a person may take to answer; 0 means 10m
	MaxRounds int           `yaml:"max_rounds"` // questions in a row; 0 means 8
}

func (c Config) withDefaults() Config {
	c.TTL = cmp.Or(c.TTL, 10*time.Minute)
	c.MaxRounds = cmp.Or(c.MaxRounds, 8)
	return c
}

// Validate reports all mistakes, joined.
func (c Config) Validate() error {
	var errs []error
	if c.TTL < 0 || c.TTL > 24*time.Hour {
		errs = append(errs, fmt.Errorf("ttl is %s; it must be between 1s and 24h", c.TTL))
	}
	if c.MaxRounds < 0 || c.MaxRounds > 100 {
		errs = append(errs, fmt.Errorf("max_rounds is %d; it must be 1 to 100", c.MaxRounds))
	}
	return errors.Join(errs...)
}

// A Store remembers which states were used.
type Store interface {
	// CompareAndSet stores value under key in space if its version is still the given one, 0 for
	// none, and returns its new version, or 0 if it was not.
	CompareAndSet(ctx context.Context, space, key string, version int64, value []byte, expires time.Time) (int64, error)
}

// Rounds is the stage. It is immutable and safe for concurrent use.
type Rounds struct {
	cfg   Config
	ring  *seal.Ring
	store Store
}

const (
	purpose     = "atlas request state v1"
	headSize    = 8 + 1 + idSize // expiry, round, id
	idSize      = 16
	maxState    = 16 << 10 // bytes of a tool's state
	maxSealed   = 32 << 10 // characters of what a client sends back
	maxRequests = 16
)

// New makes the stage. The first key seals, all open: with the same keys on all replicas, and after
// a restart, any of them answers the next round.
func New(cfg Config, keys []seal.Key, store Store) (*Rounds, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if store == nil {
		return nil, errors.New("rounds: a store is needed")
	}
	ring, err := seal.New(purpose, keys...)
	if err != nil {
		return nil, fmt.Errorf("rounds: %w", err)
	}
	return &Rounds{cfg: cfg.withDefaults(), ring: ring, store: store}, nil
}

// Stage opens the state of a reply, lets the tool ask for arguments, and seals what the tool asks.
func (r *Rounds) Stage(next atlas.Handler) atlas.Handler {
	return func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
		if call.Op != atlas.OpCall || call.Tool == nil || call.Fault != nil {
			return next(ctx, call)
		}
		outer := call // as the client sent it: what a state is bound to
		round, err := r.open(ctx, &call)
		if err != nil {
			return atlas.Result{}, err
		}
		if call.Tool.Ask != nil && call.Parent == nil {
			args, ask, err := call.Tool.Ask(ctx, call)
			if err != nil {
				return atlas.Result{}, err
			}
			if ask != nil {
				return r.seal(outer, atlas.Result{Ask: ask}, round)
			}
			call.Args.Raw, call.Reply = args, nil
		}
		res, err := next(ctx, call)
		if err != nil || res.Ask == nil {
			return res, err
		}
		return r.seal(outer, res, round)
	}
}

// open replaces the sealed state of the call's reply by the tool's own, and returns how many rounds
// there were. A reply without a state is none: what the tool asked is not known.
func (r *Rounds) open(ctx context.Context, call *atlas.Call) (round byte, err error) {
	if call.Reply == nil || len(call.Reply.State) == 0 || call.Parent != nil {
		call.Reply = nil
		return 0, nil
	}
	if len(call.Reply.State) > maxSealed {
		return 0, errState()
	}
	bound, err := binding(*call)
	if err != nil {
		return 0, errState() // the arguments are not the ones that were asked about
	}
	plain, err := r.ring.Open(string(call.Reply.State), bound)
	if err != nil || len(plain) < headSize {
		return 0, errState()
	}
	expires := time.UnixMilli(int64(binary.BigEndian.Uint64(plain))) //nolint:gosec // we wrote it
	if !time.Now().Before(expires) {
		return 0, errState()
	}
	if !call.Tool.ReadOnly {
		// One answer of a person is good for one run.
		version, err := r.store.CompareAndSet(ctx, "rounds/"+string(call.Tenant), fmt.Sprintf("%x", plain[9:headSize]), 0, []byte("used"), expires)
		if err != nil {
			return 0, err
		}
		if version == 0 {
			return 0, errState()
		}
	}
	call.Reply = &atlas.Reply{Answers: call.Reply.Answers, State: plain[headSize:]}
	return plain[8], nil
}

// errState is one and the same for a forged, foreign, expired and used state.
func errState() error { return atlas.Errorf(atlas.CodeInvalidState, nil, "") }

// seal checks what the tool asks and seals its state.
func (r *Rounds) seal(call atlas.Call, res atlas.Result, round byte) (atlas.Result, error) {
	out := atlas.Result{Notes: res.Notes}
	fault := func(format string, args ...any) (atlas.Result, error) {
		return out, atlas.Errorf(atlas.CodeInternal, fmt.Errorf("rounds: tool %s "+format, append([]any{call.Tool.Name}, args...)...), "")
	}
	switch {
	case call.Parent != nil:
		return fault("asks its client, but was called by tool %s, which has none", call.Parent.Tool)
	case len(res.Ask.State) > maxState:
		return fault("keeps a state of %d bytes; at most %d", len(res.Ask.State), maxState)
	case len(res.Ask.Requests) > maxRequests:
		return fault("asks %d things at once; at most %d", len(res.Ask.Requests), maxRequests)
	case int(round) >= r.cfg.MaxRounds:
		return fault("still asks after %d rounds", round)
	}
	var missing []string
	for key, req := range res.Ask.Requests {
		need, known := capability(req)
		if key == "" || !known {
			return fault("asks for %s under the key %q", req.Method, key)
		}
		if !need.has(call.Client) {
			missing = append(missing, need.name)
		}
	}
	if len(missing) > 0 {
		return out, atlas.Errorf(atlas.CodeMissingCapability, nil, "").With("required", compact(missing))
	}
	bound, err := binding(call)
	if err != nil {
		return fault("asks about arguments that are not JSON: %w", err)
	}
	plain := make([]byte, headSize, headSize+len(res.Ask.State))
	binary.BigEndian.PutUint64(plain, uint64(time.Now().Add(r.cfg.TTL).UnixMilli()))
	plain[8] = round + 1
	_, _ = rand.Read(plain[9:]) // never fails
	plain = append(plain, res.Ask.State...)
	out.Ask = &atlas.Ask{Requests: res.Ask.Requests, State: []byte(r.ring.Seal(plain, bound))}
	out.Notes.Asked = true
	return out, nil
}

// binding is all that a state is good for, each part after its length: who, for whom, which tool in
// which version, and the arguments as the client sent them.
func binding(call atlas.Call) ([]byte, error) {
	raw := call.Args.Raw
	if len(raw) == 0 {
		raw = json.RawMessage("{}")
	}
	args, err := canonical.Transform(raw)
	if err != nil {
		return nil, err
	}
	p := call.Principal
	digest := canonical.Digest(args)
	var b []byte
	for _, s := range []string{
		string(call.Tenant), string(p.Tenant), p.Issuer, p.Subject, p.Delegator, call.Tool.Name, call.Tool.Version, string(digest[:]),
	} {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b, nil
}
