package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/sync/singleflight"

	"github.com/atlas-mcp/atlas"
)

const (
	maxAnswer     = 256 << 10
	askersAtOnce  = 16               // questions to one issuer at the same time
	inactiveTTL   = 10 * time.Second // how long an inactive token is not asked about again
	inactiveKept  = 10_000
	failurePause  = time.Second // after a failure the issuer is left alone for so long
	assertionLife = time.Minute

	// Inactive answers use up a bucket of this size, which is filled at this rate: who makes tokens up
	// cannot keep the issuer busy. Good tokens use up nothing.
	inactiveBurst     = 100
	inactivePerSecond = 10
)

var (
	errInactive    = errors.New("the issuer says that the token is not active")
	errUnreachable = errors.New("the issuer cannot be asked")
)

// An introspector asks one issuer about tokens (RFC 7662).
type introspector struct {
	cfg    Introspection
	issuer string
	client *http.Client
	log    *slog.Logger
	signer *signer // nil: client_secret_basic

	asking   singleflight.Group // by SHA-256 of the token
	slots    chan struct{}
	inactive *verified // tokens found inactive

	mu     sync.Mutex // guards the rest
	left   float64    // of the bucket of inactive answers
	filled time.Time
	failed time.Time // of the last failure
}

func newIntrospector(cfg Introspection, issuer string, client *http.Client, log *slog.Logger) (*introspector, error) {
	i := &introspector{
		cfg: cfg, issuer: issuer, client: client, log: log,
		slots: make(chan struct{}, askersAtOnce), inactive: newVerified(inactiveKept), left: inactiveBurst,
	}
	if cfg.PrivateKey != "" {
		var err error
		if i.signer, err = parseSigner(cfg.PrivateKey); err != nil {
			return nil, fmt.Errorf("introspection.private_key: %w", err)
		}
	}
	return i, nil
}

// ask returns the issuer's answer about an active token. Otherwise the error is or wraps errInactive or
// errUnreachable, or is that of ctx.
func (i *introspector) ask(ctx context.Context, token string, sum [32]byte) (map[string]any, error) {
	now := time.Now()
	if _, ok := i.inactive.get(sum, now); ok {
		return nil, errInactive
	}
	if err := i.admit(now); err != nil {
		return nil, err
	}
	answer := i.asking.DoChan(string(sum[:]), func() (any, error) {
		// One caller's hanging up must not cost the others their answer.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), i.cfg.Timeout)
		defer cancel()
		return i.question(ctx, token, sum)
	})
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case r := <-answer:
		claims, _ := r.Val.(map[string]any)
		return claims, r.Err
	}
}

// admit refuses while the issuer is failing, or while too many made-up tokens come.
func (i *introspector) admit(now time.Time) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if now.Sub(i.failed) < failurePause {
		return fmt.Errorf("%w: it failed a moment ago", errUnreachable)
	}
	i.fill(now)
	if i.left < 1 {
		return fmt.Errorf("%w: too many unknown tokens", errUnreachable)
	}
	return nil
}

func (i *introspector) fill(now time.Time) {
	i.left = min(inactiveBurst, i.left+now.Sub(i.filled).Seconds()*inactivePerSecond)
	i.filled = now
}

func (i *introspector) question(ctx context.Context, token string, sum [32]byte) (map[string]any, error) {
	select {
	case i.slots <- struct{}{}:
		defer func() { <-i.slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: too many questions are open", errUnreachable)
	}
	claims, err := i.post(ctx, token)
	now := time.Now()
	i.mu.Lock()
	defer i.mu.Unlock()
	if err != nil {
		if i.failed = now; ctx.Err() == nil || errors.Is(ctx.Err(), context.DeadlineExceeded) {
			i.log.WarnContext(ctx, "introspection failed", "err", err)
		}
		return nil, fmt.Errorf("%w: %w", errUnreachable, err)
	}
	if active, _ := claims["active"].(bool); !active {
		i.fill(now)
		i.left--
		i.inactive.put(sum, seen{until: now.Add(inactiveTTL)}, now)
		return nil, errInactive
	}
	return claims, nil
}

// post asks once. The token is in the body; it is in no URL and in no error.
func (i *introspector) post(ctx context.Context, token string) (map[string]any, error) {
	form := url.Values{"token": {token}, "token_type_hint": {"access_token"}}
	if i.signer != nil {
		assertion, err := i.signer.assertion(i.cfg, i.issuer)
		if err != nil {
			return nil, err
		}
		form.Set("client_id", i.cfg.ClientID)
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", assertion)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, i.cfg.URL, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if i.signer == nil {
		req.SetBasicAuth(url.QueryEscape(i.cfg.ClientID), url.QueryEscape(i.cfg.ClientSecret)) // RFC 6749 section 2.3.1
	}
	body, _, err := send(i.client, req, maxAnswer)
	if err != nil {
		return nil, err
	}
	claims, err := decodeObject(body)
	if err != nil {
		return nil, err
	}
	if _, ok := claims["active"].(bool); !ok {
		return nil, errors.New("the answer does not say whether the token is active")
	}
	return claims, nil
}

// A signer authenticates Atlas as a client (private_key_jwt).
type signer struct {
	method jwt.SigningMethod
	key    crypto.Signer
}

func parseSigner(text string) (*signer, error) {
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("must be one PEM block")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("must be an unencrypted PKCS #8 private key")
	}
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		for _, m := range []*jwt.SigningMethodECDSA{jwt.SigningMethodES256, jwt.SigningMethodES384, jwt.SigningMethodES512} {
			if m.CurveBits == k.Curve.Params().BitSize {
				return &signer{m, k}, nil
			}
		}
	case *rsa.PrivateKey:
		if k.N.BitLen() >= minRSABits {
			return &signer{jwt.SigningMethodRS256, k}, nil
		}
	case ed25519.PrivateKey:
		return &signer{jwt.SigningMethodEdDSA, k}, nil
	}
	return nil, errors.New("must be a P-256, P-384, P-521, Ed25519 or RSA key of at least 2048 bits")
}

// assertion returns a JWT for one request (RFC 7523 section 3). Its audience is the issuer, not an
// endpoint, so that it is good nowhere else.
func (s *signer) assertion(cfg Introspection, issuer string) (string, error) {
	now := time.Now()
	t := jwt.NewWithClaims(s.method, jwt.MapClaims{
		"iss": cfg.ClientID, "sub": cfg.ClientID, "aud": issuer, "jti": rand.Text(),
		"iat": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	})
	if cfg.KeyID != "" {
		t.Header["kid"] = cfg.KeyID
	}
	return t.SignedString(s.key)
}

// introspect asks the issuer that the opaque token belongs to.
func (in *inspection) introspect(ctx context.Context) *fault {
	if f := tooOdd(in.token); f != nil {
		return f
	}
	for _, t := range in.v.opaque {
		if strings.HasPrefix(in.token, t.Introspection.Prefix) {
			in.from = t
		}
	}
	if in.from == nil {
		return faultf("send a JWT of an accepted issuer, or configure introspection for the issuer of this token",
			"it is no JWT, and no issuer is configured to be asked about it")
	}
	claims, f := in.answer(ctx)
	if f != nil {
		return f
	}
	in.claims, in.known, in.p.Issuer = claims, withIssuer, in.from.Issuer.Issuer
	return nil
}

// confirm asks the issuer whether a verified JWT still holds.
func (in *inspection) confirm(ctx context.Context) *fault {
	if in.from.asker == nil || !in.from.Introspection.Always {
		in.note("not asked")
		return nil
	}
	_, f := in.answer(ctx)
	return f
}

func (in *inspection) answer(ctx context.Context) (map[string]any, *fault) {
	claims, err := in.from.asker.ask(ctx, in.token, in.sum)
	switch {
	case err == nil:
		in.note("%s says that the token is active", in.from.Issuer.Issuer)
		return claims, nil
	case errors.Is(err, errInactive):
		return nil, &fault{reason: err.Error(), remedy: "get a new token: this one has expired, was revoked, or is not of this issuer"}
	default:
		return nil, &fault{
			code: atlas.CodeStateUnavailable, reason: "the issuer cannot be asked about the token", cause: err,
			remedy: "see to it that this server reaches introspection.url, and that its client may introspect",
		}
	}
}

func (in *inspection) answerIssuer(context.Context) *fault {
	iss, present := in.claims["iss"]
	if present && iss != in.from.Issuer.Issuer {
		return faultf("compare issuer with what the introspection endpoint answers", "iss is %s; the issuer asked is %s", show(iss), in.from.Issuer.Issuer)
	}
	in.note("%s", in.from.Issuer.Issuer)
	return nil
}
