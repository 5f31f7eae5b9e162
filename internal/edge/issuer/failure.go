package issuer

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/atlas-mcp/atlas"
)

// An oauthError is a refusal as OAuth writes it (RFC 6749 section 5.2). It never says more than its
// reader may know; the cause is for the log.
type oauthError struct {
	code   string
	desc   string
	status int // default 400
	retry  time.Duration
	basic  bool // the client tried to authenticate with a header
	err    error
}

func refuse(code, desc string) *oauthError { return &oauthError{code: code, desc: desc} }

// failed is a fault of ours: the store cannot be reached, a key cannot be read.
func failed(err error) *oauthError {
	e := &oauthError{code: "server_error", desc: "something went wrong here; try again", status: http.StatusInternalServerError, err: err}
	if ae := atlas.ErrorOf(err); ae.Retryable() {
		e.code, e.status, e.retry = "temporarily_unavailable", http.StatusServiceUnavailable, time.Second
	}
	return e
}

func tooOften(wait time.Duration) *oauthError {
	return &oauthError{code: "temporarily_unavailable", desc: "too many requests; wait, then try again", status: http.StatusTooManyRequests, retry: wait}
}

// invalidGrant is the one answer to every code, refresh token or assertion that is not accepted.
func invalidGrant(cause error) *oauthError {
	return &oauthError{code: "invalid_grant", desc: "the grant is not valid: it is unknown, expired, revoked, used, or not yours", err: cause}
}

func (e *oauthError) write(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	if e.retry > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64((e.retry+time.Second-1)/time.Second), 10))
	}
	status := e.status
	if status == 0 {
		status = http.StatusBadRequest
	}
	if e.code == "invalid_client" {
		status = http.StatusUnauthorized
		if e.basic {
			h.Set("WWW-Authenticate", `Basic realm="atlas"`)
		}
	}
	w.WriteHeader(status)
	body, _ := json.Marshal(map[string]string{"error": e.code, "error_description": e.desc})
	_, _ = w.Write(body) // the client may have gone
}

func writeJSON(w http.ResponseWriter, status int, v any) *oauthError {
	body, err := json.Marshal(v)
	if err != nil {
		return failed(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may have gone
	return nil
}
