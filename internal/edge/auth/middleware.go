package auth

import (
	"errors"
	"net/http"
	"strings"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

// Middleware lets only requests with a good token through, with their [edge.Caller] in the context,
// and refuses the others with a challenge (RFC 6750 section 3), which reports each. A token is taken from the
// Authorization header and from nowhere else.
func (v *Verifier) Middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p, err := v.fromRequest(r)
		if err != nil {
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
			return
		}
		ctx := edge.WithCaller(r.Context(), &edge.Caller{Principal: p, Tenant: p.Tenant})
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func (v *Verifier) fromRequest(r *http.Request) (*atlas.Principal, error) {
	// RFC 9700 section 2.1.2 forbids tokens in the query: it ends up in logs and histories. The raw
	// text is searched because Query drops what it cannot parse.
	if strings.Contains(r.URL.RawQuery, "access_token") {
		return nil, invalid(errors.New("token in the query"))
	}
	values := r.Header.Values("Authorization")
	if len(values) == 0 {
		return nil, atlas.Errorf(atlas.CodeMissingToken, nil, "")
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	token = strings.TrimSpace(token)
	switch {
	case len(values) > 1: // which one counts is anybody's guess
		return nil, invalid(errors.New("two Authorization headers"))
	case !strings.EqualFold(scheme, "Bearer") || token == "":
		return nil, atlas.Errorf(atlas.CodeMissingToken, nil, "")
	}
	remote := ""
	if edge.FromLoopback(r) {
		remote = r.RemoteAddr
	}
	return v.Verify(r.Context(), token, remote)
}
