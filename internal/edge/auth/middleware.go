package auth

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

// Middleware lets only requests with a good token through, with their [edge.Caller] in the context,
// and refuses the others with a challenge (RFC 6750 section 3, RFC 9449 section 7.1), which reports each. A
// token is taken from the Authorization header and from nowhere else.
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := v.fromRequest(w, r)
		if err != nil {
			v.refuse(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(edge.WithCaller(r.Context(), caller)))
	})
}

func (v *Verifier) refuse(w http.ResponseWriter, r *http.Request, err error) {
	e := atlas.ErrorOf(err)
	if r.ContentLength != 0 && r.ProtoMajor == 1 {
		// Else net/http reads the body before it answers, as slowly as a stranger likes to send it.
		w.Header().Set("Connection", "close")
	}
	if r.Context().Err() == nil {
		v.log.DebugContext(r.Context(), "token refused", "code", e.Code, "err", err)
	}
	if s := e.Info().HTTP; s == http.StatusUnauthorized || s == http.StatusForbidden {
		v.challenge.Refuse(w, r, e)
	} else {
		v.challenge.Report(r, e.Code, "")
		edge.WriteFailure(w, e)
	}
}

// fromRequest returns who sent r. It may add a DPoP nonce to the answer.
func (v *Verifier) fromRequest(w http.ResponseWriter, r *http.Request) (*edge.Caller, error) {
	// RFC 9700 section 2.1.2 forbids tokens in the query: it ends up in logs and histories. The raw
	// text is searched because Query drops what it cannot parse.
	if r.URL.RawQuery != "" && strings.Contains(r.URL.RawQuery, "access_token") {
		return nil, invalid(errors.New("token in the query"))
	}
	values := r.Header["Authorization"]
	if len(values) == 0 {
		return nil, atlas.Errorf(atlas.CodeMissingToken, nil, "")
	}
	if len(values) > 1 { // which one counts is anybody's guess
		return nil, invalid(errors.New("two Authorization headers"))
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	token = strings.Trim(token, " ")
	proven := v.challenge.DPoPAlgs != nil && strings.EqualFold(scheme, "DPoP")
	if token == "" || !proven && !strings.EqualFold(scheme, "Bearer") {
		return nil, atlas.Errorf(atlas.CodeMissingToken, nil, "")
	}
	remote := ""
	if len(v.dev) > 0 && !proven && edge.FromLoopback(r) {
		remote = r.RemoteAddr
	}
	e, err := v.accept(r.Context(), token, remote)
	switch {
	case err != nil:
		return nil, err
	case !proven && e.jkt != "": // stolen, or its client forgot half of it
		return nil, invalid(errBoundAsBearer)
	case !proven:
		return e.caller, nil
	case e.jkt == "":
		return nil, invalid(errors.New("the token is bound to no key and was sent with a DPoP proof"))
	}
	now := time.Now()
	failure := v.proofs.check(r, token, e.jkt, e.caller.Principal.Tenant, now)
	if v.proofs.nonces != nil {
		w.Header().Set("DPoP-Nonce", v.proofs.nonces.now(now))
	}
	if failure != nil {
		return nil, failure
	}
	return e.caller, nil
}
