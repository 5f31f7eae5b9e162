package admin

import (
	"net/http"

	"github.com/atlas-mcp/atlas"
)

// purge forgets cached answers of the caller's tenant: of the tool that the body names, or of all.
func (a *API) purge(r *http.Request, p *atlas.Principal) (any, error) {
	var in struct {
		Tool string `json:"tool"`
	}
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if len(in.Tool) > maxID {
		return nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "tool is no name of a tool").With("argument", "tool")
	}
	if err := a.deps.Cache.Purge(r.Context(), p, p.Tenant, in.Tool); err != nil {
		return nil, atlas.Errorf(atlas.CodeStateUnavailable, err, "some replica could not be told; its answers end with their tools' cache times, or repeat the request")
	}
	return map[string]any{"purged": true, "tenant": p.Tenant, "tool": in.Tool}, nil
}
