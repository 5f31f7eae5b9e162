// Package idempotency lets a caller repeat a write safely: calls with the same idempotency key run
// once, and the repetitions are answered from the first result (as draft-ietf-httpapi-
// idempotency-key-header describes for HTTP, and Stripe does). Keys are the caller's own: they are
// scoped by tenant, caller (home tenant, issuer and subject), delegator and tool.
//
// What becomes of a key when the call fails:
//
//   - Nothing was done, or the source says that it did not take the request (a retryable code
//     other than timeout): the key is released, and the same key runs again.
//   - The outcome is unknown (timeout, canceled, internal_error, a panic): released if the tool
//     is idempotent; otherwise the failure is kept, because a second run might do the thing
//     twice. The repetition is told so, and that a new key runs it anew.
//   - Every other failure is definitive: kept, like a success.
//
// A process that dies in the middle of a call leaves a lease behind. When it ends, the next call
// with the key runs: across a crash a write is done at least once, and the source can tell a
// repetition by the key, which travels on the call.
package idempotency

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage"
)

// Config is the stage's settings.
type Config struct {
	Keep      time.Duration `yaml:"keep"`       // how long a result answers repetitions; default 24h
	MaxResult int           `yaml:"max_result"` // bytes of a result that is kept; default 256 KiB
	MaxRun    time.Duration `yaml:"max_run"`    // run time of a keyed call whose tool declares no timeout; default 1m
}

func (c Config) withDefaults() Config {
	c.Keep = cmp.Or(c.Keep, 24*time.Hour)
	c.MaxResult = cmp.Or(c.MaxResult, 256<<10)
	c.MaxRun = cmp.Or(c.MaxRun, time.Minute)
	return c
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	if c.Keep < 0 || c.Keep > 0 && c.Keep < time.Minute {
		errs = append(errs, errors.New("keep must be a minute or more"))
	}
	if c.MaxResult < 0 {
		errs = append(errs, errors.New("max_result must not be negative"))
	}
	if c.MaxRun < 0 || c.MaxRun > 0 && c.MaxRun < time.Second {
		errs = append(errs, errors.New("max_run must be a second or more"))
	}
	return errors.Join(errs...)
}

const (
	maxKey      = 128              // characters of a caller's key
	maxChildKey = 1024             // of a child call's, which has its parent's in front
	grace       = 30 * time.Second // from the end of a call's time to the end of its lease
	storeTime   = 5 * time.Second  // for writing the outcome
	comeBack    = time.Second      // longest advice to wait for a running call
)

// A Store keeps values under compare-and-set, by the contract of internal/state.KV.
type Store interface {
	Get(ctx context.Context, space, key string) (value []byte, version int64, err error)
	CompareAndSet(ctx context.Context, space, key string, version int64, value []byte, expires time.Time) (int64, error)
	CompareAndDelete(ctx context.Context, space, key string, version int64) (bool, error)
}

// Keys is the stage. It is safe for concurrent use and holds no state of its own, so that it can
// be replaced while calls run; several processes may share a store.
type Keys struct {
	cfg   Config
	store Store
	log   *slog.Logger
}

// New returns the stage over the store.
func New(cfg Config, store Store, log *slog.Logger) (*Keys, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("idempotency: %w", err)
	}
	if store == nil {
		return nil, errors.New("idempotency: a store is needed")
	}
	return &Keys{cfg: cfg.withDefaults(), store: store, log: log}, nil
}

// applies reports whether the stage has to do with the call at all.
func applies(call atlas.Call) bool {
	return call.IdempotencyKey != "" && call.Op == atlas.OpCall && call.Tool != nil &&
		(call.Tool.Effects != atlas.EffectsNone || call.Tool.Destructive)
}

// Replay answers the call if it can be answered without running: from the first result, or with
// idempotency_key_reused or idempotency_in_progress. The approval stage asks, so that repeating
// an approved write needs no second approval.
func (k *Keys) Replay(ctx context.Context, call atlas.Call) (res atlas.Result, ok bool, err error) {
	if !applies(call) {
		return atlas.Result{}, false, nil
	}
	if err := check(call); err != nil {
		return atlas.Result{}, true, err
	}
	space, key := place(call)
	rec, _, err := k.load(ctx, space, key)
	if err != nil {
		return atlas.Result{}, true, err
	}
	return rec.answer(call, time.Now())
}

// timeout returns how long the call may run, if that is declared.
func timeout(call atlas.Call) time.Duration {
	if call.Task && call.Tool.Task.Timeout > 0 {
		return call.Tool.Task.Timeout
	}
	return call.Tool.Timeout
}

// Stage runs a keyed write once and answers its repetitions. Everything else passes through.
func (k *Keys) Stage(next atlas.Handler) atlas.Handler {
	return func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
		if !applies(call) {
			return next(ctx, call)
		}
		if err := check(call); err != nil {
			return atlas.Result{}, err
		}
		ctx, cancel := stage.Turn(ctx, call) // the store may hang
		defer cancel()
		space, key := place(call)
		rec, version, err := k.load(ctx, space, key)
		if err != nil {
			return atlas.Result{}, err
		}
		if res, ok, err := rec.answer(call, time.Now()); ok {
			return res, err
		}
		c := claim{keys: k, space: space, key: key, limit: cmp.Or(timeout(call), k.cfg.MaxRun)}
		if won, err := c.take(ctx, call, version); err != nil {
			return atlas.Result{}, err
		} else if !won {
			return atlas.Result{}, running(comeBack)
		}
		return c.run(ctx, call, next)
	}
}

// load reads the record of a key; a zero record if there is none.
func (k *Keys) load(ctx context.Context, space, key string) (record, int64, error) {
	data, version, err := k.store.Get(ctx, space, key)
	if err != nil || version == 0 {
		return record{}, 0, err
	}
	rec, err := decode(data)
	if err != nil {
		return record{}, 0, atlas.Errorf(atlas.CodeStateUnavailable, fmt.Errorf("idempotency: record of a key: %w", err), "")
	}
	return rec, version, nil
}

// check checks the caller's key, and that the call went through validation.
func check(call atlas.Call) error {
	limit := maxKey
	if call.Parent != nil {
		limit = maxChildKey
	}
	why := ""
	switch key := call.IdempotencyKey; {
	case !utf8.ValidString(key):
		why = "is not UTF-8"
	case utf8.RuneCountInString(key) > limit:
		why = fmt.Sprintf("is longer than %d characters", limit)
	default:
		for _, r := range key {
			if !unicode.IsPrint(r) {
				why = "holds a character that cannot be printed"
			}
		}
	}
	if why != "" {
		return atlas.Errorf(atlas.CodeInvalidArguments, nil, "the idempotency key "+why).With("argument", "idempotency_key")
	}
	if call.Args.Digest == [32]byte{} || call.Principal == nil || call.Principal.Tenant == "" || call.Tenant == "" {
		return atlas.Errorf(atlas.CodeInternal, errors.New("idempotency: the call has no digest, principal or tenant; is the validation stage missing?"), "")
	}
	return nil
}

// place returns where the call's record is kept. The parts are hashed with their lengths, so that
// no subject or key can be chosen to run into another's.
func place(call atlas.Call) (space, key string) {
	h := sha256.New()
	p := call.Principal
	for _, part := range []string{string(p.Tenant), p.Issuer, p.Subject, p.Delegator, call.Tool.Name, call.IdempotencyKey} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write([]byte(part))
	}
	return "idempotency/" + string(call.Tenant), hex.EncodeToString(h.Sum(nil))
}

// running is the answer while the first call has not ended.
func running(wait time.Duration) error {
	return &atlas.Error{Code: atlas.CodeIdempotencyRunning, RetryAfter: max(min(wait, comeBack), 10*time.Millisecond)}
}

// A claim is one process's right to run the call of a key, until its lease ends.
type claim struct {
	keys       *Keys
	space, key string
	limit      time.Duration // of the run
	version    int64         // of the record that says so
	digest     string
}

// take writes the claim over the record version that was seen, and reports whether it was first.
func (c *claim) take(ctx context.Context, call atlas.Call, seen int64) (bool, error) {
	c.digest = hex.EncodeToString(call.Args.Digest[:])
	now := time.Now()
	rec := record{State: stateRunning, Digest: c.digest, Owner: rand.Text(), Lease: now.Add(c.limit + grace)}
	data, err := rec.encode()
	if err != nil {
		return false, atlas.Errorf(atlas.CodeInternal, err, "")
	}
	c.version, err = c.keys.store.CompareAndSet(ctx, c.space, c.key, seen, data, now.Add(c.keys.cfg.Keep))
	if err != nil {
		return false, err
	}
	return c.version != 0, nil
}

// run makes the call and settles the claim, also when the call panics.
func (c *claim) run(ctx context.Context, call atlas.Call, next atlas.Handler) (atlas.Result, error) {
	// Past the lease another process may run the call: this one must have ended by then.
	rctx, cancel := context.WithTimeout(ctx, c.limit+grace/2)
	defer cancel()
	ended := false
	defer func() {
		if !ended {
			c.settle(ctx, call, atlas.Result{}, atlas.Errorf(atlas.CodeInternal, errors.New("panic"), ""))
		}
	}()
	res, err := next(rctx, call)
	ended = true
	c.settle(ctx, call, res, err)
	return res, err
}

// settle stores the outcome or releases the key. The call is over by then: that its outcome
// cannot be kept is for the log, not for the caller.
func (c *claim) settle(ctx context.Context, call atlas.Call, res atlas.Result, err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTime)
	defer cancel()
	kept, serr := false, error(nil)
	if outcomeOf(call.Tool, res, err) == released {
		kept, serr = c.keys.store.CompareAndDelete(ctx, c.space, c.key, c.version)
	} else {
		var data []byte
		if data, serr = c.keys.outcome(c.digest, call.Tool, res, err).encode(); serr == nil {
			var version int64
			version, serr = c.keys.store.CompareAndSet(ctx, c.space, c.key, c.version, data, time.Now().Add(c.keys.cfg.Keep))
			kept = version != 0
		}
	}
	if serr == nil && !kept {
		serr = errors.New("the lease ended before the call did")
	}
	if serr != nil {
		c.keys.log.ErrorContext(ctx, "the outcome of a keyed call could not be kept; a repetition may run it again",
			slog.String("request_id", call.ID), slog.String("tool", call.Tool.Name), slog.Any("error", serr))
	}
}
