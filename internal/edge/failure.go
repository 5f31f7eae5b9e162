package edge

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A Challenge is how a refusal tells a client where to get a better token (RFC 6750 section 3,
// RFC 9728 section 5.1, RFC 9449 section 7.1), and the program that it was given. The zero Challenge has the realm "atlas"
// and nothing else.
type Challenge struct {
	Realm       string
	MetadataURL string   // of the protected resource metadata
	Scopes      []string // that a client should ask for at first

	DPoPAlgs []string // algorithms of DPoP proofs (RFC 9449 section 7.1); none: DPoP is not offered
	DPoPOnly bool     // bearer tokens are not accepted

	// Refused is told of each request that is refused before the pipeline, just before the client
	// is. It must be safe for concurrent use and soon return. Its context does not end with the
	// request. It may be nil.
	Refused func(ctx context.Context, r Refusal)
}

// failureBody is the JSON of a refusal over HTTP: a Failure, and its code under "error" too, where
// OAuth clients look for it.
type failureBody struct {
	Error atlas.Code `json:"error"`
	atlas.Failure
}

// WriteFailure answers with err as JSON and the status of its code. Failures that a retry may mend
// say when in Retry-After.
func WriteFailure(w http.ResponseWriter, err *atlas.Error) {
	WriteFailureStatus(w, err, err.Info().HTTP)
}

// WriteFailureStatus is [WriteFailure] with another status, for the few refusals that HTTP has a
// status of its own for, such as 405.
func WriteFailureStatus(w http.ResponseWriter, err *atlas.Error, status int) {
	f := err.Failure(NewRequestID())
	body, merr := json.Marshal(failureBody{Error: f.Code, Failure: f})
	if merr != nil { // a context value that is no JSON
		f.Context = nil
		body, _ = json.Marshal(failureBody{Error: f.Code, Failure: f})
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	if err.RetryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((err.RetryAfter+time.Second-1)/time.Second), 10))
	}
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may have gone
}

// The error codes of DPoP proofs (RFC 9449 sections 7.1 and 9).
const (
	InvalidProof = "invalid_dpop_proof"
	UseNonce     = "use_dpop_nonce"
)

// A ProofError is the cause of a refusal whose token may be good, and whose DPoP proof is not.
type ProofError struct {
	Code string // InvalidProof or UseNonce
	Err  error  // for operators
}

// Error returns code and cause.
func (e *ProofError) Error() string { return e.Code + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *ProofError) Unwrap() error { return e.Err }

// Refuse reports that r is refused, and writes err with the WWW-Authenticate header of
// [Challenge.Header] and the status of its code.
func (c Challenge) Refuse(w http.ResponseWriter, r *http.Request, err *atlas.Error, scopes ...string) {
	c.Report(r, err.Code, "")
	w.Header().Set("WWW-Authenticate", c.Header(err, scopes...))
	WriteFailure(w, err)
}

// Header returns the value of WWW-Authenticate for a refusal: one challenge for each scheme that is
// offered, Bearer first. missing_token has no error parameter (RFC 6750 section 3.1); insufficient_scope and
// not_authorized are insufficient_scope; all else is invalid_token. The scopes are all that the operation
// needs; without them those of the context field "scopes" count, and then those that a client should ask for
// at first. It does not write a status: where HTTP has one, it is that of the code.
func (c Challenge) Header(err *atlas.Error, scopes ...string) string {
	if len(scopes) == 0 {
		scopes, _ = err.Context["scopes"].([]string)
	}
	if len(scopes) == 0 {
		scopes = c.Scopes
	}
	code := "invalid_token"
	switch err.Code {
	case atlas.CodeMissingToken:
		code = ""
	case atlas.CodeNotAuthorized, atlas.CodeInsufficientScope:
		code = "insufficient_scope"
	default:
	}
	// A bad proof is no reason to look for another bearer token.
	proof, ofProof := errors.AsType[*ProofError](err)
	var b strings.Builder
	if !c.DPoPOnly {
		if ofProof {
			c.write(&b, "Bearer", "", "", scopes)
		} else {
			c.write(&b, "Bearer", code, err.Failure("").Hint, scopes)
		}
	}
	if len(c.DPoPAlgs) > 0 {
		if ofProof {
			code = proof.Code
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		c.write(&b, "DPoP", code, err.Failure("").Hint, scopes)
		param(&b, "algs", strings.Join(c.DPoPAlgs, " "))
	}
	return b.String()
}

func (c Challenge) write(b *strings.Builder, scheme, code, description string, scopes []string) {
	realm := c.Realm
	if realm == "" {
		realm = "atlas"
	}
	b.WriteString(scheme)
	b.WriteString(" realm=")
	quote(b, realm)
	if code != "" {
		param(b, "error", code)
		param(b, "error_description", description)
	}
	if len(scopes) > 0 {
		param(b, "scope", strings.Join(scopes, " "))
	}
	if c.MetadataURL != "" {
		param(b, "resource_metadata", c.MetadataURL)
	}
}

func param(b *strings.Builder, name, value string) {
	b.WriteString(", ")
	b.WriteString(name)
	b.WriteByte('=')
	quote(b, value)
}

// quote writes a quoted-string (RFC 9110 section 5.6.4), dropping what a header cannot hold.
func quote(b *strings.Builder, s string) {
	b.WriteByte('"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case c >= 0x20 && c < 0x7f:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
}
