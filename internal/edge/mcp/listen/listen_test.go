package listen_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/listen"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/places"
)

// Package mcp's tests drive this one as clients do. These see to what the Server does not show.

var errBlind = errors.New("nobody can say what the caller sees")

// caller is somebody of a tenant who sees what begins with a prefix.
func caller(user string, tenant atlas.TenantID, prefix string) *listen.Caller {
	return &listen.Caller{
		Holder: places.Holder{User: user, Tenant: tenant}, Tenant: tenant,
		Sees: func(context.Context, map[string]any) (func(string) bool, error) {
			return func(uri string) bool { return strings.HasPrefix(uri, prefix) }, nil
		},
	}
}

func newHub(t *testing.T) *listen.Hub {
	return listen.New(listen.Config{Bound: places.Bound{User: 1, Tenant: 2, Total: 3}, SightTTL: time.Second, Draining: t.Context()})
}

func TestSubscriptionLivesAsLongAsItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, ann := newHub(t), caller("ann", "acme", "a:")
		ann.Expiry = time.Now().Add(time.Minute)
		ctx, sub, err := hub.Subscribe(t.Context(), ann, listen.Request{URIs: []string{"a:2", "b:1", "a:1"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := sub.URIs(); !slices.Equal(got, []string{"a:1", "a:2"}) {
			t.Errorf("granted %v", got)
		}
		hub.Updated("acme", "a:1")
		hub.Updated("acme", "a:1")
		hub.Updated("globex", "a:2")
		hub.ListChanged(atlas.KindTool) // nobody asked for it
		var told []string
		sub.Serve(ctx, func(message []byte) error {
			told = append(told, string(message))
			return nil
		}, "s1", nil)
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Errorf("the subscription ended with %v", ctx.Err())
		}
		if len(told) != 1 || !strings.Contains(told[0], `"uri":"a:1"`) || !strings.Contains(told[0], `"io.modelcontextprotocol/subscriptionId":"s1"`) {
			t.Errorf("told %q", told)
		}
		sub.Close()
	})
}

func TestSubscriptionsGiveTheirPlaceBack(t *testing.T) {
	hub, ann := newHub(t), caller("ann", "acme", "a:")
	subscribe := func(uris ...string) (func(), error) {
		_, sub, err := hub.Subscribe(t.Context(), ann, listen.Request{URIs: uris})
		if err != nil {
			return nil, err
		}
		return sub.Close, nil
	}
	if _, err := subscribe(make([]string, 65)...); !errors.As(err, new(*message.Error)) {
		t.Errorf("too many resources: %v", err)
	}
	sees := ann.Sees
	ann.Sees = func(context.Context, map[string]any) (func(string) bool, error) { return nil, errBlind }
	if _, err := subscribe("a:1"); !errors.Is(err, errBlind) {
		t.Errorf("a look that fails: %v", err)
	}
	ann.Sees = sees
	end, err := subscribe("a:1")
	if err != nil {
		t.Fatalf("after failures: %v", err)
	}
	if _, err := subscribe("a:1"); atlas.CodeOf(err) != atlas.CodeRateLimited {
		t.Errorf("one more than there may be: %v", err)
	}
	end()
	if end, err = subscribe("a:1"); err != nil {
		t.Fatalf("after the first has ended: %v", err)
	}
	end()
}
