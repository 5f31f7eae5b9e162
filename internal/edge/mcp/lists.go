package mcp

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/places"
)

const (
	// maxURI bounds the URIs of resources, in bytes: what browsers and proxies carry, and no document's text.
	maxURI = 2048
	// maxListed bounds how many resources one list has, over all pages.
	maxListed = 10_000
	// maxMatches bounds how many resources a URI is tried with: those before the right one are hidden
	// from the caller.
	maxMatches = 4
	// lookTimeout bounds what looks into a source outside the pipeline's budget: what is behind a
	// template, and completion.
	lookTimeout = 5 * time.Second
)

// lookBound bounds the requests that look into sources beside the pipeline's own limits.
var lookBound = places.Bound{User: 32, Tenant: 64, Total: 256}

// A catalog holds what the configuration has, by the kinds that are not tools.
type catalog struct {
	listing   *message.Listing
	has       [kinds]bool            // whether there is something of an atlas.Kind
	byName    map[string]*atlas.Tool // prompts and resources
	resources []*atlas.Tool          // in the order in which a URI is tried
}

const kinds = int(atlas.KindResource) + 1

func newCatalog(tools []*atlas.Tool) *catalog {
	c := &catalog{listing: message.NewListing(tools), byName: make(map[string]*atlas.Tool)}
	for _, t := range tools {
		c.has[t.Kind] = true
		if t.Kind != atlas.KindTool {
			c.byName[t.Name] = t
		}
		if t.Kind == atlas.KindResource && t.Match != nil {
			c.resources = append(c.resources, t)
		}
	}
	// The more that is fixed in a URI, the better it says what is meant.
	slices.SortFunc(c.resources, func(a, b *atlas.Tool) int {
		return cmp.Or(
			cmp.Compare(btoi(message.IsTemplate(a)), btoi(message.IsTemplate(b))),
			cmp.Compare(fixed(b.URI), fixed(a.URI)),
			strings.Compare(a.Name, b.Name),
		)
	})
	return c
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// fixed counts the bytes of a template that are not in braces.
func fixed(template string) int {
	n, inside := 0, false
	for i := range len(template) {
		switch template[i] {
		case '{':
			inside = true
		case '}':
			inside = false
		default:
			n += btoi(!inside)
		}
	}
	return n
}

// matching returns the resources that uri may be, the likeliest first.
func (c *catalog) matching(uri string) []match {
	var out []match
	for _, t := range c.resources {
		if args, ok := t.Match(uri); ok {
			out = append(out, match{t.Name, t.MIME, args})
		}
	}
	return out
}

// A match is a resource's name and media type, and the arguments that its URI takes for the one asked
// for.
type match struct {
	name, mime string
	args       json.RawMessage
}

// A listRequest is one request for a list.
type listRequest struct {
	kind   atlas.Kind
	scope  string // names the list in its cursors: a cursor of one list is none of another
	meta   map[string]any
	cursor string
}

// visible asks the pipeline what the caller may see, and returns it with the key after which the
// page that was asked for begins.
func (s *Server) visible(ctx context.Context, id *identity, r listRequest) (call atlas.Call, tools []*atlas.Tool, after string, err error) {
	call = id.call(atlas.OpList)
	call.Kind = r.kind
	var invalid *jsonrpc.Error // what the edge itself finds wrong; the pipeline refuses it and records that
	if r.cursor != "" {
		var ok bool
		if after, ok = openCursor(r.scope, r.cursor); !ok {
			invalid = &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: "Invalid cursor"}
			call.Fault = atlas.Errorf(atlas.CodeInvalidCursor, nil, "")
		}
	}
	if fault := readMeta(r.meta, &call); fault != nil {
		invalid = &jsonrpc.Error{Code: jsonrpc.CodeInvalidParams, Message: fault.Hint}
		call.Fault = fault
	}
	res, err := s.deps.Handler(ctx, call)
	if invalid != nil {
		return call, nil, "", invalid
	}
	if err != nil {
		return call, nil, "", requestFailure(atlas.ErrorOf(err), call)
	}
	// A pipeline that does not tell kinds apart must not show a prompt among the tools.
	tools = slices.DeleteFunc(slices.Clone(res.Tools), func(t *atlas.Tool) bool { return t.Kind != r.kind })
	return call, tools, after, nil
}

// cut returns at most size items behind the one whose key is after, and the cursor of the next page.
// Items are sorted by key. A cursor holds the last key, which the caller has seen; it can be made up,
// but selects from what the caller may see only.
func cut[T any](items []T, key func(T) string, scope, after string, size int) ([]T, string) {
	if after != "" {
		i, found := slices.BinarySearchFunc(items, after, func(item T, k string) int { return strings.Compare(key(item), k) })
		if found {
			i++
		}
		items = items[i:]
	}
	if len(items) <= size {
		return items, ""
	}
	return items[:size], base64.RawURLEncoding.EncodeToString([]byte(scope + ":" + key(items[size-1])))
}

func openCursor(scope, cursor string) (after string, ok bool) {
	if len(cursor) > 2*maxURI {
		return "", false
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(cursor)
	if err != nil {
		return "", false
	}
	after, ok = strings.CutPrefix(string(raw), scope+":")
	return after, ok && after != "" && len(after) <= maxURI
}
