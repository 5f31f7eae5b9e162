package edge_test

import (
	"errors"
	"net/http/httptest"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

func TestChallengeHeader(t *testing.T) {
	const (
		meta  = "https://atlas.example/.well-known/oauth-protected-resource/mcp"
		where = `, resource_metadata="` + meta + `"`
		algs  = `, algs="ES256 EdDSA"`
		again = `, error="invalid_token", error_description="the token has expired; get a new one"`
	)
	plain := edge.Challenge{MetadataURL: meta, Scopes: []string{"a", "b"}}
	both, only := plain, plain
	both.DPoPAlgs = []string{"ES256", "EdDSA"}
	only.DPoPAlgs, only.DPoPOnly = both.DPoPAlgs, true
	proof := atlas.Errorf(atlas.CodeInvalidToken, &edge.ProofError{Code: edge.UseNonce, Err: errors.New("secret cause")}, "use the nonce")
	expired := atlas.Errorf(atlas.CodeTokenExpired, nil, "")
	stepUp := atlas.Errorf(atlas.CodeInsufficientScope, nil, "ask for more").With("scopes", []string{"tool:crm:read", "tool:crm:write"})
	const needed = `, error="insufficient_scope", error_description="ask for more", scope="tool:crm:read tool:crm:write"`
	for name, tt := range map[string]struct {
		c      edge.Challenge
		err    *atlas.Error
		scopes []string
		want   string
	}{
		"nothing known":       {edge.Challenge{}, atlas.Errorf(atlas.CodeMissingToken, nil, ""), nil, `Bearer realm="atlas"`},
		"missing":             {plain, atlas.Errorf(atlas.CodeMissingToken, nil, ""), nil, `Bearer realm="atlas", scope="a b"` + where},
		"expired":             {plain, expired, nil, `Bearer realm="atlas"` + again + `, scope="a b"` + where},
		"step-up":             {plain, stepUp, nil, `Bearer realm="atlas"` + needed + where},
		"step-up, told apart": {plain, stepUp, []string{"x"}, `Bearer realm="atlas", error="insufficient_scope", error_description="ask for more", scope="x"` + where},
		"not authorized":      {plain, atlas.Errorf(atlas.CodeNotAuthorized, nil, "no"), []string{"approval:*:decide"}, `Bearer realm="atlas", error="insufficient_scope", error_description="no", scope="approval:*:decide"` + where},
		"odd context":         {plain, expired.With("scopes", "a\" b"), nil, `Bearer realm="atlas"` + again + `, scope="a b"` + where},
		"both, missing":       {both, atlas.Errorf(atlas.CodeMissingToken, nil, ""), nil, `Bearer realm="atlas", scope="a b"` + where + `, DPoP realm="atlas", scope="a b"` + where + algs},
		"both, step-up":       {both, stepUp, nil, `Bearer realm="atlas"` + needed + where + `, DPoP realm="atlas"` + needed + where + algs},
		"both, bad proof":     {both, proof, nil, `Bearer realm="atlas", scope="a b"` + where + `, DPoP realm="atlas", error="use_dpop_nonce", error_description="use the nonce", scope="a b"` + where + algs},
		"only, expired":       {only, expired, nil, `DPoP realm="atlas"` + again + `, scope="a b"` + where + algs},
	} {
		if d := cmp.Diff(tt.want, tt.c.Header(tt.err, tt.scopes...)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
	w := httptest.NewRecorder()
	plain.Refuse(w, httptest.NewRequestWithContext(t.Context(), "POST", "/mcp", nil), stepUp)
	if w.Code != 403 || w.Header().Get("WWW-Authenticate") != plain.Header(stepUp) {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}
