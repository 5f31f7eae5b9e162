package tool

import (
	"context"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// links reports whether the operator allows addresses that open an object without a token.
func links(s source.Source) bool {
	l, ok := s.(source.Linker)
	return ok && l.Links()
}

func linkTool(name string, s source.Source) *atlas.Tool {
	linker := s.(source.Linker)
	return &atlas.Tool{
		Title: "Link to an object of " + name,
		Description: "Makes a link by which one object of the " + name + " source can be downloaded for a few minutes without signing in. " +
			"Use it only when the user asks for a link: whoever has it can read the object. It changes nothing.",
		Input: raw(object(schema{"key": keySchema("path of the object, such as reports/2026.md")}, "key")),
		Output: raw(object(schema{
			"key":        schema{"type": "string"},
			"url":        schema{"type": "string"},
			"expires_at": schema{"type": "string", "description": "when the link ends, RFC 3339"},
		}, "key", "url", "expires_at")),
		// A link carries data past this program, so that rules about what may leave hold for it.
		ReadOnly: true, Idempotent: true, Effects: atlas.EffectsEgress, Timeout: objectTimeout,
		Resource: keyResource(name, keyArgument),
		Run: func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
			v, err := values(call)
			if err != nil {
				return atlas.Result{}, err
			}
			key := str(v, "key")
			if err := source.CheckKey(key); err != nil {
				return atlas.Result{}, err
			}
			url, expires, err := linker.Link(ctx, call.Tenant, key)
			if err != nil {
				return atlas.Result{}, err
			}
			return answer(map[string]any{"key": key, "url": url, "expires_at": expires.UTC().Format(time.RFC3339)})
		},
	}
}
