package atlas_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
)

func TestChainRunsOutermostFirst(t *testing.T) {
	var order []string
	note := func(name string) atlas.Stage {
		return func(next atlas.Handler) atlas.Handler {
			return func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
				order = append(order, name+" in")
				defer func() { order = append(order, name+" out") }()
				return next(ctx, c)
			}
		}
	}
	h := atlas.Chain(note("a"), note("b"))(func(context.Context, atlas.Call) (atlas.Result, error) {
		order = append(order, "tool")
		return atlas.Result{}, nil
	})
	if _, err := h(t.Context(), atlas.Call{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a in", "b in", "tool", "b out", "a out"}, order); diff != "" {
		t.Error(diff)
	}
}

func TestChildCarriesWhoAndForWhom(t *testing.T) {
	p := &atlas.Principal{Subject: "s", Tenant: "acme"}
	parent := atlas.Call{
		ID: "req_1", Name: "outer", Principal: p, Tenant: "acme", TraceParent: "00-x", IdempotencyKey: "k",
		Budget: atlas.Budget{Total: time.Second}, Args: atlas.Args{Values: map[string]any{"x": 1}},
	}
	child := parent.Child("req_2", "inner", json.RawMessage(`{}`))
	if child.Principal != p || child.Tenant != "acme" || child.TraceParent != "00-x" || child.Budget.Total != time.Second {
		t.Errorf("child lost who asks: %+v", child)
	}
	if child.IdempotencyKey == parent.IdempotencyKey {
		t.Error("two children with the parent's idempotency key would answer for each other")
	}
	other := parent.Child("req_4", "inner", json.RawMessage(`{"x":2}`))
	if again := parent.Child("req_5", "inner", json.RawMessage(`{}`)); again.IdempotencyKey != child.IdempotencyKey || other.IdempotencyKey == child.IdempotencyKey {
		t.Error("a child's key must follow its arguments")
	}
	if child.Args.Values != nil || child.Tool != nil {
		t.Error("child carries what the parent's stages worked out")
	}
	if got := child.Child("req_3", "innermost", nil).Parent.Depth; got != 2 {
		t.Errorf("depth %d, want 2", got)
	}
}

func TestParseTenantID(t *testing.T) {
	for _, ok := range []string{"acme", "a", "0x", "a-b_c", strings.Repeat("a", 63)} {
		if _, err := atlas.ParseTenantID(ok); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
	for _, bad := range []string{"", "Acme", "-a", "_a", "a/b", "a.b", "..", "a b", "a\x00", "acmé", "a'b", strings.Repeat("a", 64)} {
		if _, err := atlas.ParseTenantID(bad); err == nil {
			t.Errorf("%q passed", bad)
		}
	}
}

func TestHasScope(t *testing.T) {
	p := &atlas.Principal{Scopes: []string{atlas.ScopeAdmin}}
	if !p.HasScope("tool:crm:read") {
		t.Error("the admin scope holds every tool scope")
	}
	if p.HasScope(atlas.ScopeApprove) || p.HasScope(atlas.ScopeImpersonate) {
		t.Error("the admin scope of tools must hold no other scope")
	}
	if (&atlas.Principal{}).HasScopes([]string{"tool:crm:read"}) {
		t.Error("no scopes held one")
	}
}

func TestEveryCodeIsComplete(t *testing.T) {
	form := regexp.MustCompile(`^[a-z_]+$`)
	for code, info := range atlas.Codes {
		if !form.MatchString(string(code)) || info.Category == "" || info.Hint == "" || info.Doc == "" {
			t.Errorf("%s: incomplete row %+v", code, info)
		}
		if info.HTTP != 499 && http.StatusText(info.HTTP) == "" {
			t.Errorf("%s: odd status %d", code, info.HTTP)
		}
		if len(info.Actions) == 0 && code != atlas.CodeCanceled {
			t.Errorf("%s suggests nothing to do", code)
		}
	}
}

func TestFailureShowsNoCause(t *testing.T) {
	secret := "dial tcp db.internal:5432: password authentication failed"
	err := fmt.Errorf("query: %w", atlas.Errorf(atlas.CodeSourceUnavailable, errors.New(secret), ""))
	f := atlas.ErrorOf(err).Failure("req_1")
	data, jerr := json.Marshal(f)
	if jerr != nil {
		t.Fatal(jerr)
	}
	if strings.Contains(string(data), "db.internal") {
		t.Errorf("cause crossed over: %s", data)
	}
	if f.Hint == "" || !f.Retryable || f.Category != atlas.UpstreamFailure || f.RequestID != "req_1" {
		t.Errorf("got %+v", f)
	}
}

func TestErrorOf(t *testing.T) {
	for _, test := range []struct {
		err  error
		want atlas.Code
	}{
		{nil, ""},
		{errors.New("x"), atlas.CodeInternal},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), atlas.CodeTimeout},
		{fmt.Errorf("x: %w", context.Canceled), atlas.CodeCanceled},
		{fmt.Errorf("x: %w", &atlas.Error{Code: atlas.CodeNotFound, Err: context.Canceled}), atlas.CodeNotFound},
	} {
		if got := atlas.CodeOf(test.err); got != test.want {
			t.Errorf("%v: got %q, want %q", test.err, got, test.want)
		}
	}
	if got := (&atlas.Error{Code: "made_up", Hint: "x"}).Failure("r"); got.Code != atlas.CodeInternal || got.Hint == "x" {
		t.Errorf("a code without a row must not cross over: %+v", got)
	}
}

func TestRetryAfterRoundsUp(t *testing.T) {
	f := (&atlas.Error{Code: atlas.CodeRateLimited, RetryAfter: 1500 * time.Microsecond}).Failure("r")
	if f.RetryAfterMS != 2 {
		t.Errorf("got %d ms; a client that comes back too early is refused again", f.RetryAfterMS)
	}
}

func TestWithCopies(t *testing.T) {
	a := atlas.Errorf(atlas.CodeNotFound, nil, "x").With("k", 1)
	b := a.With("l", 2)
	if len(a.Context) != 1 || len(b.Context) != 2 {
		t.Errorf("With changed its receiver: %v %v", a.Context, b.Context)
	}
	if !errors.Is(b, &atlas.Error{Code: atlas.CodeNotFound}) || errors.Is(b, &atlas.Error{Code: atlas.CodeTimeout}) {
		t.Error("Is does not compare codes")
	}
}
