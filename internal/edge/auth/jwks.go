package auth

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
)

const (
	maxJWKS      = 1 << 20
	fetchTimeout = 5 * time.Second
	// unknownPause is how often, at most, tokens can make us ask an issuer for its keys. It is also
	// how long every unknown kid stays unknown, so that a flood of them costs a map lookup each.
	unknownPause = 10 * time.Second
)

// errNoKeys says that an issuer's keys are not known, so that nothing can be said about its tokens.
var errNoKeys = errors.New("no current keys")

// remoteKeys is the key set of one issuer, read over HTTP. It is a [jwkset.Storage] of its own
// because jwkset's HTTP client reads without a limit and, with a short RateLimitWaitMax, gives
// that time to the request too.
type remoteKeys struct {
	*jwkset.MemoryJWKSet // read by keyfunc; replaced as a whole

	issuer  string // if set, url is found in its metadata
	client  *http.Client
	refresh time.Duration
	maxAge  time.Duration

	url atomic.Pointer[string] // of the key set; nil until it is discovered

	fetching chan struct{} // holds one element while the issuer is being asked
	fetched  atomic.Int64  // Unix nanoseconds of the last success; 0 for never
	asked    atomic.Int64  // of the last attempt
	skew     atomic.Int64  // nanoseconds that the issuer's Date was ahead, at the last success
}

func newRemoteKeys(url string, client *http.Client, cfg Config) *remoteKeys {
	r := &remoteKeys{
		MemoryJWKSet: jwkset.NewMemoryStorage(),
		client:       client, refresh: cfg.KeysRefresh, maxAge: cfg.KeysMaxAge,
		fetching: make(chan struct{}, 1),
	}
	if url != "" {
		r.url.Store(&url)
	}
	return r
}

// KeyRead returns the key of the given id. An id that is not known makes it read the key set again,
// unless that was done a short time ago: keys rotate, but tokens are made up too.
func (r *remoteKeys) KeyRead(ctx context.Context, kid string) (jwkset.JWK, error) {
	if r.usable(time.Now()) {
		if jwk, err := r.MemoryJWKSet.KeyRead(ctx, kid); err == nil {
			return jwk, nil
		}
	}
	err := r.fetchSoon(ctx)
	if !r.usable(time.Now()) {
		return jwkset.JWK{}, errors.Join(errNoKeys, err)
	}
	return r.MemoryJWKSet.KeyRead(ctx, kid)
}

// usable reports whether there are keys young enough to be trusted.
func (r *remoteKeys) usable(now time.Time) bool {
	at := r.fetched.Load()
	return at != 0 && now.Sub(time.Unix(0, at)) < r.maxAge
}

// fetchSoon asks the issuer unless somebody did within unknownPause. Callers that come while a
// request is under way wait for it and share what it brings.
func (r *remoteKeys) fetchSoon(ctx context.Context) error {
	if len(r.fetching) == 0 && r.askedWithin(unknownPause) {
		return nil
	}
	select {
	case r.fetching <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-r.fetching }()
	if r.askedWithin(unknownPause) {
		return nil
	}
	// One caller's hanging up must not cost the others their keys.
	return r.fetch(context.WithoutCancel(ctx))
}

func (r *remoteKeys) askedWithin(d time.Duration) bool {
	at := r.asked.Load()
	return at != 0 && time.Since(time.Unix(0, at)) < d
}

// refetch asks the issuer now, after whoever is asking it.
func (r *remoteKeys) refetch(ctx context.Context) error {
	select {
	case r.fetching <- struct{}{}: // held for fetchTimeout at most
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-r.fetching }()
	return r.fetch(ctx)
}

// run reads the key set now and every refresh until ctx ends. After a failure it tries again
// sooner.
func (r *remoteKeys) run(ctx context.Context, log *slog.Logger) {
	for {
		err := r.refetch(ctx)
		wait := r.refresh
		if err != nil && ctx.Err() == nil {
			wait = min(wait, unknownPause)
			log.WarnContext(ctx, "key set could not be read; the last keys stay in use", "err", err)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// fetch reads the key set once and replaces the keys. A set without one usable key is a failure:
// an issuer that has none signs nothing, so its keys are more likely broken than withdrawn.
func (r *remoteKeys) fetch(ctx context.Context) error {
	r.asked.Store(time.Now().UnixNano())
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	if r.issuer != "" {
		url, err := discover(ctx, r.client, r.issuer)
		switch {
		case err == nil:
			r.url.Store(&url)
		case r.url.Load() == nil: // else the keys are looked for where they were
			return err
		}
	}
	body, date, err := get(ctx, r.client, *r.url.Load(), maxJWKS)
	if err != nil {
		return fmt.Errorf("key set: %w", err)
	}
	keys, err := parseJWKS(body)
	if err != nil {
		return err
	}
	if err := r.KeyReplaceAll(ctx, keys); err != nil {
		return fmt.Errorf("key set: %w", err)
	}
	now := time.Now()
	r.fetched.Store(now.UnixNano())
	if !date.IsZero() {
		r.skew.Store(int64(date.Sub(now.Truncate(time.Second))))
	}
	return nil
}

// parseJWKS returns the keys of a JWK set (RFC 7517) that can verify a token here: public,
// asymmetric, with a kid, for signatures. Others are left out.
func parseJWKS(body []byte) ([]jwkset.JWK, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	var keys []jwkset.JWK
	for _, raw := range set.Keys {
		jwk, err := jwkset.NewJWKFromRawJSON(raw, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{})
		if err != nil {
			continue // one odd key must not cost the others
		}
		m := jwk.Marshal()
		if m.KID == "" || m.USE != "" && m.USE != jwkset.UseSig || m.KTY == jwkset.KtyOct {
			continue
		}
		if k, ok := jwk.Key().(*rsa.PublicKey); ok && (k.N.BitLen() < minRSABits || k.N.BitLen() > maxRSABits) {
			continue
		}
		keys = append(keys, jwk)
	}
	if len(keys) == 0 {
		return nil, errors.New("key set: holds no usable key")
	}
	return keys, nil
}
