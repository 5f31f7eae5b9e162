package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

// envelope is what the endpoint reads of a message before the SDK does.
type envelope struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params json.RawMessage `json:"params"`
}

// endpoint returns the handler of /mcp, to be put behind authentication.
//
// One stateless SDK handler serves both eras: the SDK tells them apart by the MCP-Protocol-Version
// header and, where a client forgot it, by the body, and refuses a message whose header and body
// disagree (SEP-2243, SEP-2575). Routing to a second handler is needed only for sessions.
func (s *Server) endpoint() http.Handler {
	h := sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return s.sdk }, &sdk.StreamableHTTPOptions{
		Stateless:                    true,
		JSONResponse:                 true,
		PropagateRequestCancellation: true,
		MaxRequestBodyBytes:          s.cfg.MaxBody,
		Logger:                       s.sdkLog(),
		// guard checks Host, for every route and with a list.
		DisableLocalhostProtection: true,
	})
	// RequireBearerToken is the only way to hand an identity to the SDK. Ours has verified the token;
	// this one reads what ours found.
	bridge := auth.RequireBearerToken(func(ctx context.Context, _ string, _ *http.Request) (*auth.TokenInfo, error) {
		id, _ := ctx.Value(identityContextKey{}).(*identity)
		if id == nil {
			return nil, auth.ErrInvalidToken
		}
		return &auth.TokenInfo{
			Scopes: id.caller.Principal.Scopes, Expiration: id.caller.Principal.Expiry, UserID: id.user,
			Extra: map[string]any{identityKey: id},
		}, nil
	}, &auth.RequireBearerTokenOptions{AllowMissingExpiration: true, ClockSkew: maxSkew})
	inner := keepAlive(bridge(h), s.cfg.KeepAlive, s.cfg.WriteTimeout)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serveMCP(w, r, inner) })
}

// maxSkew is above any clock skew of the verifier, which alone decides about expiry.
const maxSkew = time.Hour

type identityContextKey struct{}

func (s *Server) serveMCP(w http.ResponseWriter, r *http.Request, inner http.Handler) {
	caller := edge.CallerOf(r.Context())
	if caller == nil {
		edge.WriteFailure(w, atlas.Errorf(atlas.CodeMissingToken, nil, ""))
		return
	}
	if r.Method != http.MethodPost {
		notAllowed(w, http.MethodPost)
		return
	}
	if ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || ct != "application/json" {
		edge.WriteFailureStatus(w, atlas.Errorf(atlas.CodeInvalidArguments, nil, "send application/json"), http.StatusUnsupportedMediaType)
		return
	}
	body, msg, ok := s.readMessage(w, r)
	if !ok {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.ContentLength = int64(len(body))

	id := newIdentity(caller, "http")
	if r.Header.Get("MCP-Protocol-Version") < firstModern {
		done := s.legacy(r.Context(), id, msg)
		defer done()
	}
	inner.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), identityContextKey{}, id)))
}

// readMessage reads the body: one JSON-RPC message within the limit. If it is not, it answers and
// returns false. That also bounds the depth of nesting, which the SDK's decoder does not.
func (s *Server) readMessage(w http.ResponseWriter, r *http.Request) (body []byte, msg envelope, ok bool) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
			refuseSize(w, s.cfg.MaxBody)
			return nil, msg, false
		}
		edge.WriteFailure(w, atlas.Errorf(atlas.CodeInvalidArguments, err, "the request could not be read"))
		return nil, msg, false
	}
	// From here on only the call takes time. A read deadline that passed would look like a client
	// that has gone.
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // not all writers can
	first := bytes.TrimLeft(body, " \t\r\n")
	switch {
	case !json.Valid(body):
		writeRPCError(w, nil, jsonrpc.CodeParseError, "Parse error")
	case first[0] == '[':
		// Removed in 2025-06-18. A batch would be many calls under one request's limits.
		writeRPCError(w, nil, jsonrpc.CodeInvalidRequest, "Batches are not supported; send one message per request")
	case first[0] != '{' || json.Unmarshal(body, &msg) != nil:
		writeRPCError(w, nil, jsonrpc.CodeInvalidRequest, "Invalid request")
	default:
		return body, msg, true
	}
	return nil, msg, false
}

func writeRPCError(w http.ResponseWriter, id json.RawMessage, code int, message string) {
	if id == nil {
		id = null
	}
	body, err := json.Marshal(map[string]any{
		"jsonrpc": "2.0", "id": id, "error": map[string]any{"code": code, "message": message},
	})
	if err != nil {
		body = nil // an id that came from valid JSON is valid JSON
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	_, _ = w.Write(body) // the client may have gone
}

// legacy does for a message of an era with sessions what the SDK's stateless handler does not: it
// lets the call end when the client disconnects or cancels. The function that it returns must be
// called when the message is answered.
func (s *Server) legacy(ctx context.Context, id *identity, msg envelope) func() {
	switch msg.Method {
	case "notifications/cancelled":
		var p struct {
			RequestID json.RawMessage `json:"requestId"`
		}
		if json.Unmarshal(msg.Params, &p) == nil {
			s.calls.cancel(callKey{id.user, requestKey(p.RequestID)})
		}
		return func() {}
	case "tools/call", "tools/list":
	default:
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	id.gone = ctx
	leave := s.calls.enter(callKey{id.user, requestKey(msg.ID)}, cancel)
	return func() { leave(); cancel() }
}

// requestKey returns the canonical form of a JSON-RPC id: a string or a number.
func requestKey(id json.RawMessage) string {
	var text string
	if json.Unmarshal(id, &text) == nil {
		return strconv.Quote(text)
	}
	return string(bytes.TrimSpace(id))
}

// inflight finds the running call that a cancellation of the older era means. That comes in a
// request of its own, without a session, so the caller and the JSON-RPC id must do. If one caller
// has two clients that both have a call of that id running, nothing is cancelled: a call too many
// is better than a wrong answer for the other.
type inflight struct {
	mu      sync.Mutex // guards running
	running map[callKey]map[*inflightCall]struct{}
}

type callKey struct{ user, id string }

type inflightCall struct{ cancel context.CancelFunc }

// enter adds a call, which stays until the function that enter returns is called.
func (f *inflight) enter(k callKey, cancel context.CancelFunc) (leave func()) {
	c := &inflightCall{cancel}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.running[k] == nil {
		f.running[k] = make(map[*inflightCall]struct{}, 1)
	}
	f.running[k][c] = struct{}{}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if delete(f.running[k], c); len(f.running[k]) == 0 {
			delete(f.running, k)
		}
	}
}

func (f *inflight) cancel(k callKey) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.running[k]) == 1 {
		for c := range f.running[k] {
			c.cancel()
		}
	}
}
