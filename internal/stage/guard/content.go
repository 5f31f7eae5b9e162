package guard

import (
	"fmt"
	"maps"
	"slices"

	"github.com/atlas-mcp/atlas"
)

// content guards the blocks of an answer: their texts are redacted as strings of JSON are, and
// together they hold to the limits. A block is never cut: half a document is another document.
// Bytes that are no text (pictures, sound) cannot be searched and have a limit of their own. Child
// calls are not limited, as with JSON.
func (g *Guard) content(call atlas.Call, blocks []atlas.Content, m mode) ([]atlas.Content, int, error) {
	out, redacted := slices.Clone(blocks), 0
	texts, tokens, data := 0, 0, 0
	for i := range out {
		c := &out[i]
		for _, text := range []*string{&c.Text, &c.Title, &c.Description, &c.Name} {
			n := 0
			if *text, n = g.detect.replace(*text, m); n > 0 {
				redacted += n
			}
			texts += len(*text)
		}
		if call.Parent == nil && len(c.Text) > 0 {
			tokens += EstimateTokens([]byte(c.Text))
		}
		data += len(c.Data)
	}
	if call.Parent != nil {
		return out, redacted, nil
	}
	const hint = "the answer is larger than the limit and cannot be paged; ask for a smaller part"
	switch {
	case len(out) > maxBlocks:
		return nil, 0, tooLarge("blocks", maxBlocks, hint)
	case texts > g.cfg.MaxBytes:
		return nil, 0, tooLarge("bytes", g.cfg.MaxBytes, hint)
	case tokens > g.cfg.MaxTokens:
		return nil, 0, tooLarge("tokens", g.cfg.MaxTokens, hint)
	case data > g.cfg.MaxData:
		return nil, 0, tooLarge("data", g.cfg.MaxData, hint)
	}
	return out, redacted, nil
}

// maxBlocks is how many blocks an answer may have.
const maxBlocks = 1000

// ask guards what a tool asks its client: texts that a person or a model will read.
func (g *Guard) ask(call atlas.Call, a *atlas.Ask, m mode) (*atlas.Ask, int, error) {
	out, redacted := &atlas.Ask{State: a.State, Requests: maps.Clone(a.Requests)}, 0
	for key, req := range a.Requests {
		if len(req.Params) > g.cfg.MaxBytes {
			return nil, 0, tooLarge("bytes", g.cfg.MaxBytes, "what the tool must ask is larger than the limit")
		}
		clean, n, ok := g.detect.json(nil, req.Params, m)
		if !ok {
			return nil, 0, atlas.Errorf(atlas.CodeInternal, fmt.Errorf("guard: tool %s asks its client something that is not JSON", call.Tool.Name), "")
		}
		if clean != nil {
			req.Params = clean
			out.Requests[key] = req
		}
		redacted += n
	}
	return out, redacted, nil
}
