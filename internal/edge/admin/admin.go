// Package admin is the administrative HTTP API below /admin/v1: JSON over the same bearer tokens as
// the rest. It checks who may ask and translates; what an approval is and whether it may be decided
// is the approval service's.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

// Prefix is where the API is mounted.
const Prefix = "/admin/v1/"

const (
	maxBody   = 16 << 10
	maxID     = 128
	maxReason = 1000 // characters
)

// Approvals is what the API needs of the approval service. What belongs to another tenant is
// answered exactly like what does not exist, with approval_not_found.
type Approvals interface {
	// List returns the tenant's approvals in the given state, newest first; an empty state means all.
	List(ctx context.Context, tenant atlas.TenantID, state atlas.ApprovalState) ([]atlas.Approval, error)
	Get(ctx context.Context, tenant atlas.TenantID, id string) (atlas.Approval, error)
	// Approve and Deny decide a pending approval of decider's tenant: approval_decided if it is not
	// pending, self_approval if decider asked for it.
	Approve(ctx context.Context, decider atlas.Principal, id, reason string) (atlas.Approval, error)
	Deny(ctx context.Context, decider atlas.Principal, id, reason string) (atlas.Approval, error)
}

// A Cache forgets the tenant's cached answers of one tool, or of all if tool is empty, on all replicas.
type Cache interface {
	Purge(ctx context.Context, by *atlas.Principal, tenant atlas.TenantID, tool string) error
}

// Deps are what the program gives to the API.
type Deps struct {
	Approvals Approvals
	Cache     Cache
	Challenge edge.Challenge
	Log       *slog.Logger
}

// API is the administrative API. It is an [http.Handler] to be put behind the authentication and
// tenant middleware, at [Prefix]. It is immutable and safe for concurrent use.
type API struct {
	deps Deps
	mux  *http.ServeMux
}

// A route is one operation of the API. To add a resource, add its rows to routes.
type route struct {
	method, path string
	scope        string // that the caller must hold
	serve        func(*API, *http.Request, *atlas.Principal) (any, error)
}

var routes = []route{
	{http.MethodGet, "approvals", atlas.ScopeApprove, (*API).listApprovals},
	{http.MethodGet, "approvals/{id}", atlas.ScopeApprove, (*API).getApproval},
	{http.MethodPost, "approvals/{id}/approve", atlas.ScopeApprove, (*API).approve},
	{http.MethodPost, "approvals/{id}/deny", atlas.ScopeApprove, (*API).deny},
	{http.MethodPost, "cache/purge", atlas.ScopeAdmin, (*API).purge},
}

// New returns the API.
func New(deps Deps) (*API, error) {
	if deps.Approvals == nil || deps.Cache == nil {
		return nil, errors.New("admin: no approval service, or no cache")
	}
	if deps.Log == nil {
		deps.Log = slog.New(slog.DiscardHandler)
	}
	a := &API{deps: deps, mux: http.NewServeMux()}
	methods := make(map[string][]string)
	for _, rt := range routes {
		a.mux.Handle(rt.method+" "+Prefix+rt.path, a.handler(rt))
		methods[rt.path] = append(methods[rt.path], rt.method)
	}
	for path, allowed := range methods {
		a.mux.Handle(Prefix+path, methodNotAllowed(allowed))
	}
	a.mux.Handle("/", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		edge.WriteFailure(w, atlas.Errorf(atlas.CodeNotFound, nil, "no such resource"))
	}))
	return a, nil
}

func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

func methodNotAllowed(allowed []string) http.HandlerFunc {
	slices.Sort(allowed)
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		edge.WriteFailureStatus(w, atlas.Errorf(atlas.CodeInvalidArguments, nil, "the resource does not have this method"), http.StatusMethodNotAllowed)
	}
}

// handler does what all routes share: who asks, for which tenant, with which scope, in which form.
//
// There is no protection against cross-site requests to add: the API reads no cookie, and a browser
// neither adds an Authorization header by itself nor sends application/json across origins unasked.
func (a *API) handler(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := edge.CallerOf(r.Context())
		if c == nil {
			a.deps.Challenge.Refuse(w, r, atlas.Errorf(atlas.CodeMissingToken, nil, ""))
			return
		}
		if c.Tenant != c.Principal.Tenant { // the scopes of this API are for one's own tenant
			a.deps.Challenge.Report(r, atlas.CodeTenantMismatch, c.Tenant)
			edge.WriteFailure(w, atlas.Errorf(atlas.CodeTenantMismatch, nil, "administration is for one's own tenant only"))
			return
		}
		if !c.Principal.HasScope(rt.scope) {
			a.deps.Challenge.Refuse(w, r, atlas.Errorf(atlas.CodeNotAuthorized, nil, "the token lacks the scope that this needs"), rt.scope)
			return
		}
		if r.Method == http.MethodPost {
			if ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || ct != "application/json" {
				edge.WriteFailureStatus(w, atlas.Errorf(atlas.CodeInvalidArguments, nil, "send application/json"), http.StatusUnsupportedMediaType)
				return
			}
		}
		answer, err := rt.serve(a, r, c.Principal)
		if err != nil {
			e := atlas.ErrorOf(err)
			if e.Info().HTTP >= http.StatusInternalServerError {
				a.deps.Log.WarnContext(r.Context(), "administrative request failed", "route", rt.path, "code", e.Code, "err", err)
			}
			edge.WriteFailure(w, e)
			return
		}
		body, err := json.Marshal(answer)
		if err != nil {
			edge.WriteFailure(w, atlas.Errorf(atlas.CodeInternal, err, ""))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write(body) // the client may have gone
	})
}

// decode reads the request's body into v, which a body may leave empty.
func decode(r *http.Request, v any) error {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return atlas.Errorf(atlas.CodeTooLarge, nil, "the request is too large")
		}
		return atlas.Errorf(atlas.CodeInvalidArguments, err, "the request could not be read")
	}
	if len(body) == 0 {
		return nil
	}
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return atlas.Errorf(atlas.CodeInvalidArguments, err, "the body is not the JSON object that this expects")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return atlas.Errorf(atlas.CodeInvalidArguments, nil, "the body holds more than one JSON value")
	}
	return nil
}
