package isolation

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// maxKnown bounds the values that are remembered of one side.
const maxKnown = 4000

// known is what a side is known to have: what was planted, and what its own calls have shown.
type known struct {
	mu    sync.Mutex
	ids   []string // planted first
	has   map[string]bool
	exact map[string]bool // planted as this side's alone
	plant map[string]bool // planted, or expected to be
}

func newKnown(own, both []string) *known {
	k := &known{has: map[string]bool{}, exact: map[string]bool{}, plant: map[string]bool{}}
	for _, id := range own {
		k.exact[id] = true
	}
	for _, id := range append(slices.Clone(own), both...) {
		k.add(id)
		k.plant[id] = true
	}
	return k
}

func (k *known) add(id string) {
	if !k.has[id] && len(k.ids) < maxKnown {
		k.has[id] = true
		k.ids = append(k.ids, id)
	}
}

// learn takes the ids out of one of the side's own answers.
func (k *known) learn(a *Answer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, id := range idsOf(a) {
		k.add(id)
	}
}

func (k *known) all() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.ids)
}

func (k *known) knows(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.has[id]
}

var (
	namesID = regexp.MustCompile(`(?i)^(id|key|uri|email|name)$|_id$|_key$`)
	looksID = regexp.MustCompile(`^[^\s]*(\d{2,}|[/@]|zq[a-p]{8})[^\s]*$`)
	aURI    = regexp.MustCompile(`[a-z][a-z0-9+.-]*://[^\s"<>\\]+`)
)

// idsOf returns what in an answer names a record: the values of fields that are called so.
func idsOf(a *Answer) []string {
	var out []string
	var walk func(name string, v any)
	walk = func(name string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				walk(k, e)
			}
		case []any:
			for _, e := range v {
				walk(name, e)
			}
		case string:
			if namesID.MatchString(name) && len(v) >= 4 && len(v) <= 256 && looksID.MatchString(v) && !aDate.MatchString(v) {
				out = append(out, v)
			}
		}
	}
	var v any
	if json.Unmarshal(a.Structured, &v) == nil {
		walk("", v)
	}
	if a.Structured == nil && a.Failure == nil {
		for _, u := range aURI.FindAllString(a.Text, 200) {
			out = append(out, strings.TrimRight(u, ".,;)"))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
