package auth

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
)

// The values of [Checked].Status.
const (
	StatusOK      = "ok"
	StatusFailed  = "failed"
	StatusSkipped = "skipped" // something before it failed, so that there is nothing to look at
)

// An Explanation says what a token holds and why it is accepted or not. It never holds the token or its
// signature. Header and Claims are what the token says, true or not.
type Explanation struct {
	Accepted bool           `json:"accepted"`
	Code     atlas.Code     `json:"code,omitempty"` // what a caller would be told
	Form     string         `json:"form"`           // "jwt", "opaque" or "development"
	Header   map[string]any `json:"header,omitempty"`
	Claims   map[string]any `json:"claims,omitempty"` // for an opaque token, the issuer's answer
	Checks   []Checked      `json:"checks"`           // in the order in which the server asks
	Identity *Identity      `json:"identity,omitempty"`
	Tools    []string       `json:"tools,omitempty"` // that this identity sees
}

// A Checked is one check and how it went.
type Checked struct {
	Name   string `json:"name"`
	Place  string `json:"place"` // what of the token was looked at: "claims.aud", or "claims " and paths as configured
	Status string `json:"status"`
	Found  string `json:"found,omitempty"`
	Remedy string `json:"remedy,omitempty"` // what to do, where it failed
}

// An Identity is who an accepted token is for.
type Identity struct {
	Issuer    string         `json:"issuer"`
	Subject   string         `json:"subject"`
	Tenant    atlas.TenantID `json:"tenant"`
	Roles     []string       `json:"roles"`
	Scopes    []string       `json:"scopes"`
	Delegator string         `json:"delegator,omitempty"`
	TokenID   string         `json:"token_id"`
	Expires   time.Time      `json:"expires"`
	BoundTo   string         `json:"bound_to,omitempty"` // thumbprint of the DPoP key
}

// Explain looks at a token as [Verifier.Middleware] would, but goes on after the first fault. With a request
// it looks at how the token was sent, too, without using its DPoP proof up. It is for operators: what it
// says must not be answered to whoever sent the token. Like any verification it may ask the token's issuer.
func (v *Verifier) Explain(ctx context.Context, token string, r *http.Request) Explanation {
	var out Explanation
	token, scheme := bare(token)
	sum := digest(token)
	if c, ok := v.dev[sum]; ok {
		out.Form, out.Accepted = "development", true
		out.Checks = []Checked{{"development", "token", StatusOK, "a development token: it is accepted from this machine only", ""}}
		out.Identity = identity(c.Principal, "")
		out.Tools = v.seenBy(c.Principal)
		return out
	}
	out.Form = "jwt"
	if looksOpaque(token) {
		out.Form = "opaque"
	}
	in := &inspection{v: v, token: token, sum: sum, now: time.Now(), notes: true}
	failed := make([]*fault, 0, 1)
	for _, c := range in.checks() {
		done, f := in.explain(ctx, c)
		out.Checks = append(out.Checks, done)
		if f != nil {
			failed = append(failed, f)
		}
	}
	if in.jws != nil {
		out.Header = in.jws.header
	}
	out.Claims = in.claims
	if r != nil {
		sent := v.explainSending(in, scheme, r)
		out.Checks = append(out.Checks, sent)
		if sent.Status == StatusFailed {
			failed = append(failed, &fault{})
		}
	}
	if len(failed) > 0 {
		out.Code = verdictOf(failed)
		return out
	}
	in.p.Claims = in.claims
	out.Accepted, out.Identity, out.Tools = true, identity(&in.p, in.jkt), v.seenBy(&in.p)
	return out
}

// bare takes the scheme off what people copy.
func bare(token string) (string, string) {
	token = strings.TrimSpace(token)
	if scheme, rest, ok := strings.Cut(token, " "); ok && (strings.EqualFold(scheme, "Bearer") || strings.EqualFold(scheme, "DPoP")) {
		return strings.TrimSpace(rest), scheme
	}
	return token, ""
}

// explain runs one check if there is anything for it to look at.
func (in *inspection) explain(ctx context.Context, c check) (Checked, *fault) {
	out := Checked{Name: c.name, Place: c.place, Status: StatusOK}
	if in.known < c.needs {
		out.Status = StatusSkipped
		return out, nil
	}
	in.found, in.paths = "", nil
	f := c.run(in, ctx)
	for i, at := range in.paths {
		if i == 0 {
			root, _, _ := strings.Cut(c.place, ".")
			out.Place = root + " " + at.String()
			continue
		}
		out.Place += ", " + at.String()
	}
	if f == nil {
		out.Found = in.found
		return out, nil
	}
	out.Status, out.Found, out.Remedy = StatusFailed, f.Error(), f.remedy
	return out, f
}

// verdictOf is what [inspection.run] would have said.
func verdictOf(failed []*fault) atlas.Code {
	expired := false
	for _, f := range failed {
		switch {
		case f.code == atlas.CodeTokenExpired:
			expired = true
		case f.code == atlas.CodeNoTenant && expired:
			return atlas.CodeTokenExpired
		case f.code != "":
			return f.code
		default:
			return atlas.CodeInvalidToken
		}
	}
	return atlas.CodeTokenExpired
}

// explainSending looks at how r carries the token.
func (v *Verifier) explainSending(in *inspection, scheme string, r *http.Request) Checked {
	out := Checked{Name: "sending", Place: "Authorization", Status: StatusFailed}
	values := r.Header["Authorization"]
	if scheme == "" && len(values) == 1 {
		_, scheme = bare(values[0])
	}
	switch dpop := strings.EqualFold(scheme, "DPoP"); {
	case strings.Contains(r.URL.RawQuery, "access_token"):
		out.Found, out.Remedy = "a token is in the query", "send it in the Authorization header only"
	case len(values) != 1:
		out.Found, out.Remedy = "there is not exactly one Authorization header", "send one"
	case !dpop && !strings.EqualFold(scheme, "Bearer"):
		out.Found, out.Remedy = "the scheme is neither Bearer nor DPoP", "write Authorization: Bearer, a space, and the token"
	case !dpop && in.jkt != "":
		out.Found, out.Remedy = "the token is bound to a key and sent as a bearer token", "write Authorization: DPoP, and send a proof in the DPoP header"
	case !dpop:
		out.Status, out.Found = StatusOK, "as a bearer token"
	case in.jkt == "":
		out.Found, out.Remedy = "the token is bound to no key", "write Authorization: Bearer"
	default:
		// With replays of its own: looking at a proof must not use it up.
		alone := *v.proofs
		alone.replays = newReplays(time.Minute, 1)
		if err := alone.check(r, in.token, in.jkt, in.p.Tenant, in.now); err != nil {
			out.Found, out.Remedy = err.Error(), "correct the DPoP proof"
			return out
		}
		out.Status, out.Found = StatusOK, "with a good DPoP proof"
	}
	return out
}

func (v *Verifier) seenBy(p *atlas.Principal) []string {
	if v.tools == nil {
		return nil
	}
	return v.tools(p)
}

func identity(p *atlas.Principal, jkt string) *Identity {
	return &Identity{
		Issuer: p.Issuer, Subject: p.Subject, Tenant: p.Tenant, Roles: p.Roles, Scopes: p.Scopes,
		Delegator: p.Delegator, TokenID: p.TokenID, Expires: p.Expiry, BoundTo: jkt,
	}
}

// An IssuerStatus is how one issuer does, seen from here.
type IssuerStatus struct {
	Issuer    string        `json:"issuer"`
	Source    string        `json:"source"`             // of its keys: "program", "jwks_url", "discovery" or "introspection"
	JWKSURL   string        `json:"jwks_url,omitempty"` // as configured or discovered
	Reachable bool          `json:"reachable"`          // just now
	Error     string        `json:"error,omitempty"`
	Keys      int           `json:"keys"`                   // in use
	Age       time.Duration `json:"age_ns,omitempty"`       // since the keys in use were read
	Usable    bool          `json:"usable"`                 // tokens of the issuer can be checked
	ClockSkew time.Duration `json:"clock_skew_ns"`          // how far the issuer's Date is ahead of this clock, to the second
	Skewed    bool          `json:"clock_skewed,omitempty"` // by more than clock_skew
	Tenants   []string      `json:"tenants"`                // that it may speak for; empty: every tenant
}

// Probe asks every issuer for its keys now and says how that went, sorted by issuer. It is for operators:
// unlike tokens, it is not held back by the pause between two questions.
func (v *Verifier) Probe(ctx context.Context) []IssuerStatus {
	out := make([]IssuerStatus, 0, len(v.names))
	for _, name := range v.names {
		out = append(out, v.issuers[name].probe(ctx, v.cfg.ClockSkew))
	}
	return out
}

func (t *trusted) probe(ctx context.Context, skew time.Duration) IssuerStatus {
	s := IssuerStatus{Issuer: t.Issuer.Issuer, Source: "introspection", Reachable: true, Usable: true, Tenants: t.tenants()}
	switch r := t.remote; {
	case r != nil:
		s.Source = "jwks_url"
		if r.issuer != "" {
			s.Source = "discovery"
		}
		if err := r.refetch(ctx); err != nil {
			s.Reachable, s.Error = false, err.Error()
		}
		if url := r.url.Load(); url != nil {
			s.JWKSURL = *url
		}
		if at := r.fetched.Load(); at != 0 {
			s.Age = time.Since(time.Unix(0, at)).Round(time.Second)
		}
		s.Usable = r.usable(time.Now())
		s.ClockSkew = time.Duration(r.skew.Load())
		s.Skewed = s.ClockSkew.Abs() > skew
	case t.store != nil:
		s.Source = "program"
	}
	if t.store != nil {
		keys, err := t.store.KeyReadAll(ctx)
		if err != nil {
			s.Usable, s.Error = false, err.Error()
		}
		s.Keys = len(keys)
	}
	return s
}
