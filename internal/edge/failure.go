package edge

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A Challenge is how a refusal tells a client where to get a better token (RFC 6750 section 3,
// RFC 9728 section 5.1), and the program that it was given. The zero Challenge has the realm "atlas"
// and nothing else.
type Challenge struct {
	Realm       string
	MetadataURL string   // of the protected resource metadata
	Scopes      []string // that a client should ask for at first

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

// Refuse reports that r is refused, and writes err with the WWW-Authenticate header that its code
// calls for: missing_token has no error parameter (RFC 6750 section 3.1), not_authorized is
// insufficient_scope and names the scopes that are needed, all else is invalid_token.
func (c Challenge) Refuse(w http.ResponseWriter, r *http.Request, err *atlas.Error, scopes ...string) {
	c.Report(r, err.Code, "")
	w.Header().Set("WWW-Authenticate", c.header(err, scopes))
	WriteFailure(w, err)
}

func (c Challenge) header(err *atlas.Error, scopes []string) string {
	var b strings.Builder
	realm := c.Realm
	if realm == "" {
		realm = "atlas"
	}
	b.WriteString("Bearer realm=")
	quote(&b, realm)
	switch err.Code {
	case atlas.CodeMissingToken:
	case atlas.CodeNotAuthorized:
		param(&b, "error", "insufficient_scope")
		param(&b, "error_description", err.Failure("").Hint)
	default:
		param(&b, "error", "invalid_token")
		param(&b, "error_description", err.Failure("").Hint)
	}
	if len(scopes) == 0 {
		scopes = c.Scopes
	}
	if len(scopes) > 0 {
		param(&b, "scope", strings.Join(scopes, " "))
	}
	if c.MetadataURL != "" {
		param(&b, "resource_metadata", c.MetadataURL)
	}
	return b.String()
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
