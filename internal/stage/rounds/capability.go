package rounds

import (
	"encoding/json"
	"slices"

	"github.com/atlas-mcp/atlas"
)

// A need is a capability that a client must have declared to be asked for something.
type need struct {
	name string // as the protocol's ClientCapabilities call it
	has  func(atlas.Client) bool
}

var (
	needForm  = need{"elicitation", func(c atlas.Client) bool { return c.Elicit }}
	needURL   = need{"elicitation.url", func(c atlas.Client) bool { return c.ElicitURL }}
	needModel = need{"sampling", func(c atlas.Client) bool { return c.Sample }}
	needRoots = need{"roots", func(c atlas.Client) bool { return c.Roots }}
)

// capability returns what a client needs to answer the request, and whether it is a request at all
// that a client may be sent.
func capability(req atlas.ClientRequest) (need, bool) {
	switch req.Method {
	case "elicitation/create":
		var params struct {
			Mode string `json:"mode"`
		}
		if len(req.Params) > 0 && json.Unmarshal(req.Params, &params) != nil {
			return need{}, false
		}
		if params.Mode == "url" {
			return needURL, true
		}
		return needForm, true
	case "sampling/createMessage":
		return needModel, true
	case "roots/list":
		return needRoots, true
	}
	return need{}, false
}

func compact(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}
