package isolation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// notes is the source that an upstream server is, beside the shipped ones.
const notes = "notes"

// A notebook is an upstream server with one tool, read_note, that answers from the notes of the tenant whose
// credential the request shows. Atlas tells it no tenant's name: the credential is all that keeps tenants
// apart.
type notebook struct {
	careless bool // it looks at everybody's notes, whoever asks

	mu     sync.Mutex
	bearer map[atlas.TenantID]string
	notes  map[atlas.TenantID]map[string]note
	asked  map[atlas.TenantID]int // calls by whose credential they showed
}

// A note is what read_note answers with.
type note struct {
	Title string `json:"title"`
	Body  string `json:"body"`
}

// inUpstream is the row of the driver of upstream servers.
func inUpstream() kindRow {
	var n notebook
	return kindRow{source: notes, overlay: n.overlay, honest: n.filled}
}

// overlay starts the server, and is the shipped configuration with it as one source more. The operator says
// that the tool only reads, and asks for a scope that the shipped policy allows to administrators.
func (n *notebook) overlay(t *testing.T) string {
	t.Helper()
	n.bearer, n.notes, n.asked = map[atlas.TenantID]string{}, map[atlas.TenantID]map[string]note{}, map[atlas.TenantID]int{}
	var credentials []string
	for _, tenant := range tenants {
		n.bearer[tenant] = "credential-of-" + string(tenant)
		n.notes[tenant] = map[string]note{}
		credentials = append(credentials, fmt.Sprintf("%s: {bearer: %s}", tenant, n.bearer[tenant]))
	}
	s := sdk.NewServer(&sdk.Implementation{Name: "notebook", Version: "1"}, nil)
	// The schema says nothing of ids, as most upstreams' do not: the proof must know which are the source's own.
	s.AddTool(&sdk.Tool{
		Name: "read_note", Description: "Reads one note.",
		InputSchema: json.RawMessage(`{"type":"object","properties":{"id":{"type":"string"}},"required":["id"]}`),
	}, n.read)
	mcp := sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return s }, &sdk.StreamableHTTPOptions{Stateless: true})
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, known := n.owner(r.Header); !known {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		mcp.ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close) // runs after the apps' own
	return with("", "", "") + fmt.Sprintf("  %s: {kind: mcp, with: {url: %q, trust: first_use, tenants: {%s}, tools: {read_note: {read_only: true, scopes: [\"tool:%[1]s:read\"]}}}}\n",
		notes, web.URL, strings.Join(credentials, ", "))
}

// owner returns the tenant whose credential the request shows.
func (n *notebook) owner(h http.Header) (atlas.TenantID, bool) {
	for tenant, bearer := range n.bearer {
		if h.Get("Authorization") == "Bearer "+bearer {
			return tenant, true
		}
	}
	return "", false
}

func (n *notebook) read(_ context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
	var args struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(req.Params.Arguments, &args); err != nil {
		return nil, err
	}
	owner, _ := n.owner(req.Extra.Header)
	from := []atlas.TenantID{owner}
	if n.careless {
		from = append(from, tenants[:]...)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked[owner]++
	for _, tenant := range from {
		if found, ok := n.notes[tenant][args.ID]; ok {
			return &sdk.CallToolResult{StructuredContent: found, Content: []sdk.Content{}}, nil
		}
	}
	return &sdk.CallToolResult{IsError: true, Content: []sdk.Content{&sdk.TextContent{Text: "there is no such note"}}}, nil
}

func (n *notebook) askedBy(tenant atlas.TenantID) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked[tenant]
}

// filled is the driver, with a way to plant canaries: what stands behind an upstream is not Atlas's to write.
func (n *notebook) filled(s source.Source) source.Source {
	p, ok := s.(source.Provider)
	if !ok {
		return s
	}
	return &withNotes{s, p, n}
}

type withNotes struct {
	source.Source
	source.Provider
	upstream *notebook
}

// Load writes the documents at the upstream.
func (w *withNotes) Load(_ context.Context, tenant atlas.TenantID, data source.Data) error {
	w.upstream.mu.Lock()
	defer w.upstream.mu.Unlock()
	for _, d := range data.Documents {
		w.upstream.notes[tenant][d.ID] = note{d.Title, d.Body}
	}
	return nil
}

// An upstream that does not care whose credential it is shown leaks through a driver that does all right. The
// proof finds that, too.
func TestACarelessUpstreamIsFound(t *testing.T) {
	n := &notebook{careless: true}
	r := proveKind(t, "mcp", notes, limits+n.overlay(t), n.filled, false)
	if diff := cmp.Diff([]string{notes}, sourcesOf(r.Leaks())); diff != "" {
		t.Error(diff)
		dump(t, r)
	}
	for _, tenant := range tenants {
		if n.askedBy(tenant) == 0 {
			t.Errorf("nothing was asked for with the credential of %s, so the driver is not all right", tenant)
		}
	}
}
