package app_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"

	"github.com/atlas-mcp/atlas"
)

// What the embedded authorization server gives and refuses is recorded, and strangers cannot fill the log.
func TestIdentityEventsAreAudited(t *testing.T) {
	s := openScript(t, &txtar.Archive{})
	handler := s.app.HTTPHandler()
	post := func(path, kind, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, s.app.BaseURL()+path, strings.NewReader(body))
		r.Header.Set("Content-Type", kind)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		return w
	}
	const form = "application/x-www-form-urlencoded"
	w := post("/oauth/register", "application/json", `{"redirect_uris":["https://app.example/cb"],"token_endpoint_auth_method":"none"}`)
	var client struct {
		ID string `json:"client_id"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &client); err != nil || client.ID == "" {
		t.Fatal(err, w.Body)
	}
	for range 50 {
		post("/oauth/token", form, url.Values{"grant_type": {"refresh_token"}, "client_id": {"nobody"}, "refresh_token": {"hunter2"}}.Encode())
	}
	data, err := os.ReadFile(s.audit)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(data), "hunter2") {
		t.Error("the log holds what was sent as a token")
	}
	count := map[string]int{}
	for line := range strings.Lines(string(data)) {
		var rec atlas.AuditRecord
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			t.Fatal(err)
		}
		count[strings.Join([]string{rec.Kind, rec.Action, rec.Caller, rec.Target, rec.Status, string(rec.ErrorCode)}, " ")]++
	}
	if n := count["admin oauth.register anonymous "+client.ID+" ok "]; n != 1 {
		t.Errorf("registration: %d records of %v", n, count)
	}
	if n := count["admin oauth.refuse anonymous invalid_client denied not_authorized"]; n != 20 {
		t.Errorf("50 refusals: %d records of %v", n, count)
	}
}
