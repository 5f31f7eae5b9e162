package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/admin"
)

// book is an approval service in memory.
type book struct {
	purged []string
	byID   map[string]atlas.Approval
	fail   error
}

func (b *book) find(tenant atlas.TenantID, id string) (atlas.Approval, error) {
	if b.fail != nil {
		return atlas.Approval{}, b.fail
	}
	a, ok := b.byID[id]
	if !ok || a.Tenant != tenant {
		return atlas.Approval{}, atlas.Errorf(atlas.CodeApprovalNotFound, nil, "")
	}
	return a, nil
}

func (b *book) List(_ context.Context, tenant atlas.TenantID, state atlas.ApprovalState) (out []atlas.Approval, err error) {
	for _, a := range b.byID {
		if a.Tenant == tenant && (state == "" || a.State == state) {
			out = append(out, a)
		}
	}
	return out, b.fail
}

func (b *book) Get(_ context.Context, tenant atlas.TenantID, id string) (atlas.Approval, error) {
	return b.find(tenant, id)
}

func (b *book) decide(p atlas.Principal, id, reason string, to atlas.ApprovalState) (atlas.Approval, error) {
	a, err := b.find(p.Tenant, id)
	switch {
	case err != nil:
		return a, err
	case a.Subject == p.Subject:
		return a, atlas.Errorf(atlas.CodeSelfApproval, nil, "")
	case a.State != atlas.ApprovalPending:
		return a, atlas.Errorf(atlas.CodeApprovalDecided, nil, "")
	}
	a.State, a.Approver, a.Reason = to, p.Subject, reason
	b.byID[id] = a
	return a, nil
}

func (b *book) Approve(_ context.Context, p atlas.Principal, id, reason string) (atlas.Approval, error) {
	return b.decide(p, id, reason, atlas.ApprovalApproved)
}

func (b *book) Deny(_ context.Context, p atlas.Principal, id, reason string) (atlas.Approval, error) {
	return b.decide(p, id, reason, atlas.ApprovalDenied)
}

// Purge notes what was asked for; the tool "away" cannot be purged.
func (b *book) Purge(_ context.Context, by *atlas.Principal, tenant atlas.TenantID, tool string) error {
	if tool == "away" {
		return errors.New("redis at 10.0.0.7 is away")
	}
	b.purged = append(b.purged, by.Subject+" "+string(tenant)+" "+tool)
	return nil
}

func newBook() *book {
	return &book{byID: map[string]atlas.Approval{
		"ap_1": {ID: "ap_1", Tenant: "acme", Subject: "ann", Tool: "files_put", State: atlas.ApprovalPending},
		"ap_2": {ID: "ap_2", Tenant: "acme", Subject: "ann", Tool: "files_put", State: atlas.ApprovalUsed},
		"ap_9": {ID: "ap_9", Tenant: "globex", Subject: "gil", Tool: "files_put", State: atlas.ApprovalPending},
	}}
}

func caller(subject string, scopes ...string) *edge.Caller {
	return &edge.Caller{Principal: &atlas.Principal{Subject: subject, Tenant: "acme", Scopes: scopes}, Tenant: "acme"}
}

func ask(t *testing.T, b *book, c *edge.Caller, method, path, body string, set func(*http.Request)) *httptest.ResponseRecorder {
	t.Helper()
	api, err := admin.New(admin.Deps{Approvals: b, Cache: b})
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(t.Context(), method, admin.Prefix+path, strings.NewReader(body))
	if method == http.MethodPost {
		r.Header.Set("Content-Type", "application/json")
	}
	if c != nil {
		r = r.WithContext(edge.WithCaller(r.Context(), c))
	}
	if set != nil {
		set(r)
	}
	w := httptest.NewRecorder()
	api.ServeHTTP(w, r)
	return w
}

func TestDecide(t *testing.T) {
	bob := caller("bob", atlas.ScopeApprove)
	b := newBook()
	w := ask(t, b, bob, http.MethodPost, "approvals/ap_1/approve", `{"reason":" looks right "}`, nil)
	var got atlas.Approval
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if got.State != atlas.ApprovalApproved || got.Approver != "bob" || got.Reason != "looks right" {
		t.Errorf("got %+v", got)
	}
	if w := ask(t, b, bob, http.MethodPost, "approvals/ap_1/deny", `{"reason":"no"}`, nil); w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), "approval_decided") {
		t.Errorf("second decision: %d %s", w.Code, w.Body)
	}
	if w := ask(t, newBook(), bob, http.MethodPost, "approvals/ap_1/approve", "", nil); w.Code != 200 {
		t.Errorf("no reason: %d %s", w.Code, w.Body)
	}
	if w := ask(t, newBook(), bob, http.MethodPost, "approvals/ap_1/deny", `{"reason":"no"}`, nil); w.Code != 200 || !strings.Contains(w.Body.String(), `"state":"denied"`) {
		t.Errorf("deny: %d %s", w.Code, w.Body)
	}
}

func TestRead(t *testing.T) {
	bob := caller("bob", atlas.ScopeApprove)
	for path, want := range map[string]string{
		"approvals?state=pending": `"ap_1"`,
		"approvals?state=used":    `"ap_2"`,
		"approvals?state=denied":  `{"approvals":[]}`,
		"approvals/ap_2":          `"id":"ap_2"`,
	} {
		w := ask(t, newBook(), bob, http.MethodGet, path, "", nil)
		if w.Code != 200 || !strings.Contains(w.Body.String(), want) || strings.Contains(w.Body.String(), "globex") || w.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestRefusals(t *testing.T) {
	bob := caller("bob", atlas.ScopeApprove)
	acting := caller("bob", atlas.ScopeApprove, atlas.ScopeImpersonate)
	acting.Tenant = "globex"
	set := func(k, v string) func(*http.Request) { return func(r *http.Request) { r.Header.Set(k, v) } }
	for _, tt := range []struct {
		name               string
		c                  *edge.Caller
		method, path, body string
		set                func(*http.Request)
		status             int
		code               string
	}{
		{"nobody", nil, http.MethodGet, "approvals", "", nil, 401, "missing_token"},
		{"without the scope", caller("bob", atlas.ScopeAdmin), http.MethodGet, "approvals", "", nil, 403, "not_authorized"},
		{"for another tenant", acting, http.MethodPost, "approvals/ap_9/approve", "", nil, 403, "tenant_mismatch"},
		{"one's own", caller("ann", atlas.ScopeApprove), http.MethodPost, "approvals/ap_1/approve", "", nil, 403, "self_approval"},
		{"state that is none", bob, http.MethodGet, "approvals?state=open", "", nil, 400, "invalid_arguments"},
		{"denial without a reason", bob, http.MethodPost, "approvals/ap_1/deny", `{"reason":"  "}`, nil, 400, "invalid_arguments"},
		{"long reason", bob, http.MethodPost, "approvals/ap_1/deny", `{"reason":"` + strings.Repeat("é", 1001) + `"}`, nil, 400, "invalid_arguments"},
		{"no JSON", bob, http.MethodPost, "approvals/ap_1/approve", `{`, nil, 400, "invalid_arguments"},
		{"two values", bob, http.MethodPost, "approvals/ap_1/approve", `{}{}`, nil, 400, "invalid_arguments"},
		{"misspelt key", bob, http.MethodPost, "approvals/ap_1/approve", `{"raeson":"x"}`, nil, 400, "invalid_arguments"},
		{"large body", bob, http.MethodPost, "approvals/ap_1/approve", `{"reason":"` + strings.Repeat("x", 20000) + `"}`, nil, 413, "too_large"},
		{"form of a web page", bob, http.MethodPost, "approvals/ap_1/approve", "", set("Content-Type", "application/x-www-form-urlencoded"), 415, "invalid_arguments"},
		{"text of a web page", bob, http.MethodPost, "approvals/ap_1/approve", "{}", set("Content-Type", "text/plain"), 415, "invalid_arguments"},
		{"deciding by GET", bob, http.MethodGet, "approvals/ap_1/approve", "", nil, 405, "invalid_arguments"},
		{"other method", bob, http.MethodDelete, "approvals/ap_1", "", nil, 405, "invalid_arguments"},
		{"other resource", bob, http.MethodGet, "tenants", "", nil, 404, "not_found"},
	} {
		b := newBook()
		w := ask(t, b, tt.c, tt.method, tt.path, tt.body, tt.set)
		if w.Code != tt.status || !strings.Contains(w.Body.String(), `"error":"`+tt.code+`"`) {
			t.Errorf("%s: %d %s", tt.name, w.Code, w.Body)
		}
		if b.byID["ap_1"].State != atlas.ApprovalPending || b.byID["ap_9"].State != atlas.ApprovalPending {
			t.Errorf("%s: decided", tt.name)
		}
		if challenge := w.Header().Get("WWW-Authenticate"); tt.code == "not_authorized" &&
			(!strings.Contains(challenge, `error="insufficient_scope"`) || !strings.Contains(challenge, `scope="`+atlas.ScopeApprove+`"`)) {
			t.Errorf("%s: challenge %s", tt.name, challenge)
		}
	}
}

// An approval of another tenant must be answered like one that does not exist, however one asks.
func TestForeignApprovalsLookUnknown(t *testing.T) {
	bob := caller("bob", atlas.ScopeApprove)
	for _, route := range []struct{ method, path, body string }{
		{http.MethodGet, "approvals/%s", ""},
		{http.MethodPost, "approvals/%s/approve", "{}"},
		{http.MethodPost, "approvals/%s/deny", `{"reason":"x"}`},
	} {
		answers := make(map[string]bool)
		for _, id := range []string{"ap_9", "ap_404", "ap%279", strings.Repeat("a", 200), "ap_9%00"} {
			w := ask(t, newBook(), bob, route.method, fmt.Sprintf(route.path, id), route.body, nil)
			var f map[string]any
			if err := json.Unmarshal(w.Body.Bytes(), &f); err != nil {
				t.Fatalf("%s: %s", id, w.Body)
			}
			delete(f, "request_id")
			answers[fmt.Sprint(w.Code, f)] = true
		}
		if len(answers) != 1 {
			t.Errorf("%s: answers differ: %v", route.path, answers)
		}
	}
}

func TestFailureOfTheServiceSaysNothing(t *testing.T) {
	b := newBook()
	b.fail = errors.New("disk I/O error in /var/lib/atlas/state.db")
	w := ask(t, b, caller("bob", atlas.ScopeApprove), http.MethodGet, "approvals", "", nil)
	if w.Code != 500 || strings.Contains(w.Body.String(), "state.db") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// What the API refuses by who asks is reported once, with who it was; what it answers otherwise is not.
func TestRefusalsAreReported(t *testing.T) {
	var got []edge.Refusal
	api, err := admin.New(admin.Deps{Approvals: newBook(), Cache: newBook(), Challenge: edge.Challenge{
		Refused: func(_ context.Context, r edge.Refusal) { got = append(got, r) },
	}})
	if err != nil {
		t.Fatal(err)
	}
	visitor := caller("ann", atlas.ScopeApprove, atlas.ScopeImpersonate)
	visitor.Tenant = "globex"
	for _, tt := range []struct {
		name, path string
		caller     *edge.Caller
		want       []edge.Refusal
	}{
		{"allowed", "approvals", caller("bob", atlas.ScopeApprove), nil},
		{"not there", "approvals/ap_9", caller("bob", atlas.ScopeApprove), nil},
		{"no scope", "approvals", caller("ann"), []edge.Refusal{{Code: atlas.CodeNotAuthorized, RemoteAddr: "192.0.2.1:1234"}}},
		{"for another tenant", "approvals", visitor, []edge.Refusal{{Code: atlas.CodeTenantMismatch, RemoteAddr: "192.0.2.1:1234", Requested: "globex"}}},
		{"nobody", "approvals", nil, []edge.Refusal{{Code: atlas.CodeMissingToken, RemoteAddr: "192.0.2.1:1234"}}},
	} {
		got = nil
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, admin.Prefix+tt.path, nil)
		if tt.caller != nil {
			r = r.WithContext(edge.WithCaller(r.Context(), tt.caller))
		}
		api.ServeHTTP(httptest.NewRecorder(), r)
		for i := range tt.want {
			tt.want[i].Caller = tt.caller
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s: reported (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestPurge(t *testing.T) {
	b := newBook()
	operator := caller("bob", atlas.ScopeAdmin)
	for body, want := range map[string]int{``: 200, `{"tool":"crm_order"}`: 200, `{"tool":"away"}`: 503, `{"tenant":"globex"}`: 400, `{"tool":"` + strings.Repeat("x", 200) + `"}`: 400} {
		if w := ask(t, b, operator, http.MethodPost, "cache/purge", body, nil); w.Code != want || strings.Contains(w.Body.String(), "10.0.0.7") {
			t.Errorf("%s: %d %s, want %d", body, w.Code, w.Body, want)
		}
	}
	slices.Sort(b.purged)
	if diff := cmp.Diff([]string{"bob acme ", "bob acme crm_order"}, b.purged); diff != "" {
		t.Error(diff)
	}
	for name, c := range map[string]*edge.Caller{
		"another scope": caller("bob", atlas.ScopeApprove), "nobody": nil,
		"a visitor": {Principal: &atlas.Principal{Subject: "bob", Tenant: "acme", Scopes: []string{atlas.ScopeAdmin, atlas.ScopeImpersonate}}, Tenant: "globex"},
	} {
		if w := ask(t, b, c, http.MethodPost, "cache/purge", "", nil); w.Code != 401 && w.Code != 403 {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if len(b.purged) != 2 {
		t.Errorf("purged %v", b.purged)
	}
}
