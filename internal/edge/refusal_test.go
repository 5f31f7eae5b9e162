package edge_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

func TestRefusalIsReported(t *testing.T) {
	who := &edge.Caller{Principal: &atlas.Principal{Subject: "ann", Tenant: "acme"}, Tenant: "acme"}
	ctx, hangUp := context.WithCancel(t.Context())
	hangUp()
	for _, tt := range []struct {
		name string
		ctx  context.Context
		want edge.Refusal
	}{
		{"nobody", t.Context(), edge.Refusal{Code: atlas.CodeNotAuthorized, RemoteAddr: "192.0.2.1:1234"}},
		{"a caller", edge.WithCaller(t.Context(), who), edge.Refusal{Code: atlas.CodeNotAuthorized, Caller: who, RemoteAddr: "192.0.2.1:1234"}},
		{"a caller who has gone", edge.WithCaller(ctx, who), edge.Refusal{Code: atlas.CodeNotAuthorized, Caller: who, RemoteAddr: "192.0.2.1:1234"}},
	} {
		var got []edge.Refusal
		c := edge.Challenge{Refused: func(ctx context.Context, r edge.Refusal) {
			if ctx.Err() != nil {
				t.Errorf("%s: what is done about a refusal ends with the client: %v", tt.name, ctx.Err())
			}
			got = append(got, r)
		}}
		r := httptest.NewRequestWithContext(tt.ctx, http.MethodPost, "/mcp", nil)
		w := httptest.NewRecorder()
		c.Refuse(w, r, atlas.Errorf(atlas.CodeNotAuthorized, nil, ""))
		if diff := cmp.Diff([]edge.Refusal{tt.want}, got); diff != "" || w.Code != http.StatusForbidden {
			t.Errorf("%s: status %d, reported (-want +got):\n%s", tt.name, w.Code, diff)
		}
	}
}
