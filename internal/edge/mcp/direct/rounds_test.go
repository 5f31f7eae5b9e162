package direct_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/direct"
)

// A call that was answered gives its place back, and each of its rounds is a call of its own to the
// pipeline, with its own record.
func TestRoundsAreCallsOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ids := map[string]int{}
		h := newServer(t, setup{cfg: direct.Config{MaxAsks: 1}, change: sealing(t), handler: func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
			ids[c.ID]++
			return asking(ctx, c)
		}})
		session := begin(t, h, ann(), canElicit)
		for i := range 3 {
			w := &answering{ResponseRecorder: httptest.NewRecorder(), reply: func(id string) {
				do(t, h, ann(), http.MethodPost, answerTo(id, accept), "Mcp-Session-Id", session)
			}}
			r := newRequest(t, legacy, whoCanDo)
			r.Header.Set("Mcp-Session-Id", session)
			h.ServeHTTP(w, r)
			if !strings.Contains(w.Body.String(), `"state":"round 1"`) {
				t.Errorf("call %d: %s", i, w.Body)
			}
		}
		if len(ids) != 6 {
			t.Errorf("three calls of two rounds had these ids: %v", ids)
		}
	})
}

// What header and body must agree on is checked here, before the pipeline, for calls and lists alike.
func TestCallsThatContradictTheirHeadersReachNobody(t *testing.T) {
	h := newServer(t, setup{handler: func(context.Context, atlas.Call) (atlas.Result, error) {
		t.Error("the pipeline was reached")
		return atlas.Result{}, nil
	}})
	for _, method := range []string{"tools/call", "tools/list"} {
		for field, value := range map[string]string{"Mcp-Method": "ping", "Mcp-Name": "y", "Mcp-Protocol-Version": legacy} {
			if field == "Mcp-Name" && method == "tools/list" {
				continue
			}
			r := newRequest(t, modern, request(modern, method, `"name":"x"`, ""))
			r.Header.Set(field, value)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), `"code":-32020`) {
				t.Errorf("%s with another %s: %d %s", method, field, w.Code, w.Body)
			}
		}
	}
}
