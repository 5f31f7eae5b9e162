package source_test

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

func TestCheckURL(t *testing.T) {
	for _, tc := range []struct {
		url           string
		secret, plain bool
		ok            bool
	}{
		{"https://q:6333", true, false, true},
		{"http://q:6333", false, false, true},
		{"http://q:6333", true, false, false},
		{"http://q:6333", true, true, true},
		{"http://127.0.0.1:6333", true, false, true},
		{"http://[::1]:6333", true, false, true},
		{"http://localhost", true, false, true},
		{"http://localhost.evil.example", true, false, false},
		{"http://127.0.0.1.evil.example", true, false, false},
		{"http://0x7f.1", true, false, false},
		{"https://user@q", false, false, false},
		{"https://q?x=1", false, false, false},
		{"https://q?", false, false, false},
		{"https://q#x", false, false, false},
		{"ftp://q", false, false, false},
		{"q:6333", false, false, false},
		{"", false, false, false},
		{"https://", false, false, false},
	} {
		if err := source.CheckURL(tc.url, tc.secret, tc.plain); (err == nil) != tc.ok {
			t.Errorf("%+v: %v", tc, err)
		}
	}
}

// Only the named certificates are trusted.
func TestTransport(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{file: true, "": false} {
		transport, err := source.Transport(name, 1)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: transport}).Get(server.URL)
		if (err == nil) != want {
			t.Errorf("%q: %v", name, err)
		}
		if err == nil {
			_ = resp.Body.Close()
		}
		transport.CloseIdleConnections()
	}
	for _, name := range []string{"transport_test.go", filepath.Join(t.TempDir(), "none.pem")} {
		if _, err := source.Transport(name, 1); atlas.CodeOf(err) != atlas.CodeSourceMisused {
			t.Errorf("%s: %v", name, err)
		}
	}
}
