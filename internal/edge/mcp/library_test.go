package mcp_test

import (
	"context"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
	"github.com/atlas-mcp/atlas/internal/edge/mcp"
)

// A library is what the prompts and resources of the tests read: documents of tenants.
type library struct {
	mu   sync.Mutex
	docs map[atlas.TenantID]map[string]string
}

func newLibrary() *library {
	return &library{docs: map[atlas.TenantID]map[string]string{
		"acme":   {"plan": "acme's plan", "pay": "acme's salaries", "shared": "acme's own"},
		"globex": {"shared": "globex's own"},
	}}
}

func (l *library) ids(tenant atlas.TenantID) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.docs[tenant]))
}

var docURI = regexp.MustCompile(`^atlas://docs/([a-z0-9-]+)$`)

func matchDoc(uri string) (json.RawMessage, bool) {
	m := docURI.FindStringSubmatch(uri)
	if m == nil {
		return nil, false
	}
	return json.RawMessage(`{"id":"` + m[1] + `"}`), true
}

func exactly(uri string) func(string) (json.RawMessage, bool) {
	return func(asked string) (json.RawMessage, bool) { return nil, asked == uri }
}

// list says what there is behind the template of documents.
func (l *library) list(_ context.Context, call atlas.Call) (out []atlas.Content, _ error) {
	for _, id := range l.ids(call.Tenant) {
		out = append(out, atlas.Content{URI: "atlas://docs/" + id, Name: id, Size: 3})
	}
	return out, nil
}

// read is the template of documents.
func (l *library) read(_ context.Context, call atlas.Call) (atlas.Result, error) {
	var args struct{ ID string }
	if err := json.Unmarshal(call.Args.Raw, &args); err != nil {
		return atlas.Result{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	text, ok := l.docs[call.Tenant][args.ID]
	if !ok {
		return atlas.Result{}, atlas.Errorf(atlas.CodeNotFound, nil, "")
	}
	return atlas.Result{Content: []atlas.Content{{Type: atlas.ContentResource, Text: text}}}, nil
}

func (l *library) complete(_ context.Context, call atlas.Call, argument, prefix string, _ map[string]string) (out []string, _ error) {
	if argument != "id" {
		return nil, nil
	}
	for _, id := range l.ids(call.Tenant) {
		if strings.HasPrefix(id, prefix) {
			out = append(out, id)
		}
	}
	return out, nil
}

func (l *library) greet(_ context.Context, call atlas.Call) (atlas.Result, error) {
	var args struct{ ID string }
	if err := json.Unmarshal(call.Args.Raw, &args); err != nil || args.ID == "" {
		return atlas.Result{}, atlas.Errorf(atlas.CodeInvalidArguments, nil, "")
	}
	return atlas.Result{Content: []atlas.Content{
		{Type: atlas.ContentText, Role: "user", Text: "Summarise " + args.ID + " of " + string(call.Tenant)},
		{Type: atlas.ContentResource, Role: "user", URI: "atlas://docs/" + args.ID, MIME: "text/plain", Text: "see here"},
		{Type: atlas.ContentImage, Role: "assistant", MIME: "image/png", Data: []byte{1, 2}},
	}}, nil
}

// secret is what only callers with its scope may see.
const secretScope = "tool:secret:read"

// tools returns the house's tools with prompts and resources beside them.
func (l *library) tools() []*atlas.Tool {
	icon := []atlas.Icon{{Src: "data:image/svg+xml;base64,PHN2Zy8+", MIME: "image/svg+xml"}}
	hidden := []string{secretScope}
	return append(testTools(), []*atlas.Tool{
		{
			Name: "summarise", Kind: atlas.KindPrompt, Title: "Summarise", Description: "A summary of a document.", Icons: icon,
			Input: json.RawMessage(`{"type":"object","properties":{"id":{"type":"string","title":"Id","description":"of the document"},"tone":{"type":"string"}},"required":["id"]}`),
			Reads: atlas.ReadsPrivate, Run: l.greet, Complete: l.complete,
		},
		{Name: "whisper", Kind: atlas.KindPrompt, Scopes: hidden, Run: l.greet, Complete: l.complete},
		{
			Name: "docs", Kind: atlas.KindResource, Title: "Documents", URI: "atlas://docs/{id}", MIME: "text/plain", Icons: icon,
			Match: matchDoc, List: l.list, Complete: l.complete, Run: l.read, Reads: atlas.ReadsPrivate,
		},
		{
			Name: "schema", Kind: atlas.KindResource, URI: "atlas://schema/crm", MIME: "application/json", Match: exactly("atlas://schema/crm"),
			Run: func(context.Context, atlas.Call) (atlas.Result, error) {
				return atlas.Result{Structured: json.RawMessage(`{"tables":["customers"]}`)}, nil
			},
		},
		{
			Name: "logo", Kind: atlas.KindResource, URI: "atlas://logo", MIME: "image/png", Match: exactly("atlas://logo"),
			Run: func(context.Context, atlas.Call) (atlas.Result, error) {
				return atlas.Result{Content: []atlas.Content{{Type: atlas.ContentResource, Data: []byte{0x89, 'P'}}}}, nil
			},
		},
		{
			Name: "vault", Kind: atlas.KindResource, Scopes: hidden, URI: "atlas://vault/{id}",
			Match: func(uri string) (json.RawMessage, bool) {
				return json.RawMessage(`{"id":"plan"}`), strings.HasPrefix(uri, "atlas://vault/")
			},
			List: l.list, Complete: l.complete, Run: l.read,
		},
		{
			Name: "vault_key", Kind: atlas.KindResource, Scopes: hidden, URI: "atlas://vault/key", Match: exactly("atlas://vault/key"),
			Run: func(context.Context, atlas.Call) (atlas.Result, error) {
				return atlas.Result{Structured: json.RawMessage(`{"key":1}`)}, nil
			},
		},
	}...)
}

// withLibrary returns a house that has prompts and resources.
func withLibrary(t testing.TB, cfg mcp.Config) (*house, *library) {
	t.Helper()
	h, l := newHouse(t, options{cfg: cfg}), newLibrary()
	h.setTools(l.tools()...)
	return h, l
}

var (
	acme   = issuer.Claims{Tenant: "acme"}
	globex = issuer.Claims{Tenant: "globex"}
	keeper = issuer.Claims{Tenant: "acme", Subject: "kim", Scopes: []string{secretScope}}
)

// result posts a message and returns its result.
func (h *house) result(t *testing.T, era, token, method, params string, into any) {
	t.Helper()
	status, _, body := h.post(t, era, token, message(era, method, params, ""), nil)
	var msg struct {
		Result json.RawMessage
		Error  json.RawMessage
	}
	if err := json.Unmarshal([]byte(body), &msg); err != nil || status != 200 || msg.Error != nil {
		t.Fatalf("%s %s: %d %s", method, params, status, body)
	}
	if err := json.Unmarshal(msg.Result, into); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
}
