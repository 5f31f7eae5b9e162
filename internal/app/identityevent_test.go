package app_test

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
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

// A stranger who says where the description of his client lies reaches no address that the operator has
// opened for the hosts of an allowlist.
func TestStrangersReachNoOpenedAddress(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var reached atomic.Int32
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			reached.Add(1)
			_ = conn.Close()
		}
	})
	defer wg.Wait()
	defer ln.Close() //nolint:errcheck // nothing is lost
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := openScript(t, txtar.Parse([]byte("-- config.yaml --\negress: {ports: ["+port+"], allow_addresses: [127.0.0.0/8]}\n")))
	q := url.Values{"client_id": {"https://127.0.0.1:" + port + "/client.json"}, "redirect_uri": {"https://app.example/cb"}, "response_type": {"code"}}
	w := httptest.NewRecorder()
	s.app.HTTPHandler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, s.app.BaseURL()+"/oauth/authorize?"+q.Encode(), nil))
	if w.Code != http.StatusBadRequest || reached.Load() != 0 {
		t.Errorf("%d, reached %d times: %s", w.Code, reached.Load(), w.Body)
	}
}
