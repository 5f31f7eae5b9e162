package app

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas/internal/source"
)

// What somebody approves of an upstream is offered by the server that runs, and what he takes back is not
// any more, without a restart; both leave a record.
func TestServerTakesUpWhatIsApproved(t *testing.T) {
	upstream := sdk.NewServer(&sdk.Implementation{Name: "notes", Version: "1"}, nil)
	type in struct {
		ID string `json:"id"`
	}
	sdk.AddTool(upstream, &sdk.Tool{Name: "read_note", Description: "Reads one note by its id."},
		func(context.Context, *sdk.CallToolRequest, in) (*sdk.CallToolResult, any, error) {
			return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: "a note"}}}, nil, nil
		})
	srv := httptest.NewServer(sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return upstream }, &sdk.StreamableHTTPOptions{Stateless: true}))
	t.Cleanup(srv.Close)

	dir := t.TempDir()
	for name, text := range map[string]string{
		"atlas.yaml":  "roles: {}\nsources:\n  up: {kind: mcp, with: {url: \"" + srv.URL + "\", trust: approve, shared: true}}\n  crm: {kind: folder}\ntools: {files: []}\n",
		"policy.yaml": "rules: []\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a, err := Open(t.Context(), Options{ConfigFile: filepath.Join(dir, "atlas.yaml"), DataDir: filepath.Join(dir, "data"), LogTo: t.Output(), LogLevel: "error"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() }) // after serving has ended
	serveLife(t, a)
	if a.Tool("up__read_note") != nil {
		t.Fatal("a tool that nobody approved is offered")
	}
	r, err := a.Upstream("up")
	if err != nil {
		t.Fatal(err)
	}
	review, err := r.Review(t.Context(), "")
	if err != nil || len(review.Tools) != 1 || review.Tools[0].State != source.ReviewWaiting {
		t.Fatalf("got %+v, %v", review, err)
	}
	if err := r.Approve(t.Context(), "", "read_note", review.Tools[0].LiveDigest, "lead"); err != nil {
		t.Fatal(err)
	}
	within(t, "the approved tool is offered", func() bool { return a.Tool("up__read_note") != nil })

	if r, err = a.Upstream("up"); err != nil { // of the new generation
		t.Fatal(err)
	}
	if err := r.Approve(t.Context(), "", "read_note", "00", "lead"); err == nil {
		t.Error("a digest that is not the tool's was approved")
	}
	if err := r.Revoke(t.Context(), "read_note", "lead"); err != nil {
		t.Fatal(err)
	}
	within(t, "the revoked tool is gone", func() bool { return a.Tool("up__read_note") == nil })

	if err := a.FlushAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	log := string(read(t, a.cfg.Audit.Path))
	for _, want := range []string{`"action":"upstream.approve"`, `"action":"upstream.revoke"`, `"caller":"lead"`, `"status":"error"`} {
		if !strings.Contains(log, want) {
			t.Errorf("no record has %s", want)
		}
	}

	if _, err := a.Upstream("crm"); !errors.Is(err, ErrNoUpstream) {
		t.Errorf("got %v", err)
	}
	if _, err := a.Upstream("nosuch"); err == nil || errors.Is(err, ErrNoUpstream) {
		t.Errorf("got %v", err)
	}
	// An upstream that is away is not this server's fault.
	srv.CloseClientConnections()
	srv.Close()
	if err := a.pingSources(t.Context()); err != nil {
		t.Errorf("not ready: %v", err)
	}
}
