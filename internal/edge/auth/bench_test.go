package auth_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/atlas-mcp/atlas/internal/edge/auth"
)

func BenchmarkVerify(b *testing.B) {
	v := newVerifier(b, nil)
	tok := good(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), tok, ""); err != nil {
			b.Fatal(err)
		}
	}
}

// What a token costs at first, and once a minute.
func BenchmarkVerifyUncached(b *testing.B) {
	v := newVerifier(b, func(c *auth.Config, _ *auth.Deps) { c.CacheTTL = 1 })
	tok := good(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(b.Context(), tok, ""); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMiddleware(b *testing.B) {
	nop := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	b.Run("bearer", func(b *testing.B) {
		h := newVerifier(b, nil).Middleware(nop)
		r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/mcp", nil)
		r.Header.Set("Authorization", "Bearer "+good(b))
		w := httptest.NewRecorder()
		b.ReportAllocs()
		for b.Loop() {
			h.ServeHTTP(w, r)
		}
		if w.Code != http.StatusOK {
			b.Fatal(w.Code)
		}
	})
	b.Run("dpop", func(b *testing.B) {
		p := newProver(b)
		h := dpopVerifier(b, nil).Middleware(nop)
		tok := p.token(b)
		w := httptest.NewRecorder()
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer() // each request has its own proof
			r := p.request(b, tok)
			b.StartTimer()
			h.ServeHTTP(w, r)
			if w.Code != http.StatusOK {
				b.Fatal(w.Body)
			}
		}
	})
}

// The path of every call: it must not come to depend on the size of the token's claims.
func TestCachedTokenCostsNoAllocation(t *testing.T) {
	v := newVerifier(t, nil)
	tok, ctx := good(t), t.Context()
	n := testing.AllocsPerRun(200, func() {
		if _, err := v.Verify(ctx, tok, ""); err != nil {
			t.Error(err)
		}
	})
	if n > 0 {
		t.Errorf("%v allocations", n)
	}
}
