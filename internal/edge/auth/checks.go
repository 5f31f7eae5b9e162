package auth

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A check is one question asked of a token. The same rows verify tokens and explain them, so that what
// the debugger says is what the server does.
type check struct {
	name  string // stable, for programs
	place string // what of the token is looked at
	needs stage
	run   func(*inspection, context.Context) *fault
}

// A stage is how much of a token must be known before a check makes sense.
type stage uint8

const (
	atFirst    stage = iota
	withClaims       // the token could be read
	withIssuer       // and its issuer is known
	withKey          // and so is its key
	withProof        // and its signature is good
)

// jwtChecks are all that a JWT must pass, in the order in which they are asked: nothing of the claims but
// iss is believed before the signature is good.
var jwtChecks = []check{
	{"form", "token", atFirst, (*inspection).form},
	{"issuer", "claims.iss", withClaims, (*inspection).issuer},
	{"algorithm", "header.alg", withIssuer, (*inspection).algorithm},
	{"type", "header.typ", withIssuer, (*inspection).typ},
	{"critical", "header.crit", withClaims, (*inspection).critical},
	{"key", "header.kid", withIssuer, (*inspection).findKey},
	{"signature", "signature", withKey, (*inspection).signature},
	{"audience", "claims.aud", withIssuer, (*inspection).audience},
	{"expiry", "claims.exp", withClaims, (*inspection).expiry},
	{"not_before", "claims.nbf", withClaims, (*inspection).notBefore},
	{"issued_at", "claims.iat", withClaims, (*inspection).issuedAt},
	{"kind", "claims", withIssuer, (*inspection).kind},
	{"subject", "claims.sub", withIssuer, (*inspection).subject},
	{"token_id", "claims.jti", withIssuer, (*inspection).tokenID},
	{"delegation", "claims.act", withClaims, (*inspection).delegation},
	{"binding", "claims.cnf", withIssuer, (*inspection).binding},
	{"tenant", "claims.tenant", withIssuer, (*inspection).tenant},
	{"roles", "claims.roles", withIssuer, (*inspection).roles},
	{"scopes", "claims.scope", withIssuer, (*inspection).scopes},
	{"introspection", "issuer", withProof, (*inspection).confirm},
	{"revocation", "claims.jti", withIssuer, (*inspection).revocation},
}

// opaqueChecks are all that the issuer's answer about an opaque token must pass.
var opaqueChecks = []check{
	{"introspection", "issuer", atFirst, (*inspection).introspect},
	{"issuer", "answer.iss", withIssuer, (*inspection).answerIssuer},
	{"audience", "answer.aud", withIssuer, (*inspection).audience},
	{"expiry", "answer.exp", withClaims, (*inspection).expiry},
	{"not_before", "answer.nbf", withClaims, (*inspection).notBefore},
	{"kind", "answer", withIssuer, (*inspection).required},
	{"subject", "answer.sub", withIssuer, (*inspection).subject},
	{"token_id", "answer.jti", withIssuer, (*inspection).answerID},
	{"delegation", "answer.act", withClaims, (*inspection).delegation},
	{"binding", "answer.cnf", withIssuer, (*inspection).binding},
	{"tenant", "answer.tenant", withIssuer, (*inspection).tenant},
	{"roles", "answer.roles", withIssuer, (*inspection).roles},
	{"scopes", "answer.scope", withIssuer, (*inspection).scopes},
	{"revocation", "answer.jti", withIssuer, (*inspection).revocation},
}

// maxActors bounds the chain of delegation (RFC 8693 section 4.1).
const maxActors = 5

// A fault is why a token is not accepted: for operators, and for whoever debugs the token. Callers are
// told its code only.
type fault struct {
	code   atlas.Code // "" means invalid_token
	reason string
	remedy string
	cause  error // may be nil
}

func (f *fault) Error() string {
	if f.cause != nil {
		return f.reason + ": " + f.cause.Error()
	}
	return f.reason
}

func (f *fault) Unwrap() error { return f.cause }

func faultf(remedy, format string, args ...any) *fault {
	return &fault{reason: fmt.Sprintf(format, args...), remedy: remedy}
}

// An inspection is one token on its way through the checks.
type inspection struct {
	v     *Verifier
	token string
	sum   [32]byte
	now   time.Time

	known  stage
	jws    *jws // nil for an opaque token
	claims map[string]any
	from   *trusted
	key    any

	p   atlas.Principal
	jkt string // thumbprint of the key that the token is bound to, or ""

	notes bool   // whether note and look keep anything
	found string // what the running check found, for people
	paths []path // where it looked, if the issuer's settings say so
}

// look tells where the running check looks.
func (in *inspection) look(at ...path) {
	if in.notes {
		in.paths = at
	}
}

func (in *inspection) note(format string, args ...any) {
	if in.notes {
		in.found = fmt.Sprintf(format, args...)
	}
}

// checks returns those that the token's form calls for.
func (in *inspection) checks() []check {
	if looksOpaque(in.token) {
		return opaqueChecks
	}
	return jwtChecks
}

// looksOpaque reports whether a token is certainly no JWT, whose header begins with {" in base64url. What
// only resembles a JWT is refused here and not shown to an issuer.
func looksOpaque(token string) bool { return !strings.HasPrefix(token, "ey") }

// run asks the checks until one fails. That a token has expired is told only if nothing else is wrong
// with it: it was once good here.
func (in *inspection) run(ctx context.Context) *fault {
	var expired *fault
	for _, c := range in.checks() {
		f := c.run(in, ctx)
		switch {
		case f == nil:
		case f.code == atlas.CodeTokenExpired:
			expired = f
		case f.code == atlas.CodeNoTenant && expired != nil:
			return expired
		default:
			return f
		}
	}
	return expired
}

func (in *inspection) audience(context.Context) *fault {
	var aud []string
	ok := true
	switch a := in.claims["aud"].(type) {
	case string:
		aud = []string{a}
	case []any:
		for _, e := range a {
			s, text := e.(string)
			ok = ok && text
			aud = append(aud, s)
		}
	}
	if !ok || !slices.ContainsFunc(aud, func(a string) bool { return slices.Contains(in.from.Audience, a) }) {
		return faultf("ask the issuer for a token for this server: resource="+in.from.Audience[0]+" (or audience=, as the issuer calls it)",
			"aud is %s; this server is %s", show(in.claims["aud"]), strings.Join(in.from.Audience, " or "))
	}
	in.note("%s", show(in.claims["aud"]))
	return nil
}

func (in *inspection) expiry(context.Context) *fault {
	exp, ok, err := numericDate(in.claims["exp"])
	if !ok || err != nil {
		return faultf("let the issuer set exp", "exp is %s", show(in.claims["exp"]))
	}
	in.p.Expiry = exp
	if !in.now.Before(exp.Add(in.v.cfg.ClockSkew)) {
		return &fault{
			code: atlas.CodeTokenExpired, remedy: "get a new token",
			reason: fmt.Sprintf("it expired %s ago, at %s", span(in.now.Sub(exp)), stamp(exp)),
		}
	}
	in.note("%s, in %s", stamp(exp), span(exp.Sub(in.now)))
	return nil
}

func (in *inspection) notBefore(context.Context) *fault { return in.notAhead("nbf", false) }

func (in *inspection) issuedAt(context.Context) *fault { return in.notAhead("iat", true) }

func (in *inspection) notAhead(name string, required bool) *fault {
	at, ok, err := numericDate(in.claims[name])
	if err != nil || required && !ok {
		return faultf("let the issuer set "+name, "%s is %s", name, show(in.claims[name]))
	}
	if at.After(in.now.Add(in.v.cfg.ClockSkew)) {
		return faultf("set the clocks: either the issuer's or this server's is wrong", "%s lies %s ahead, at %s", name, span(at.Sub(in.now)), stamp(at))
	}
	if ok {
		in.note("%s, %s ago", stamp(at), span(in.now.Sub(at)))
	} else {
		in.note("none")
	}
	return nil
}

// strangers are claims that only other kinds of JWT have: ID tokens (OpenID Connect Core section 3.1.3.6
// and 3.3.2.11) and security events, such as logout tokens (RFC 8417). They matter where the header does not
// say what a token is.
var strangers = []string{"at_hash", "c_hash", "s_hash", "events"}

func (in *inspection) kind(ctx context.Context) *fault {
	for _, name := range strangers {
		if _, ok := in.claims[name]; ok && in.jws.typ != "at+jwt" {
			return faultf("send the access token", "%s says that it is no access token", name)
		}
	}
	return in.required(ctx)
}

func (in *inspection) required(context.Context) *fault {
	for _, r := range in.from.require {
		got := r.at.in(in.claims)
		if s, ok := scalar(got); !ok || s != r.want {
			return faultf("send the access token that the issuer made for this server", "%s is %s; of this issuer %q is required", r.at, show(got), r.want)
		}
	}
	in.note("an access token")
	return nil
}

func (in *inspection) subject(context.Context) *fault {
	in.look(in.from.subject)
	sub, _ := in.from.subject.in(in.claims).(string)
	if sub == "" || len(sub) > 256 {
		return faultf("let the issuer set it, or name another claim under claims.subject", "%s is %s", in.from.subject, show(in.from.subject.in(in.claims)))
	}
	in.p.Subject = sub
	in.note("%s", show(sub))
	return nil
}

func (in *inspection) tokenID(ctx context.Context) *fault {
	if jti, _ := in.claims["jti"].(string); jti == "" && in.from.requireJTI {
		return faultf("let the issuer set jti, or set require_jti: false for it", "jti is %s", show(in.claims["jti"]))
	}
	return in.answerID(ctx)
}

// answerID names the token by its jti, or by its hash, which is no secret.
func (in *inspection) answerID(context.Context) *fault {
	jti, _ := in.claims["jti"].(string)
	if len(jti) > 256 {
		return faultf("let the issuer set a shorter one", "jti has %d bytes", len(jti))
	}
	if jti == "" {
		jti = "sha256:" + hex.EncodeToString(in.sum[:16])
	}
	in.p.TokenID = jti
	in.note("%s", show(jti))
	return nil
}

// delegation reads the current actor: the outermost act (RFC 8693 section 4.1). A chain that is malformed
// is refused, because a delegated caller may do less than the subject. may_act says who could have been
// let act, which is the issuer's business.
func (in *inspection) delegation(context.Context) *fault {
	act, ok := in.claims["act"]
	if !ok {
		in.note("none")
		return nil
	}
	var chain []string
	for ; act != nil || len(chain) == 0; act = act.(map[string]any)["act"] {
		m, object := act.(map[string]any)
		sub, _ := m["sub"].(string)
		if !object || sub == "" || len(sub) > 256 {
			return faultf("let the issuer name every actor by sub", "act is %s", show(in.claims["act"]))
		}
		if chain = append(chain, sub); len(chain) > maxActors {
			return faultf("exchange the token less often", "act names more than %d actors", maxActors)
		}
	}
	in.p.Delegator = chain[0]
	in.note("%s", strings.Join(chain, " for "))
	return nil
}

// revocation asks the program. A cached token is asked about again with every request.
func (in *inspection) revocation(context.Context) *fault {
	if in.v.revoked(in.p.Issuer, in.p.TokenID) {
		return faultf("get a new token", "it was revoked")
	}
	in.note("not revoked here")
	return nil
}

// scalar returns a claim that is one text, number or truth value as text.
func scalar(claim any) (string, bool) {
	switch c := claim.(type) {
	case string:
		return c, true
	case json.Number:
		return c.String(), true
	case bool:
		return strconv.FormatBool(c), true
	}
	return "", false
}

// show writes a claim for people, shortened.
func show(claim any) string {
	if claim == nil {
		return "missing"
	}
	raw, err := json.Marshal(claim)
	if err != nil {
		return "odd"
	}
	const most = 200
	if len(raw) > most {
		return strings.ToValidUTF8(string(raw[:most]), "") + "…"
	}
	return string(raw)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func span(d time.Duration) string { return d.Round(time.Second).String() }
