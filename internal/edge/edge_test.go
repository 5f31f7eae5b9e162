package edge_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

func TestRequestIDsAreUnguessable(t *testing.T) {
	form := regexp.MustCompile(`^req_[a-z2-7]{20}$`)
	seen := make(map[string]bool)
	for range 1000 {
		id := edge.NewRequestID()
		if !form.MatchString(id) || seen[id] {
			t.Fatalf("id %q", id)
		}
		seen[id] = true
	}
}

// What stands in a challenge must not be able to end its quotes or its line.
func TestChallengeQuotes(t *testing.T) {
	w := httptest.NewRecorder()
	edge.Challenge{Realm: "a\"b\\c\r\nX: y"}.Refuse(w, httptest.NewRequestWithContext(t.Context(), "POST", "/mcp", nil), atlas.Errorf(atlas.CodeInvalidToken, nil, "x\" y"))
	want := `Bearer realm="a\"b\\cX: y", error="invalid_token", error_description="x\" y"`
	if got := w.Header().Get("WWW-Authenticate"); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestFailureWithOddContext(t *testing.T) {
	w := httptest.NewRecorder()
	e := &atlas.Error{Code: atlas.CodeRateLimited, RetryAfter: 1001 * time.Millisecond, Context: map[string]any{"f": func() {}}}
	edge.WriteFailure(w, e)
	if w.Code != 429 || w.Header().Get("Retry-After") != "2" || w.Body.Len() == 0 {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}

func TestLoopback(t *testing.T) {
	for addr, want := range map[string]bool{
		"127.0.0.1:1": true, "[::1]:1": true, "127.255.0.3": true, "::1": true, "[::ffff:127.0.0.1]:80": true,
		"": false, "localhost:1": false, "0.0.0.0:1": false, "[::]:1": false, "10.0.0.1:1": false, "127.0.0.1.example:1": false,
	} {
		if got := edge.IsLoopback(addr); got != want {
			t.Errorf("%q: %v", addr, got)
		}
	}
}

func BenchmarkNewRequestID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		edge.NewRequestID()
	}
}

// What says that it was passed on is not from here, whatever the header of its proxy.
func TestFromLoopback(t *testing.T) {
	for header, want := range map[string]bool{
		"Accept": true, "X-Request-Id": true, "Forwarded": false, "Via": false, "X-Forwarded-For": false, "X-Forwarded-Host": false,
		"X-Forwarded-Proto": false, "X-Real-Ip": false, "Cf-Connecting-Ip": false, "True-Client-Ip": false,
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.RemoteAddr = "127.0.0.1:4000"
		r.Header.Set(header, "127.0.0.1")
		if got := edge.FromLoopback(r); got != want {
			t.Errorf("%s: %v", header, got)
		}
		if r.RemoteAddr = "192.0.2.1:4000"; edge.FromLoopback(r) {
			t.Errorf("%s: from another machine", header)
		}
	}
}
