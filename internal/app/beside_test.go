package app

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
)

// serveLife serves the app until the test ends.
func serveLife(t *testing.T, a *App) {
	t.Helper()
	ln, err := ListenLoopback(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

// Two processes share what one of them learns: a key that one makes is published by the other, a token that one revokes is refused by the other, and a
// task that is cancelled at one ends where it runs.
func TestProcessesLearnFromEachOther(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	ended := make(chan struct{})
	open := func() *App {
		a, err := Open(t.Context(), Options{
			DataDir: dir, LogLevel: "error", LogTo: t.Output(), PublicURL: "http://127.0.0.1:1",
			ExtraTools: func(atlas.Handler) []*atlas.Tool {
				return []*atlas.Tool{{
					Name: "wait", Level: atlas.Atomic, Version: "1", Source: "crm", Scopes: []string{"tool:crm:read"}, ReadOnly: true,
					Input: json.RawMessage(`{"type":"object","additionalProperties":false}`), Task: atlas.TaskSpec{Timeout: time.Hour, Required: true},
					Resource: func(atlas.Call) string { return "crm/wait" },
					Run: func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
						<-ctx.Done()
						close(ended)
						return atlas.Result{}, ctx.Err()
					},
				}}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = a.Close() })
		return a
	}
	here, there := open(), open()
	if _, err := there.issuer.Rotate(); err != nil {
		t.Fatal(err)
	}
	serveLife(t, here)
	within(t, "the new key is published here, too", func() bool {
		set, err := here.issuer.Keys().KeyReadAll(t.Context())
		return err == nil && len(set) == 2
	})

	signed, err := here.Token(TokenRequest{Tenant: "acme", Subject: "ann", Roles: []string{"analyst"}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := here.verifier.Verify(t.Context(), signed, "")
	if err != nil {
		t.Fatal(err)
	}
	call := here.NewCall(p, "wait", nil)
	call.Client.Tasks = true
	answer, err := here.tasks.Call(t.Context(), call)
	if err != nil || answer.Task == nil {
		t.Fatalf("%+v, %v", answer, err)
	}
	if err := there.tasks.Cancel(t.Context(), call, answer.Task.ID); err != nil {
		t.Fatal(err)
	}
	within(t, "the task ends where it runs", func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})

	if err := there.oauth.Revoke(t.Context(), p.TokenID, p.Expiry); err != nil {
		t.Fatal(err)
	}
	within(t, "the revoked token is refused", func() bool {
		_, err := here.verifier.Verify(t.Context(), signed, "")
		return atlas.CodeOf(err) == atlas.CodeInvalidToken
	})
}

// Another issuer's tokens get the scopes of their roles here, and can be exchanged.
func TestForeignTokens(t *testing.T) {
	mux := http.NewServeMux()
	foreign := httptest.NewServer(mux)
	defer foreign.Close()
	idp, err := issuer.New(issuer.Config{Issuer: foreign.URL, Audience: "http://127.0.0.1:1/mcp", KeyFile: filepath.Join(t.TempDir(), "key.pem")})
	if err != nil {
		t.Fatal(err)
	}
	mux.HandleFunc("/jwks", idp.ServeJWKS)
	a, err := Open(t.Context(), Options{
		DataDir: filepath.Join(t.TempDir(), "data"), LogLevel: "error", LogTo: t.Output(), PublicURL: "http://127.0.0.1:1",
		Overlay: []byte(`
auth: {issuers: [{issuer: "` + foreign.URL + `", jwks_url: "` + foreign.URL + `/jwks", audience: ["http://127.0.0.1:1/mcp"], tenants: [acme], scopes_from_roles: true}]}
issuer:
  clients:
    - client_id: agent
      client_secret_sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b # secret
      grant_types: ["urn:ietf:params:oauth:grant-type:token-exchange"]
      tenant: acme
      scopes: [tool:crm:read]
`),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close() //nolint:errcheck // the test is over
	signed, err := idp.Sign(issuer.Claims{Tenant: "acme", Subject: "ann", Roles: []string{"analyst"}})
	if err != nil {
		t.Fatal(err)
	}
	if e := a.InspectToken(t.Context(), signed); !e.Accepted || len(e.Tools) == 0 {
		t.Fatalf("%+v", e)
	}
	srv := httptest.NewServer(a.HTTPHandler())
	defer srv.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/oauth/token", strings.NewReader(url.Values{
		"grant_type":    {"urn:ietf:params:oauth:grant-type:token-exchange"},
		"subject_token": {signed}, "subject_token_type": {"urn:ietf:params:oauth:token-type:access_token"},
	}.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("agent", "secret")
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	var exchanged struct {
		Token string `json:"access_token"`
	}
	if err := json.Unmarshal(text, &exchanged); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", res.StatusCode, text)
	}
	if e := a.InspectToken(t.Context(), exchanged.Token); !e.Accepted || e.Identity.Subject != "ann" || e.Identity.Delegator != "agent" || e.Identity.Tenant != "acme" {
		t.Errorf("%+v", e.Identity)
	}
}

// A list that was begun before a reload still looks up what there is.
func TestListsOutliveAReload(t *testing.T) {
	a, err := Open(t.Context(), Options{DataDir: filepath.Join(t.TempDir(), "data"), LogLevel: "error", LogTo: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close() //nolint:errcheck // the test is over
	p, ok := a.Persona(PersonaCopilot)
	if !ok {
		t.Fatal("no persona")
	}
	before := a.Tool("files_documents")
	list := a.NewCall(p, "", nil)
	list.Op, list.Kind = atlas.OpList, atlas.KindResource
	if err := a.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if links, err := before.List(t.Context(), list); err != nil || len(links) == 0 {
		t.Errorf("%d documents, %v", len(links), err)
	}
}
