package mcp

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// Config is the driver's settings.
type Config struct {
	URL       string `yaml:"url"`        // of the MCP endpoint (Streamable HTTP), without user, query or fragment
	AllowHTTP bool   `yaml:"allow_http"` // credentials may go over plain HTTP to another host than this one
	CAFile    string `yaml:"ca_file"`    // certificates, as PEM, to trust instead of the system's

	// Trust says who decides which definitions are offered: approve (a person, by `atlas upstream
	// approve`; the default) or first_use (the first one seen is pinned, unless it looks suspicious).
	Trust string `yaml:"trust"`

	// How tenants are kept apart at the upstream; one of the three is needed. Shared says that it holds
	// no tenant's data, so that one identity may ask for all. Tenants gives each tenant credentials of
	// its own; a tenant without is not served. Otherwise {tenant} must stand in a header, or in what
	// tokens are asked for, and every tenant is served.
	Shared  bool                   `yaml:"shared"`
	Tenants map[string]Credentials `yaml:"tenants"`

	Credentials `yaml:",inline"` // of all tenants, or, beside tenants, of Atlas's own look at the definitions

	Headers    map[string]string `yaml:"headers"`     // sent with each request; {tenant} is the tenant's id
	DiscoverAs string            `yaml:"discover_as"` // tenant to look at the definitions as; default: the first of tenants

	Tools map[string]Grant `yaml:"tools"` // what the operator grants, by the upstream's name of the tool

	CheckEvery     time.Duration `yaml:"check_every"`      // how often the definitions are looked at unasked; 0 means 1m
	MaxAge         time.Duration `yaml:"max_age"`          // of the listing that a call relies on; 0 means 10s
	CheckEachCall  bool          `yaml:"check_each_call"`  // list before every call, whatever max_age says
	ConnectTimeout time.Duration `yaml:"connect_timeout"`  // of a connection with its first listing; 0 means 5s
	Timeout        time.Duration `yaml:"timeout"`          // of a call at most; 0 means 60s
	MaxAnswerBytes int64         `yaml:"max_answer_bytes"` // of one answer on the wire; 0 means 4 MiB
	MaxTools       int           `yaml:"max_tools"`        // that an upstream may list; 0 means 128
	MaxSessions    int           `yaml:"max_sessions"`     // tenants that are connected at a time; 0 means 256
	MaxConns       int           `yaml:"max_conns"`        // connections of one tenant; 0 means 8
}

// The policies of trust.
const (
	trustApprove  = "approve"
	trustFirstUse = "first_use"
)

// A Grant is what the operator says of one tool. The upstream's own word about what its tools do
// counts for nothing but to lower it.
type Grant struct {
	ReadOnly    bool          `yaml:"read_only"`   // changes nothing: needs no approval, may be retried
	Idempotent  bool          `yaml:"idempotent"`  // running twice equals running once
	Destructive *bool         `yaml:"destructive"` // needs a person's approval; default: yes, unless it is read_only
	Scopes      []string      `yaml:"scopes"`      // default: tool:<source>:call
	Cache       time.Duration `yaml:"cache"`       // of answers; read_only tools only
	Timeout     time.Duration `yaml:"timeout"`     // of a call; 0 means 30s
}

func (c Config) withDefaults() Config {
	c.Trust = cmp.Or(c.Trust, trustApprove)
	c.CheckEvery = cmp.Or(c.CheckEvery, time.Minute)
	c.MaxAge = cmp.Or(c.MaxAge, 10*time.Second)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, 5*time.Second)
	c.Timeout = cmp.Or(c.Timeout, time.Minute)
	c.MaxAnswerBytes = cmp.Or(c.MaxAnswerBytes, 4<<20)
	c.MaxTools = cmp.Or(c.MaxTools, 128)
	c.MaxSessions = cmp.Or(c.MaxSessions, 256)
	c.MaxConns = cmp.Or(c.MaxConns, 8)
	return c
}

// perTenant reports whether what is sent names the tenant.
func (c *Config) perTenant() bool {
	return slices.ContainsFunc(slices.Collect(maps.Values(c.Headers)), hasTenant) || c.templated()
}

const placeholder = "{tenant}"

func hasTenant(s string) bool { return strings.Contains(s, placeholder) }

// Headers that belong to the transport, to the protocol or to the credentials.
var ownHeaders = []string{
	"Accept", "Authorization", "Connection", "Content-Length", "Content-Type", "Cookie", "Host", "Keep-Alive", "Last-Event-Id", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// Validate reports all mistakes, joined.
func (c *Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	if err := source.CheckURL(c.URL, true, c.AllowHTTP); err != nil {
		check(false, "url: %w", err)
	}
	check(slices.Contains([]string{"", trustApprove, trustFirstUse}, c.Trust), "trust: %q is not known; use approve or first_use", c.Trust)
	c.checkTenancy(check)
	errs = append(errs, c.validate("", c.AllowHTTP)...)
	for _, name := range slices.Sorted(maps.Keys(c.Tenants)) {
		if _, err := atlas.ParseTenantID(name); err != nil {
			check(false, "tenants.%s: %w", name, err)
		}
		creds := c.Tenants[name]
		check(creds.kind() != "", "tenants.%s: has no credentials; give bearer, header, oauth or exchange", name)
		errs = append(errs, creds.validate("tenants."+name+".", c.AllowHTTP)...)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		canonical := textproto.CanonicalMIMEHeaderKey(name)
		check(headerName(name) && !slices.Contains(ownHeaders, canonical) && !strings.HasPrefix(canonical, "Mcp-"), "headers.%s: is no header that may be set here", name)
		check(headerValue(c.Headers[name]), "headers.%s: the value holds a character that no header has", name)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Tools)) {
		g := c.Tools[name]
		check(name != "" && len(name) <= maxName, "tools.%q: is no name of a tool", name)
		check(g.Cache == 0 || g.ReadOnly, "tools.%s: cache needs read_only", name)
		check(g.Cache >= 0 && g.Cache <= 24*time.Hour, "tools.%s: cache must be between 1ms and 24h", name)
		check(g.Timeout >= 0 && g.Timeout <= 10*time.Minute, "tools.%s: timeout must be between 1ms and 10m", name)
		check(!g.ReadOnly || g.Destructive == nil || !*g.Destructive, "tools.%s: is read_only and destructive", name)
		for _, s := range g.Scopes {
			check(s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '"' || r == '\\' || r > '~' }), "tools.%s: scope %q holds a character that no scope has", name, s)
		}
	}
	bounded := func(name string, d, most time.Duration) {
		check(d >= 0 && d <= most, "%s must be between 1ms and %s", name, most)
	}
	bounded("check_every", c.CheckEvery, 24*time.Hour)
	bounded("max_age", c.MaxAge, time.Hour)
	bounded("connect_timeout", c.ConnectTimeout, time.Minute)
	bounded("timeout", c.Timeout, 10*time.Minute)
	check(c.MaxAnswerBytes >= 0 && c.MaxAnswerBytes <= 64<<20, "max_answer_bytes must be between 1 and 67108864, is %d", c.MaxAnswerBytes)
	check(c.MaxTools >= 0 && c.MaxTools <= 1024, "max_tools must be between 1 and 1024, is %d", c.MaxTools)
	check(c.MaxSessions >= 0 && c.MaxSessions <= 1<<16, "max_sessions must be between 1 and 65536, is %d", c.MaxSessions)
	check(c.MaxConns >= 0 && c.MaxConns <= 1024, "max_conns must be between 1 and 1024, is %d", c.MaxConns)
	return errors.Join(errs...)
}

// checkTenancy refuses settings by which one tenant could be served with what belongs to another.
func (c *Config) checkTenancy(check func(ok bool, format string, args ...any)) {
	ways := 0
	for _, on := range []bool{c.Shared, len(c.Tenants) > 0, c.perTenant()} {
		if on {
			ways++
		}
	}
	check(ways > 0, "tenants: nothing keeps tenants apart at the upstream; give each its credentials under tenants, name {tenant} in headers or in what tokens are asked for, "+
		"or say shared: true if the upstream holds no tenant's data")
	check(!c.Shared || ways <= 1, "shared: true says that the upstream knows no tenants; take away tenants and {tenant}, or shared")
	if c.DiscoverAs == "" {
		check(!c.perTenant() || len(c.Tenants) > 0 && c.kind() == "", "discover_as: is needed with {tenant}: a tenant to look at the definitions as")
		return
	}
	_, err := atlas.ParseTenantID(c.DiscoverAs)
	check(err == nil && !c.Shared, "discover_as: must be a tenant, and needs tenants or {tenant}")
	if len(c.Tenants) > 0 {
		_, known := c.Tenants[c.DiscoverAs]
		check(known, "discover_as: %q is not one of tenants", c.DiscoverAs)
	}
}

// headerName reports whether s is a token (RFC 9110 section 5.6.2).
func headerName(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}

func headerValue(s string) bool {
	return s != "" && len(s) <= 16<<10 && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}
