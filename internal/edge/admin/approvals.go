package admin

import (
	"context"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
)

// states are the values of the query parameter state.
var states = map[string]atlas.ApprovalState{
	"":         "",
	"pending":  atlas.ApprovalPending,
	"approved": atlas.ApprovalApproved,
	"denied":   atlas.ApprovalDenied,
	"used":     atlas.ApprovalUsed,
	"expired":  atlas.ApprovalExpired,
}

type approvalList struct {
	Approvals []atlas.Approval `json:"approvals"`
}

func (a *API) listApprovals(r *http.Request, p *atlas.Principal) (any, error) {
	state, ok := states[r.URL.Query().Get("state")]
	if !ok {
		return nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "state is one of pending, approved, denied, used and expired")
	}
	list, err := a.deps.Approvals.List(r.Context(), p.Tenant, state)
	if err != nil {
		return nil, err
	}
	if list == nil {
		list = []atlas.Approval{}
	}
	return approvalList{list}, nil
}

func (a *API) getApproval(r *http.Request, p *atlas.Principal) (any, error) {
	id, err := approvalID(r)
	if err != nil {
		return nil, err
	}
	return a.deps.Approvals.Get(r.Context(), p.Tenant, id)
}

func (a *API) approve(r *http.Request, p *atlas.Principal) (any, error) {
	return decide(r, p, a.deps.Approvals.Approve, false)
}

func (a *API) deny(r *http.Request, p *atlas.Principal) (any, error) {
	return decide(r, p, a.deps.Approvals.Deny, true)
}

type decision func(ctx context.Context, decider atlas.Principal, id, reason string) (atlas.Approval, error)

// decide approves or denies. A denial needs a reason: whoever asked reads it.
func decide(r *http.Request, p *atlas.Principal, do decision, needReason bool) (any, error) {
	id, err := approvalID(r)
	if err != nil {
		return nil, err
	}
	var body struct {
		Reason string `json:"reason"`
	}
	if err := decode(r, &body); err != nil {
		return nil, err
	}
	reason := strings.TrimSpace(body.Reason)
	switch {
	case needReason && reason == "":
		return nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "a denial needs a reason")
	case !utf8.ValidString(reason) || utf8.RuneCountInString(reason) > maxReason:
		return nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "the reason is longer than 1000 characters")
	}
	// A decision that has begun is finished even if the client hangs up: half of one is no use.
	return do(context.WithoutCancel(r.Context()), *p, id, reason)
}

// approvalID returns the id of the path. What could not be an id is answered like one that is not
// known.
func approvalID(r *http.Request) (string, error) {
	id := r.PathValue("id")
	if id == "" || len(id) > maxID {
		return "", notFound()
	}
	for i := range len(id) {
		c := id[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return "", notFound()
		}
	}
	return id, nil
}

func notFound() error { return atlas.Errorf(atlas.CodeApprovalNotFound, nil, "") }

var _ http.Handler = (*API)(nil)
