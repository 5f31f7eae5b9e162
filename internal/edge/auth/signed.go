package auth

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"

	"github.com/atlas-mcp/atlas"
)

// What is checked of a JWT before its claims are believed.

func (in *inspection) form(context.Context) *fault {
	if f := tooOdd(in.token); f != nil {
		return f
	}
	t, err := parseJWS(in.token)
	if err != nil {
		f := &fault{reason: "the token cannot be read", cause: err, remedy: "send the access token as it was issued, whole and once"}
		if errors.Is(err, errEncrypted) {
			f.remedy = "ask the issuer for a token for this server: some give encrypted ones where no audience or resource was asked for"
		}
		return f
	}
	in.jws, in.claims, in.known = t, t.claims, withClaims
	in.note("a signed JWT of %d bytes", len(in.token))
	return nil
}

// tooOdd refuses what no token of RFC 6750 section 2.1 can be.
func tooOdd(token string) *fault {
	if len(token) > maxToken {
		return faultf("ask the issuer for a smaller token, with fewer groups or claims", "it has %d bytes; at most %d are read", len(token), maxToken)
	}
	for i := range len(token) {
		c := token[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~+/=", c) >= 0) {
			return faultf("send the token alone, without quotes, spaces or line breaks", "it has the character %q at position %d", c, i+1)
		}
	}
	return nil
}

func (in *inspection) issuer(context.Context) *fault {
	iss, ok := in.claims["iss"].(string)
	if in.from = in.v.issuers[iss]; in.from == nil || !ok {
		return faultf("take a token of one of those, or add the issuer under auth.issuers with exactly this text",
			"iss is %s; this server accepts %s", show(in.claims["iss"]), strings.Join(in.v.names, ", "))
	}
	in.known = withIssuer
	in.p.Issuer = iss
	in.note("%s", iss)
	return nil
}

func (in *inspection) algorithm(context.Context) *fault {
	if !slices.Contains(in.v.cfg.Algorithms, in.jws.alg) || jwt.GetSigningMethod(in.jws.alg) == nil {
		return faultf("let the issuer sign access tokens with one of those", "alg is %s; this server accepts %s",
			show(in.jws.header["alg"]), strings.Join(in.v.cfg.Algorithms, ", "))
	}
	in.note("%s", in.jws.alg)
	return nil
}

func (in *inspection) typ(context.Context) *fault {
	if _, text := in.jws.header["typ"].(string); !text && in.jws.header["typ"] != nil ||
		!slices.ContainsFunc(in.from.Types, func(s string) bool { return strings.EqualFold(s, in.jws.typ) }) {
		return faultf("send the access token, not the ID token; if the issuer marks access tokens otherwise, list that under types of the issuer",
			"typ is %s; of this issuer %q are accepted", show(in.jws.header["typ"]), in.from.Types)
	}
	in.note("%s", show(in.jws.header["typ"]))
	return nil
}

func (in *inspection) critical(context.Context) *fault {
	if crit, ok := in.jws.header["crit"]; ok { // RFC 7515 section 4.1.11
		return faultf("take a token without crit", "crit names extensions that this server does not know: %s", show(crit))
	}
	in.note("none")
	return nil
}

// findKey looks the key up in the issuer's own set. The header's jwk, jku, x5c and x5u are not looked at: the
// signer of a token does not choose who vouches for it.
func (in *inspection) findKey(ctx context.Context) *fault {
	if in.from.keys == nil {
		return faultf("set jwks_url or discover for the issuer", "only opaque tokens of this issuer are accepted: its keys are not configured")
	}
	if in.jws.kid == "" || len(in.jws.kid) > 256 { // without one, any key of the set would do
		return faultf("let the issuer name its keys", "kid is %s", show(in.jws.header["kid"]))
	}
	key, err := in.from.keys.KeyfuncCtx(ctx)(&jwt.Token{Header: in.jws.header})
	if err != nil && !errors.Is(err, jwkset.ErrKeyNotFound) && !errors.Is(err, errNoKeys) {
		return &fault{
			reason: "the key " + show(in.jws.kid) + " of the issuer's set is not one for alg " + show(in.jws.header["alg"]), cause: err,
			remedy: "take a token of the issuer itself: it signs with the algorithm of its key",
		}
	}
	if err != nil {
		f := &fault{
			reason: "there is no key " + show(in.jws.kid) + " for " + in.jws.alg + " in the issuer's set", cause: err,
			remedy: "take a new token; if its key is new, wait ten seconds; if this goes on, compare jwks_url with the issuer's metadata",
		}
		if errors.Is(err, errNoKeys) { // the token may be good; 401 would make the client throw it away
			f.code, f.reason, f.remedy = atlas.CodeStateUnavailable, "the issuer's keys cannot be read", "see to it that this server reaches the issuer's key set"
		}
		return f
	}
	in.key, in.known = key, withKey
	in.note("%s", show(in.jws.kid))
	return nil
}

func (in *inspection) signature(context.Context) *fault {
	if err := in.jws.verify(in.key); err != nil {
		return &fault{reason: "the signature is not good", cause: err, remedy: "the token was changed, cut, or signed by another: take a new one"}
	}
	in.known = withProof
	in.note("good")
	return nil
}
