package app_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas/internal/app"
)

// report is a program whose role may more than its token says.
const report = `
issuer:
  clients:
    - client_id: report
      client_secret_sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b # secret
      grant_types: [client_credentials]
      tenant: acme
      roles: [human_agent]
      scopes: [tool:crm:read]
`

// What the app gives to the authorization server, the verifier and the registry holds over HTTP.
func TestIdentityIsWired(t *testing.T) {
	const public = "http://127.0.0.1:1"
	dir := t.TempDir()
	a, err := app.Open(t.Context(), app.Options{
		DataDir: filepath.Join(dir, "data"), LogLevel: "error", LogTo: t.Output(), PublicURL: public, Overlay: []byte(report),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close() //nolint:errcheck // the test is over
	srv := httptest.NewServer(a.HTTPHandler())
	defer srv.Close()
	do := func(method, path, body string, header map[string]string) (int, http.Header, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range header {
			req.Header.Set(k, v)
		}
		res, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close() //nolint:errcheck // read to its end
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, res.Header, string(text)
	}
	form := func(path string, values url.Values) (int, string) {
		status, _, text := do(http.MethodPost, path, values.Encode(), map[string]string{
			"Content-Type": "application/x-www-form-urlencoded", "Authorization": "Basic cmVwb3J0OnNlY3JldA==", // report:secret
		})
		return status, text
	}
	var token struct {
		Token string `json:"access_token"`
	}
	status, text := form("/oauth/token", url.Values{"grant_type": {"client_credentials"}})
	if err := json.Unmarshal([]byte(text), &token); err != nil || status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	call := func(tool, args string) (int, http.Header, string) {
		return do(http.MethodPost, "/mcp", `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"`+tool+`","arguments":`+args+`}}`, map[string]string{
			"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Authorization": "Bearer " + token.Token,
		})
	}
	if status, _, text := call("crm_order", `{"order_id":"o_9002"}`); status != http.StatusOK || !strings.Contains(text, "refund_pending") {
		t.Errorf("%d %s", status, text)
	}
	// The role may list files, the token may not: step up. What the role may not have does not exist.
	status, header, text := call("files_list", `{"prefix":"docs/"}`)
	challenge := strings.Join(header.Values("WWW-Authenticate"), ",")
	if status != http.StatusForbidden || !strings.Contains(challenge, `error="insufficient_scope"`) || !strings.Contains(challenge, `scope="tool:files:read"`) {
		t.Errorf("%d %s %s", status, challenge, text)
	}
	if status, header, text := call("http_fetch", `{"url":"https://example.com/"}`); status != http.StatusOK || header.Get("WWW-Authenticate") != "" || !strings.Contains(text, "Unknown tool") {
		t.Errorf("a tool beyond the role: %d %v %s", status, header, text)
	}
	if e := a.InspectToken(t.Context(), token.Token); !e.Accepted || len(e.Tools) == 0 || e.Identity.Subject != "report" {
		t.Errorf("inspected %+v", e)
	}
	if status, text := form("/oauth/revoke", url.Values{"token": {token.Token}}); status != http.StatusOK {
		t.Fatalf("%d %s", status, text)
	}
	if status, _, text := call("crm_order", `{"order_id":"o_9002"}`); status != http.StatusUnauthorized || !strings.Contains(text, "invalid_token") {
		t.Errorf("a revoked token: %d %s", status, text)
	}

	for path, want := range map[string]string{
		"/.well-known/oauth-protected-resource/mcp": `"scopes_supported":["tool:crm:read"`,
		"/.well-known/oauth-authorization-server":   `"issuer":"` + public + `"`,
		"/.well-known/oauth-protected-resource":     `"dpop_signing_alg_values_supported"`,
		"/mcp/server-card":                          `"supportedProtocolVersions"`,
		"/.well-known/jwks.json":                    `"kty":"EC"`,
	} {
		if status, _, text := do(http.MethodGet, path, "", nil); status != http.StatusOK || !strings.Contains(text, want) {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	for _, secret := range []string{"approval:*:decide", "tool:*:admin", "tenant:*:impersonate"} {
		if _, _, text := do(http.MethodGet, "/.well-known/oauth-protected-resource", "", nil); strings.Contains(text, secret) {
			t.Errorf("clients are told to ask for %s", secret)
		}
	}
}
