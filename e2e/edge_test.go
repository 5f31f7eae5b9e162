package e2e_test

import (
	"net/http"
	"strings"
	"testing"
)

// What a caller meets before any tool: tokens, tenants, discovery, health and metrics.
func TestEdge(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	good := s.token(t, "acme", "me", "--role", "support_copilot")

	t.Run("tokens", func(t *testing.T) {
		other := start(t, t.TempDir()) // has a key of its own
		for name, tt := range map[string]struct {
			token, code string
		}{
			"none":           {"", "missing_token"},
			"nonsense":       {"x.y.z", "invalid_token"},
			"other audience": {s.token(t, "acme", "me", "--role", "support_copilot", "--audience", "https://elsewhere.example/mcp"), "invalid_token"},
			"other issuer":   {other.token(t, "acme", "me", "--role", "support_copilot"), "invalid_token"},
			"other key":      {swapSignature(good, other.token(t, "acme", "me")), "invalid_token"},
			"no algorithm":   {"eyJhbGciOiJub25lIn0." + strings.Split(good, ".")[1] + ".", "invalid_token"},
		} {
			t.Run(name, func(t *testing.T) {
				res, err := s.do(t, s.rpc(t, modern, tt.token, "tools/list", nil))
				if err != nil {
					t.Fatal(err)
				}
				challenge := res.header.Get("WWW-Authenticate")
				if res.status != http.StatusUnauthorized || !strings.Contains(res.body, `"`+tt.code+`"`) ||
					!strings.Contains(challenge, "Bearer ") || !strings.Contains(challenge, `resource_metadata="`+s.url+`/.well-known/oauth-protected-resource/mcp"`) {
					t.Errorf("%s", res)
				}
				if strings.Contains(res.body, "crm_") {
					t.Errorf("tools without a token: %s", res)
				}
			})
		}
	})

	t.Run("expired", func(t *testing.T) {
		// A clock skew is tolerated by default, so the token is from a server that tolerates none.
		strict := start(t, t.TempDir(), "--config", site(t, func(f files) {
			f.replace("atlas.yaml", "  issuers: []", "  clock_skew: 1ms\n  issuers: []")
		}))
		token := strict.token(t, "acme", "me", "--role", "support_copilot", "--ttl", "1s")
		eventually(t, "the token expires", func() bool {
			res, err := strict.do(t, strict.rpc(t, modern, token, "tools/list", nil))
			return err == nil && res.status == http.StatusUnauthorized && strings.Contains(res.body, "token_expired") &&
				strings.Contains(res.header.Get("WWW-Authenticate"), "resource_metadata=")
		})
	})

	t.Run("tenants", func(t *testing.T) {
		for tenant, want := range map[string]int{"": 200, "acme": 200, "globex": 403, "no-such": 403, "A B": 403} {
			req := s.rpc(t, modern, good, "tools/list", nil)
			if tenant != "" {
				req.Header.Set("X-Tenant-Id", tenant)
			}
			res, err := s.do(t, req)
			if err != nil || res.status != want {
				t.Errorf("X-Tenant-Id %q: %v, %v", tenant, res, err)
			}
		}
	})

	t.Run("hosts and origins", func(t *testing.T) {
		req := s.rpc(t, modern, good, "tools/list", nil)
		req.Host = "attacker.example" // DNS rebinding
		if res, err := s.do(t, req); err != nil || res.status != http.StatusForbidden && res.status != http.StatusMisdirectedRequest {
			t.Errorf("%v, %v", res, err)
		}
		req = s.rpc(t, modern, good, "tools/list", nil)
		req.Header.Set("Origin", "https://attacker.example")
		if res, err := s.do(t, req); err != nil || res.status != http.StatusForbidden {
			t.Errorf("%v, %v", res, err)
		}
	})

	t.Run("documents", func(t *testing.T) {
		for path, want := range map[string]string{
			"/.well-known/oauth-protected-resource":     `"resource":"` + s.url + `/mcp"`,
			"/.well-known/oauth-protected-resource/mcp": `"authorization_servers":["` + s.url + `"]`,
			"/.well-known/mcp-server":                   `"endpoint":"` + s.url + `/mcp"`,
			"/.well-known/jwks.json":                    `"keys":`,
			"/healthz":                                  `"status":"ok"`,
			"/readyz":                                   `"status":"ready"`,
		} {
			if res := s.get(t, path, ""); res.status != 200 || !strings.Contains(res.body, want) || strings.Contains(res.body, "crm_") || strings.Contains(res.body, `"d":`) {
				t.Errorf("%s: %s", path, res)
			}
		}
	})

	t.Run("bad bodies", func(t *testing.T) {
		for _, body := range []string{"", "{", "[]", "null", `{"jsonrpc":"2.0"}`, `{"jsonrpc":"2.0","id":1,"method":"nope","params":{}}`, strings.Repeat("[", 100_000), "\x00\xff"} {
			for _, era := range []string{modern, legacy} {
				req := s.rpc(t, era, good, "tools/call", object{"name": "crm_order"})
				raw, err := http.NewRequestWithContext(t.Context(), http.MethodPost, req.URL.String(), strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				raw.Header = req.Header
				res, err := s.do(t, raw)
				if err != nil || res.status >= 500 || strings.Contains(res.body, "goroutine") || strings.Contains(res.body, ".go:") {
					t.Errorf("%.20q: %v, %v", body, res, err)
				}
			}
		}
	})

	t.Run("metrics", func(t *testing.T) {
		for range 2 { // a miss and a hit
			s.call(t, modern, good, "crm_order", object{"order_id": "o_9002"})
		}
		s.call(t, modern, good, "crm_query", object{"sql": "SELECT dob FROM customers"})
		res := s.get(t, "/metrics", "")
		for _, want := range []string{
			`atlas_tool_calls_total{status="ok",tool="crm_order"}`, `atlas_tool_latency_seconds_bucket{tool="crm_order",le="0.005"}`,
			`atlas_cache_hits_total{tool="crm_order"} 1`, `atlas_cache_misses_total{tool="crm_order"} 1`, `atlas_circuit_state`,
			`atlas_active_sessions`, `atlas_policy_denied_total{rule="no-pii-columns-for-support-agents"} 1`,
		} {
			if !strings.Contains(res.body, want) {
				t.Errorf("%s is missing", want)
			}
		}
		for _, tenant := range []string{"acme", "globex"} {
			if strings.Contains(res.body, tenant) {
				t.Errorf("a metric names the tenant %s", tenant)
			}
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/metrics", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Forwarded-For", "203.0.113.9")
		if res, err := s.do(t, req); err != nil || res.status != http.StatusNotFound {
			t.Errorf("metrics through a proxy: %v, %v", res, err)
		}
	})

	t.Run("rate limit", func(t *testing.T) {
		hasty := s.token(t, "acme", "hasty", "--role", "support_copilot")
		var limited *answer
		for range 400 { // more than the burst and what comes back meanwhile
			if res := s.call(t, modern, hasty, "crm_order", object{"order_id": "o_9001"}); strings.Contains(res.body, `"rate_limited"`) {
				limited = res
				break
			}
		}
		if limited == nil || !strings.Contains(limited.body, `"retry_after_ms":`) {
			t.Errorf("%v", limited)
		}
		if res := s.call(t, modern, good, "crm_order", object{"order_id": "o_9001"}); strings.Contains(res.body, "rate_limited") {
			t.Errorf("another caller is limited, too: %s", res)
		}
	})
}

// swapSignature puts the signature of another token under this one.
func swapSignature(token, other string) string {
	return token[:strings.LastIndex(token, ".")] + other[strings.LastIndex(other, "."):]
}
