package app

import "github.com/atlas-mcp/atlas/internal/config"

// Variables is the table of settings that the environment can make; .env.example is made from it.
// The names are the seed's where the seed has one.
var Variables = []config.Variable{
	{Name: "ATLAS_MODE", Path: "mode", Component: "General", Doc: "development or production", Default: "development"},
	{Name: "ATLAS_DATA_DIR", Path: "data_dir", Component: "General", Doc: "where sources, state, audit log and keys are kept", Default: ".atlas", Text: true},
	{Name: "ATLAS_DEMO_DATA", Path: "demo_data", Component: "General", Doc: "load the demo company", Default: "true in the built-in configuration"},
	{Name: "ATLAS_LOG_LEVEL", Path: "log.level", Component: "General", Doc: "debug, info, warn or error", Default: "info"},
	{Name: "ATLAS_LOG_FORMAT", Path: "log.format", Component: "General", Doc: "text or json", Default: "text"},

	{Name: "ATLAS_HTTP_LISTEN", Path: "http.listen", Component: "1 Transport and session", Doc: "address and port to listen on", Default: "127.0.0.1:8080", Text: true},
	{Name: "ATLAS_PUBLIC_URL", Path: "http.public_url", Component: "1 Transport and session", Doc: "how clients reach the server, without path", Default: "http:// and the listen address", Text: true},
	{Name: "ATLAS_ALLOWED_HOSTS", Path: "http.allowed_hosts", Component: "1 Transport and session", Doc: "further Host names, as a YAML list such as [atlas.example]", Default: "[]"},
	{Name: "ATLAS_ALLOWED_ORIGINS", Path: "http.allowed_origins", Component: "1 Transport and session", Doc: "origins of browser clients, as a YAML list", Default: "[]"},
	{Name: "ATLAS_MAX_BODY", Path: "http.max_body", Component: "1 Transport and session", Doc: "bytes of a request", Default: "1048576"},
	{Name: "ATLAS_DRAIN_TIMEOUT", Path: "http.drain_timeout", Component: "1 Transport and session", Doc: "for running calls at stop", Default: "15s"},

	{Name: "ATLAS_AUTH_ISSUERS", Path: "auth.issuers", Component: "2 Authentication", Doc: "accepted issuers, as a YAML list of {issuer, jwks_url, audience}", Default: "[]"},
	{Name: "ATLAS_AUTH_TENANT_CLAIM", Path: "auth.tenant_claim", Component: "2 Authentication", Doc: "claim that names the tenant", Default: "tenant", Text: true},
	{Name: "ATLAS_AUTH_ROLES_CLAIM", Path: "auth.roles_claim", Component: "2 Authentication", Doc: "claim that lists the roles", Default: "roles", Text: true},
	{Name: "ATLAS_AUTH_CLOCK_SKEW", Path: "auth.clock_skew", Component: "2 Authentication", Doc: "tolerated difference of clocks", Default: "30s"},

	{Name: "ATLAS_POLICY_FILE", Path: "policy.file", Component: "3 Policy", Doc: "file of rules, relative to the configuration file", Default: "policy.yaml", Text: true},

	{Name: "ATLAS_TOOL_FILES", Path: "tools.files", Component: "4 Registry and 6 execution", Doc: "files of tools, as a YAML list of patterns", Default: "[tools/*.yaml]"},

	{Name: "ATLAS_GUARD_MAX_BYTES", Path: "guard.max_bytes", Component: "5 Validation", Doc: "bytes of one answer", Default: "65536"},
	{Name: "ATLAS_GUARD_MAX_TOKENS", Path: "guard.max_tokens", Component: "5 Validation", Doc: "estimated tokens of one answer", Default: "8000"},

	{Name: "ATLAS_CIRCUIT_BREAKER_FAILURE_THRESHOLD", Path: "breaker.failure_threshold", Component: "7 Reliability", Doc: "failures within the period that open a circuit", Default: "5"},
	{Name: "ATLAS_CIRCUIT_BREAKER_RECOVERY", Path: "breaker.recovery", Component: "7 Reliability", Doc: "how long a circuit stays open", Default: "30s"},
	{Name: "ATLAS_RETRY_MAX_ATTEMPTS", Path: "retry.max_attempts", Component: "7 Reliability", Doc: "runs of a call in all", Default: "3"},
	{Name: "ATLAS_RETRY_BASE_DELAY", Path: "retry.base_delay", Component: "7 Reliability", Doc: "upper bound of the first delay", Default: "100ms"},
	{Name: "ATLAS_ATBA_FLOOR", Path: "budget.floor", Component: "7 Reliability", Doc: "least time worth giving to a call", Default: "500ms"},
	{Name: "ATLAS_ATBA_SAFETY", Path: "budget.safety", Component: "7 Reliability", Doc: "factor on the predicted latency", Default: "1.5"},

	{Name: "ATLAS_RATE_LIMIT_CALLER", Path: "ratelimit.caller", Component: "8 Rate limits", Doc: "per caller, as {rate: 240, per: 1m, burst: 60}", Default: "see the example"},
	{Name: "ATLAS_RATE_LIMIT_TOOL", Path: "ratelimit.tool", Component: "8 Rate limits", Doc: "per tool of a tenant", Default: "{rate: 600, per: 1m, burst: 100}"},
	{Name: "ATLAS_RATE_LIMIT_TENANT", Path: "ratelimit.tenant", Component: "8 Rate limits", Doc: "per tenant", Default: "{rate: 2400, per: 1m, burst: 400}"},

	{Name: "ATLAS_REDIS_URL", Path: "redis.url", Component: "8 Rate limits and 9 cache", Doc: "Redis of limits, cached answers and news that replicas share (restart)", Default: "none: each process on its own", Text: true},
	{Name: "ATLAS_REDIS_BUS_KEY", Path: "redis.bus_key", Component: "8 Rate limits and 9 cache", Doc: "64 hex digits that replicas authenticate their news with (restart)", Default: "", Text: true},

	{Name: "ATLAS_CACHE_TENANT_BYTES", Path: "cache.tenant_bytes", Component: "9 Cache", Doc: "memory for one tenant's answers, in bytes (restart)", Default: "8388608"},
	{Name: "ATLAS_CACHE_NEGATIVE_TTL", Path: "cache.negative_ttl", Component: "9 Cache", Doc: "how long a not_found is kept", Default: "5s"},

	{Name: "ATLAS_OTEL_ENDPOINT", Path: "telemetry.otlp_endpoint", Component: "11 Observability", Doc: "URL of an OTLP/HTTP collector; empty: no export", Default: "", Text: true},
	{Name: "ATLAS_SERVICE_NAME", Path: "telemetry.service_name", Component: "11 Observability", Doc: "service.name of the spans", Default: "atlas-mcp", Text: true},
	{Name: "ATLAS_METRICS", Path: "http.metrics", Component: "11 Observability", Doc: "who may read /metrics: loopback, public or none", Default: "loopback"},
	{Name: "ATLAS_AUDIT_LOG_PATH", Path: "audit.path", Component: "11 Observability", Doc: "the audit log", Default: "audit/audit.jsonl in the data folder", Text: true},

	{Name: "ATLAS_TENANT_HEADER", Path: "tenant.header", Component: "12 Governance", Doc: "header that repeats the tenant", Default: "X-Tenant-Id", Text: true},
	{Name: "ATLAS_APPROVAL_TTL", Path: "approval.ttl", Component: "12 Governance", Doc: "life of an approval", Default: "1h"},
	{Name: "ATLAS_ISOLATION_INTERVAL", Path: "isolation.interval", Component: "12 Governance", Doc: "between checks of the isolation of tenants while the server runs; 0s: none (restart)", Default: "1m"},
	{Name: "ATLAS_EGRESS_FILE", Path: "egress.file", Component: "12 Governance", Doc: "outbound allowlist, relative to the configuration file", Default: "http_allowlist.yaml", Text: true},
}
