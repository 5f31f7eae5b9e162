package tool

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
)

const (
	maxIcons    = 8
	maxIconSize = 32 << 10 // bytes of one icon's data: URI: lists carry them
	maxTask     = 24 * time.Hour
)

var (
	iconSize  = regexp.MustCompile(`^(?:[1-9][0-9]{0,3}x[1-9][0-9]{0,3}|any)$`)
	mediaType = regexp.MustCompile(`^[a-z]+/[A-Za-z0-9][A-Za-z0-9.+_-]{0,100}(?: ?; ?[a-z-]+=[A-Za-z0-9._-]+)?$`)
)

// icons decodes "icons:".
func (n node) icons() []atlas.Icon {
	if n.ast == nil {
		return nil
	}
	items, ok := n.items("icons")
	if !ok {
		return nil
	}
	if len(items) > maxIcons {
		n.errorf("icons: %d are too many; keep at most %d", len(items), maxIcons)
		return nil
	}
	var out []atlas.Icon
	for _, item := range items {
		var i atlas.Icon
		found := item.into(map[string]any{"src": &i.Src, "mime": &i.MIME, "sizes": &i.Sizes, "theme": &i.Theme})
		switch {
		case i.Src == "":
			item.errorf("src: is missing; write an https: or a data: URI of a picture")
		case strings.HasPrefix(i.Src, "data:"):
			if _, _, err := dataURI(i.Src, "image/", maxIconSize); err != nil {
				found["src"].errorf("src: %s", err)
			}
		case !strings.HasPrefix(i.Src, "https://") || strings.ContainsAny(i.Src, " \t\r\n\"<>\\"):
			found["src"].errorf("src: %q is neither an https: nor a data: URI", i.Src)
		}
		if i.MIME != "" && (!mediaType.MatchString(i.MIME) || !strings.HasPrefix(i.MIME, "image/")) {
			found["mime"].errorf("mime: %q is no media type of a picture; write image/png", i.MIME)
		}
		for _, size := range i.Sizes {
			if !iconSize.MatchString(size) {
				found["sizes"].errorf("sizes: %q is no size; write 48x48, or any", size)
			}
		}
		if i.Theme != "" && i.Theme != "light" && i.Theme != "dark" {
			found["theme"].errorf("theme: %q is not known; use light or dark", i.Theme)
		}
		out = append(out, i)
	}
	return out
}

// dataURI takes a base64 data: URI apart (RFC 2397).
func dataURI(s, kind string, limit int) (data []byte, mime string, err error) {
	if len(s) > limit {
		return nil, "", fmt.Errorf("has %d bytes; the limit is %d", len(s), limit)
	}
	rest, ok := strings.CutPrefix(s, "data:")
	head, body, comma := strings.Cut(rest, ",")
	mime, base := strings.CutSuffix(head, ";base64")
	if !ok || !comma || !base || !mediaType.MatchString(mime) || !strings.HasPrefix(mime, kind) {
		return nil, "", fmt.Errorf("is no data: URI; write data:%spng;base64,…", kind)
	}
	if data, err = base64.StdEncoding.DecodeString(body); err != nil || len(data) == 0 {
		return nil, "", fmt.Errorf("the data: URI holds no base64")
	}
	return data, mime, nil
}

// task decodes "task:" of a tool whose own timeout is given.
func (n node) task(timeout time.Duration) atlas.TaskSpec {
	var t atlas.TaskSpec
	if n.ast == nil {
		return t
	}
	found := n.into(map[string]any{"after": &t.After, "timeout": &t.Timeout, "required": &t.Required})
	at := func(key string) node {
		if f, ok := found[key]; ok {
			return f
		}
		return n
	}
	switch {
	case t.Timeout == 0:
		at("timeout").errorf("task: timeout is missing; say how long the call may take as a task, for example 10m")
	case t.Timeout > maxTask:
		at("timeout").errorf("task: timeout is %s; the limit is %s", t.Timeout, maxTask)
	case t.Timeout <= t.After:
		at("timeout").errorf("task: timeout (%s) must be longer than after (%s)", t.Timeout, t.After)
	case t.Timeout <= timeout:
		at("timeout").errorf("task: timeout (%s) must be longer than the tool's own (%s)", t.Timeout, timeout)
	case t.Required && t.After > 0:
		at("after").errorf("task: a tool that is only run as a task does not wait; take out after")
	case t.After >= timeout:
		at("after").errorf("task: after (%s) must be shorter than the tool's own timeout (%s), or a call never becomes a task", t.After, timeout)
	}
	return t
}

// checkScopes checks the form of scopes that were given.
func (n node) checkScopes(scopes []string) {
	if len(scopes) == 0 {
		n.errorf("scopes: is empty; nobody may use what has no scopes")
	}
	for i, scope := range scopes {
		if !scopeForm.MatchString(scope) {
			n.errorf("scopes: %q is not a scope; write tool:<name>:<action>", scope)
		} else if slices.Contains(scopes[:i], scope) {
			n.errorf("scopes: %s is there twice", scope)
		}
	}
}
