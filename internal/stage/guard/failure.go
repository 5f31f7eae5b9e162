package guard

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
)

// maxHint is the longest hint, in characters.
const maxHint = 300

// failure returns err as an *atlas.Error that may be shown: every failure leaves the pipeline in
// that form. Hints and context are guarded like answers, for a tool may have put text of its
// source there by mistake.
func (g *Guard) failure(call atlas.Call, err error) error {
	if err == nil {
		return nil
	}
	e := atlas.ErrorOf(err)
	out := *e                                 // errors may be shared, and are not changed
	if _, bare := err.(*atlas.Error); !bare { //nolint:errorlint // whether it is wrapped is the question
		out.Err = err // what was wrapped round it, for operators
	}
	m := mode{pii: true, untrusted: true}
	if call.Principal != nil {
		m.pii = !call.Principal.HasScope(ScopePII)
	}
	// Cut last: half a secret is no longer recognised.
	out.Hint = cutText(g.detect.text(e.Hint, m), maxHint)
	if len(e.Context) > 0 {
		out.Context = make(map[string]any, len(e.Context))
		for k, v := range e.Context {
			if v, ok := g.contextValue(v, m); ok {
				out.Context[k] = v
			}
		}
	}
	return &out
}

// contextValue guards one value of an error's context. It reports false for one that is no JSON.
func (g *Guard) contextValue(v any, m mode) (any, bool) {
	switch v := v.(type) {
	case nil, bool, int, int64, float64, json.Number:
		return v, true
	case string:
		return g.detect.text(v, m), true
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, false
	}
	out, _, ok := g.detect.json(nil, raw, m)
	if !ok {
		return nil, false
	}
	if out == nil {
		return v, true
	}
	return json.RawMessage(out), true
}

// cutText cuts a text to at most n characters.
func cutText(s string, n int) string {
	if len(s) <= n || utf8.RuneCountInString(s) <= n {
		return s
	}
	runes := 0
	for i := range s {
		if runes++; runes == n { // this character gives way to the ellipsis
			return strings.TrimRight(s[:i], " ") + "…"
		}
	}
	return s
}
