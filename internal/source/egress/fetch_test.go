package egress_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas/internal/source/egress"
)

func TestFetchReadsOneSmallDocument(t *testing.T) {
	w := newWeb(t, func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/client.json":
			rw.Header().Set("Content-Type", "application/json; charset=utf-8")
			rw.Header().Set("Cache-Control", "max-age=60")
			_, _ = io.WriteString(rw, `{"client_id":"x"}`)
		case "/long":
			rw.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(rw, strings.Repeat(" ", 64<<10)+"1")
		case "/html":
			rw.Header().Set("Content-Type", "text/html")
		case "/moved":
			http.Redirect(rw, r, "/client.json", http.StatusFound)
		default:
			http.NotFound(rw, r)
		}
	})
	w.point("client.example.com", "127.0.0.1")
	g := w.guard("{}")
	body, header, err := g.Fetch(t.Context(), w.url("client.example.com", "/client.json"))
	if err != nil || string(body) != `{"client_id":"x"}` || header.Get("Cache-Control") != "max-age=60" {
		t.Fatalf("%s, %v, %v", body, header, err)
	}
	if r := w.seen[0]; r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" {
		t.Errorf("sent %v", r.Header)
	}
	for name, url := range map[string]string{
		"too long": w.url("client.example.com", "/long"), "no JSON": w.url("client.example.com", "/html"),
		"redirect": w.url("client.example.com", "/moved"), "missing": w.url("client.example.com", "/none"),
		"plain http": "http://client.example.com/client.json", "credentials": "https://u:p@client.example.com/client.json",
		"fragment": w.url("client.example.com", "/client.json#x"), "no URL": "client.json",
	} {
		if body, _, err := g.Fetch(t.Context(), url); err == nil {
			t.Errorf("%s: %s", name, body)
		}
	}
}

func TestFetchReachesPublicAddressesOnly(t *testing.T) {
	w := newWeb(t, nil)
	g := w.guard("{}", func(c *egress.Config) { c.AllowAddresses = nil })
	for _, addr := range []string{"127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "fd00::1", "64:ff9b::7f00:1"} {
		w.point("client.example.com", addr)
		if _, _, err := g.Fetch(t.Context(), w.url("client.example.com", "/client.json")); err == nil {
			t.Errorf("%s was reached", addr)
		}
	}
	if n := w.hits.Load(); n != 0 {
		t.Errorf("%d requests arrived", n)
	}
}
