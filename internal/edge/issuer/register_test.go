package issuer_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atlas-mcp/atlas/internal/edge/issuer"
)

func (i *install) register(body string, remote string) (int, map[string]any) {
	i.t.Helper()
	r := httptest.NewRequestWithContext(i.t.Context(), http.MethodPost, base+"/oauth/register", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.RemoteAddr = remote + ":1"
	w := httptest.NewRecorder()
	i.h.ServeHTTP(w, r)
	var out map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		i.t.Fatal(err, w.Body)
	}
	return w.Code, out
}

func TestRegistration(t *testing.T) {
	i := newInstall(t)
	status, c := i.register(`{"client_name":"CLI","redirect_uris":["http://127.0.0.1:7777/cb"],"grant_types":["authorization_code","refresh_token","client_credentials"],"token_endpoint_auth_method":"none","client_id":"web","jwks_uri":"https://evil.example"}`, "192.0.2.1")
	id, _ := c["client_id"].(string)
	if status != http.StatusCreated || id == "" || id == "web" || c["client_secret"] != nil || len(c["grant_types"].([]any)) != 2 || c["application_type"] != "native" || c["jwks_uri"] != nil {
		t.Fatalf("%d %v", status, c)
	}
	b := i.browser()
	page := b.signIn(authorize("client_id", id, "redirect_uri", "http://127.0.0.1:9/cb"), "ann@acme")
	if !strings.Contains(page.Body.String(), "nobody has checked this name") {
		t.Error("the page vouches for the name")
	}
	r := i.redeem(b.allow(page).Get("code"), "client_id", id, "redirect_uri", "http://127.0.0.1:9/cb").must(t)
	i.refresh(r.RefreshToken, "client_id", id).must(t)
	i.redeem("", "client_id", id, "grant_type", "client_credentials").refused(t, "unauthorized_client")

	// With a secret: the default of RFC 7591.
	_, c = i.register(`{"redirect_uris":["https://app.example/cb"]}`, "192.0.2.1")
	id, secret := c["client_id"].(string), c["client_secret"].(string)
	code := i.code("ann@acme", "client_id", id)
	i.redeem(code, "client_id", id).refused(t, "invalid_client")
	i.redeem(code, "client_id", id, "client_secret", "x").refused(t, "invalid_client")
	if r := i.redeem(code, "client_id", id, "client_secret", secret).must(t); r.RefreshToken != "" {
		t.Error("a refresh token nobody has asked for")
	}
}

func TestRegistrationRefuses(t *testing.T) {
	i := newInstall(t)
	for body, want := range map[string]string{
		`{`:                    "invalid_client_metadata",
		`[]`:                   "invalid_client_metadata",
		`{}`:                   "invalid_redirect_uri",
		`{"redirect_uris":[]}`: "invalid_redirect_uri",
		`{"redirect_uris":["http://app.example/cb"]}`:                                                      "invalid_redirect_uri",
		`{"redirect_uris":["javascript:alert(1)"]}`:                                                        "invalid_redirect_uri",
		`{"redirect_uris":["data:text/html,x"]}`:                                                           "invalid_redirect_uri",
		`{"redirect_uris":["https://app.example/cb#x"]}`:                                                   "invalid_redirect_uri",
		`{"redirect_uris":["https://u@app.example/cb"]}`:                                                   "invalid_redirect_uri",
		`{"redirect_uris":["https://*.example/cb"]}`:                                                       "invalid_redirect_uri",
		`{"redirect_uris":["http://127.0.0.1/cb"],"application_type":"web"}`:                               "invalid_redirect_uri",
		`{"redirect_uris":["https://localhost/cb"],"application_type":"web"}`:                              "invalid_redirect_uri",
		`{"redirect_uris":["my.app:/cb"],"application_type":"web"}`:                                        "invalid_redirect_uri",
		`{"redirect_uris":["https://app.example/cb"],"application_type":"other"}`:                          "invalid_client_metadata",
		`{"redirect_uris":["https://app.example/cb"],"grant_types":["client_credentials"]}`:                "invalid_client_metadata",
		`{"redirect_uris":["https://app.example/cb"],"response_types":["token"]}`:                          "invalid_client_metadata",
		`{"redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"tls"}`:                  "invalid_client_metadata",
		`{"redirect_uris":["https://app.example/cb"],"scope":"a\"b"}`:                                      "invalid_client_metadata",
		`{"redirect_uris":["https://app.example/cb"],"client_name":"` + strings.Repeat("x", 300) + `"}`:    "invalid_client_metadata",
		`{"redirect_uris":["https://app.example/cb"],"client_name":"` + strings.Repeat("x", 20_000) + `"}`: "invalid_client_metadata",
	} {
		// Each from another address: there is a limit for one.
		if status, got := i.register(body, "2001:db8:0:"+string("0123456789abcdefghijklmnop"[len(body)%16])+"::1"); status == http.StatusCreated || got["error"] != want {
			t.Errorf("%.90s: %d %v, want %s", body, status, got, want)
		}
	}
}

// Anybody may register, nobody can fill the store or push others out.
func TestRegistrationFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newInstall(t, func(c *issuer.ServerConfig, _ *issuer.ServerDeps) { c.Registration.Max = 12 })
		const body = `{"redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"none"}`
		_, kept := i.register(body, "192.0.2.1")
		_, unused := i.register(body, "192.0.2.1")
		id := kept["client_id"].(string)
		i.code("ann@acme", "client_id", id)
		made, from := 0, 0
		for n := range 400 {
			if n%15 == 0 {
				from++
			}
			if status, _ := i.register(body, "198.51.100."+string(rune('0'+from%10))+string(rune('0'+from/10))); status == http.StatusCreated {
				made++
			}
		}
		if made != 10 {
			t.Errorf("%d registrations in ten slots", made)
		}
		full := 0
		for range 30 {
			if status, got := i.register(body, "192.0.2.77"); status == http.StatusTooManyRequests {
				full++
			} else if status != http.StatusServiceUnavailable {
				t.Errorf("%d %v", status, got)
			}
		}
		if full != 10 {
			t.Errorf("%d of 30 were too many for one address", full)
		}
		time.Sleep(61 * time.Minute)
		// Who was used is still there; who was not has made room.
		i.code("ann@acme", "client_id", id)
		if w := i.browser().get(authorize("client_id", unused["client_id"].(string))); w.Code != http.StatusBadRequest {
			t.Errorf("an unused registration: %d", w.Code)
		}
		if status, _ := i.register(body, "192.0.2.1"); status != http.StatusCreated {
			t.Errorf("no room: %d", status)
		}
		// A new client in an old slot is not the old client.
		time.Sleep(91 * 24 * time.Hour)
		for range 20 {
			i.register(body, "192.0.2.1")
		}
		if w := i.browser().get(authorize("client_id", id)); w.Code != http.StatusBadRequest {
			t.Errorf("an old id in a new slot: %d", w.Code)
		}
	})
}
