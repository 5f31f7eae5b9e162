package mcp_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas/internal/edge/mcp"
)

// Whatever is asked for, globex gets its own document or the one error of what is not there.
func FuzzReadResource(f *testing.F) {
	for _, seed := range []string{
		"atlas://docs/shared", "atlas://docs/plan", "atlas://vault/key", "atlas://docs/../shared", "atlas://docs/%73hared", "atlas://docs/..%2f", "\x00", "{id}", "",
		"atlas://docs/shared\n", "ATLAS://DOCS/SHARED", "atlas://docs/sha\u0301red", "atlas://docs//", "file:///etc/passwd",
	} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	h, _ := withLibrary(f, mcp.Config{})
	tok := h.token(f, globex)
	f.Fuzz(func(t *testing.T, uri string, newer bool) {
		era := legacy
		if newer {
			era = modern
		}
		q, err := json.Marshal(uri)
		if err != nil {
			t.Fatal(err)
		}
		status, _, body := h.post(t, era, tok, message(era, "resources/read", `"uri":`+string(q), ""), nil)
		if status >= 500 || strings.Contains(body, "acme") && !strings.Contains(uri, "acme") || !json.Valid([]byte(body)) {
			t.Errorf("%q: %d %s", uri, status, body)
		}
		known := map[string]string{"atlas://docs/shared": "globex's own", "atlas://logo": "image/png", "atlas://schema/crm": "customers"}
		if want, ok := known[uri]; ok {
			if !strings.Contains(body, want) {
				t.Errorf("%q: %d %s", uri, status, body)
			}
		} else if !strings.Contains(body, `"message":"Resource not found"`) && !strings.Contains(body, `"code":-32020`) {
			t.Errorf("%q: %d %s", uri, status, body)
		}
	})
}

// Whatever a cursor says, a list has nothing in it that the caller may not see.
func FuzzListCursor(f *testing.F) {
	for _, seed := range []string{"", "cHJvbXB0czphdGxhcw", "cmVzb3VyY2VzOmF0bGFzOi8vZG9jcy9wYXk", "dGVtcGxhdGVzOmRvY3M", "%%", "AAAA", "cHJvbXB0czo", strings.Repeat("A", 5000)} {
		for i := range 3 {
			f.Add(seed, i)
		}
	}
	h, _ := withLibrary(f, mcp.Config{PageSize: 2})
	tok := h.token(f, globex)
	methods := []string{"prompts/list", "resources/list", "resources/templates/list"}
	f.Fuzz(func(t *testing.T, cursor string, which int) {
		q, err := json.Marshal(cursor)
		if err != nil {
			t.Fatal(err)
		}
		method := methods[uint(which)%uint(len(methods))]
		status, _, body := h.post(t, modern, tok, message(modern, method, `"cursor":`+string(q), ""), nil)
		if status >= 500 || !json.Valid([]byte(body)) {
			t.Errorf("%q: %d %s", cursor, status, body)
		}
		for _, secret := range []string{"vault", "whisper", "docs/plan", "docs/pay"} {
			if strings.Contains(body, secret) && !strings.Contains(cursor, secret) {
				t.Errorf("%q of %s: %s", cursor, method, body)
			}
		}
	})
}
