package app

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
	"github.com/atlas-mcp/atlas/internal/edge/auth"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/state/redis"
)

// The states of a finding.
const (
	Healthy = "ok"
	Warning = "warning" // works, and should be looked at
	Failed  = "failed"  // calls fail, or are less safe than they seem
)

// A Finding is what Doctor found about one thing that Atlas depends on.
type Finding struct {
	Area   string `json:"area"` // such as source or issuer
	Name   string `json:"name"`
	Status string `json:"status"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"` // what to do, unless it is ok
}

// doctor collects findings.
type doctor struct{ findings []Finding }

func (d *doctor) ok(area, name, format string, args ...any) {
	d.findings = append(d.findings, Finding{Area: area, Name: name, Status: Healthy, Detail: fmt.Sprintf(format, args...)})
}

func (d *doctor) not(status, area, name, remedy, format string, args ...any) {
	d.findings = append(d.findings, Finding{area, name, status, fmt.Sprintf(format, args...), remedy})
}

// probeTime bounds the wait for one dependency.
const probeTime = 5 * time.Second

// Doctor looks at everything that an Atlas with these options depends on, and says what is wrong and
// what mends it. Nothing is served, and nothing but a connection is asked of a source. The findings
// are for operators: they hold paths and causes.
func Doctor(ctx context.Context, o Options) []Finding {
	d := &doctor{}
	files := OpenFiles(o.ConfigFile)
	name := files.Name(files.main)
	cfg, err := loadConfig(o, files)
	if err != nil {
		d.mistakes(name, err)
		return d.findings
	}
	a, err := Open(ctx, o)
	if _, ok := errors.AsType[*ConfigError](err); err != nil && !ok {
		d.not(Failed, "start", "atlas", "mend what it names, and ask again: the rest can only be looked at then", "%v", err)
		d.listener(ctx, cfg)
		return d.findings
	}
	if err != nil {
		d.mistakes(name, err)
		d.listener(ctx, cfg)
		return d.findings
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	d.ok("configuration", name, "%d sources, %d tools, %s mode", len(cfg.Sources), a.Count(atlas.KindTool), cfg.Mode)
	d.exposure(cfg)
	d.files(cfg)
	d.state(ctx, a)
	d.redis(ctx, a)
	d.sources(ctx, a)
	d.issuers(ctx, a)
	d.roles(a)
	d.listener(ctx, cfg)
	return d.findings
}

// mistakes reports an app that does not open, a line for each mistake.
func (d *doctor) mistakes(name string, err error) {
	remedy := "correct it; `atlas config check` checks the file alone"
	for line := range strings.SplitSeq(err.Error(), "\n") {
		d.not(Failed, "configuration", name, remedy, "%s", line)
	}
}

// exposure tells of settings that are fine on a laptop only.
func (d *doctor) exposure(cfg Config) {
	host, _, err := net.SplitHostPort(cfg.HTTP.Listen)
	loopback := err == nil && (host == "localhost" || edge.IsLoopback(host))
	if public, err := url.Parse(cfg.HTTP.PublicURL); cfg.Mode == Development && !loopback && err == nil && (public.Hostname() == "localhost" || edge.IsLoopback(public.Hostname())) {
		d.not(Warning, "exposure", "mode", "publish the port on loopback only, as docker-compose.yml does; or set mode: production, with an issuer of yours under auth.issuers",
			"development mode listens on %s, which is right in a container whose port is published on loopback", cfg.HTTP.Listen)
	} else if cfg.Mode == Development && !loopback {
		d.not(Failed, "exposure", "mode", "set mode: production, with an issuer of yours under auth.issuers; or listen on 127.0.0.1",
			"development mode listens on %s: its demo company and its authorization server are meant for one machine", cfg.HTTP.Listen)
	}
	if inTheClear(cfg.HTTP.PublicURL) {
		d.not(Warning, "exposure", "http.public_url", "put TLS before Atlas and give its https address as http.public_url", "%s: tokens cross the network in the clear", cfg.HTTP.PublicURL)
	}
	if cfg.embeddedIssuer() && strings.HasPrefix(cfg.HTTP.PublicURL, "https:") && len(cfg.Issuer.TrustedProxies) == 0 {
		d.not(Warning, "exposure", "issuer.trusted_proxies", "name the addresses of the proxy that ends TLS, and let it set X-Forwarded-For",
			"sign-ins and registrations are counted by address, and all come from the proxy's: ten wrong passwords of anybody keep everybody out for a while")
	}
	if cfg.Mode == Production && len(cfg.Auth.Issuers) == 0 && !cfg.embeddedIssuer() {
		d.not(Failed, "exposure", "auth.issuers", "name the issuer whose tokens are to be accepted; docs/identity.md has recipes", "no issuer: every call is refused")
	}
}

// inTheClear reports whether what is sent to the URL can be read, and changed, on the way.
func inTheClear(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && u.Scheme == "http" && u.Hostname() != "localhost" && !edge.IsLoopback(u.Hostname())
}

// files looks at what must be writable, and at what only Atlas may read.
func (d *doctor) files(cfg Config) {
	probe, err := os.CreateTemp(cfg.DataDir, ".doctor-*")
	if err != nil {
		d.not(Failed, "files", "data_dir", "let the user that Atlas runs as write to it, or choose another data_dir", "%v", err)
	} else {
		err := errors.Join(probe.Close(), os.Remove(probe.Name()))
		d.ok("files", "data_dir", "%s can be written%s", cfg.DataDir, suffix(err))
	}
	keys := filepath.Join(cfg.DataDir, "keys")
	entries, err := os.ReadDir(keys)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.not(Failed, "files", "keys", "let only the user that Atlas runs as read it", "%v", err)
		return
	}
	open := 0
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
			open++
			d.not(Failed, "files", "keys/"+e.Name(), "chmod 600 "+filepath.Join(keys, e.Name()), "others may read it (mode %04o)", info.Mode().Perm())
		}
	}
	if open == 0 {
		d.ok("files", "keys", "%d keys, private", len(entries))
	}
}

func suffix(err error) string {
	if err == nil {
		return ""
	}
	return " (" + err.Error() + ")"
}

// state looks at Atlas's own memory and at the audit log.
func (d *doctor) state(ctx context.Context, a *App) {
	where := a.cfg.State.Kind
	if driver, err := a.stateConfig(); err == nil {
		where = driver.Where(a.cfg.DataDir)
	}
	took, err := timed(ctx, a.state.Ping)
	if err != nil {
		d.not(Failed, "state", where, "bring it back, from a backup if need be: without it no approval, idempotency key or task works, and writes are refused", "%s: %v", a.cfg.State.Kind, err)
	} else {
		d.ok("state", where, "%s answers in %s", a.cfg.State.Kind, took)
	}
	if err := a.auditLog.Healthy(); err != nil {
		d.not(Failed, "audit", "log", "make room and let Atlas write to "+a.cfg.Audit.Path+"; until then writes are refused", "%v", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	head, err := a.auditHead()
	if err != nil {
		d.not(Failed, "audit", "log", "let only the user that Atlas runs as read its keys", "%v", err)
		return
	}
	report, err := verifyAudit(ctx, a.cfg.Audit.Path, head, true, false)
	if errors.Is(err, context.DeadlineExceeded) {
		d.ok("audit", "log", "can be written; too long to be verified here, `atlas audit verify` does")
		return
	}
	if err == nil && !report.OK() {
		err = fmt.Errorf("%d faults, the first: %s", len(report.Faults), report.Faults[0])
	}
	if err != nil {
		d.not(Failed, "audit", "log", "keep a copy of the files as they are, find out who changed them, then move them away", "%v", err)
		return
	}
	d.ok("audit", "log", "can be written; the chain of %d records holds", report.Records)
}

// redis looks at what replicas share.
func (d *doctor) redis(ctx context.Context, a *App) {
	r := a.replicas
	if r == nil {
		return
	}
	const area, name = "redis", "replicas"
	var info redis.Info
	took, err := timed(ctx, func(ctx context.Context) (err error) { info, err = r.client.Ping(ctx); return err })
	if err != nil {
		d.not(Failed, area, name, "start Redis, or correct redis.url; until then limits are held as ratelimit.on_store_failure says, and each replica caches for itself", "%v", err)
		return
	}
	d.ok(area, name, "%s %s, %s, answers in %s", info.Server, info.Version, info.Mode, took)
	for _, what := range a.cfg.Redis.Cleartext() {
		d.not(Warning, area, "transport", "write rediss:// in redis.url, or set redis.tls", "%s is reached in the clear: passwords and customers' data cross the network as they are", what)
	}
	if info.Eviction != "" && info.Eviction != "noeviction" {
		d.not(Warning, area, "maxmemory-policy", "CONFIG SET maxmemory-policy noeviction", "is %s: a full Redis drops limits", info.Eviction)
	}
	if a.cfg.Redis.BusKey == "" {
		d.not(Warning, area, "redis.bus_key", "set it to 64 hex digits, the same on all replicas (openssl rand -hex 32)", "none: whoever can write to Redis can make replicas reload")
	}
}

func timed(ctx context.Context, f func(context.Context) error) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	start := time.Now()
	err := f(ctx)
	return time.Since(start).Round(10 * time.Microsecond), err
}

// sources asks each source whether it is there.
func (d *doctor) sources(ctx context.Context, a *App) {
	g := a.current.use()
	if g == nil {
		return
	}
	defer g.lease.leave()
	d.embedder(ctx, g)
	for _, name := range slices.Sorted(maps.Keys(g.sources)) {
		s := g.sources[name]
		if r, ok := s.Source.(source.Reviewer); ok {
			d.upstream(ctx, name, r)
			continue
		}
		took, err := timed(ctx, s.Source.Ping)
		if err == nil {
			d.ok("source", name, "%s answers in %s", s.Kind, took)
			continue
		}
		d.not(Failed, "source", name, fmt.Sprintf(cmp.Or(remedies[atlas.CodeOf(err)], "look at sources.%s in the configuration, and at the server itself"), name), "%s: %s", s.Kind, cause(err))
	}
}

// remedies say what mends a source that does not answer, by the code that its tools answer meanwhile.
var remedies = map[atlas.Code]string{
	atlas.CodeSourceUnavailable: "start the server, or correct its address under sources.%s.with; the server's own log may say more",
	atlas.CodeTimeout:           "look at the load of the server of sources.%s, and at the network before it",
	atlas.CodeSourceMisused:     "do what each finding says, or correct sources.%s.with; until then nothing is read",
}

// embedder asks what makes vectors, where that is a service.
func (d *doctor) embedder(ctx context.Context, g *generation) {
	e, ok := g.embed.(interface {
		Ping(ctx context.Context) error
		Host() string
	})
	if !ok {
		return
	}
	took, err := timed(ctx, e.Ping)
	if err != nil {
		d.not(Failed, "embedder", g.embed.ID(), "look at embedder in the configuration, and at the service at "+e.Host(), "%s", cause(err))
		return
	}
	d.ok("embedder", g.embed.ID(), "%s answers in %s", e.Host(), took)
}

// issuers asks for the keys of each issuer.
func (d *doctor) issuers(ctx context.Context, a *App) {
	ctx, cancel := context.WithTimeout(ctx, 2*probeTime)
	defer cancel()
	for _, s := range a.verifier.Probe(ctx) {
		d.issuer(s)
	}
}

func (d *doctor) issuer(s auth.IssuerStatus) {
	from := s.Source
	if s.JWKSURL != "" {
		from += " " + s.JWKSURL
	}
	switch {
	case !s.Usable:
		d.not(Failed, "issuer", s.Issuer, "let Atlas reach the issuer, or correct jwks_url under auth.issuers; until then its tokens are answered with state_unavailable",
			"no keys from %s: %s", from, s.Error)
	case s.Error != "":
		d.not(Warning, "issuer", s.Issuer, "let Atlas reach the issuer again; tokens are checked with the keys of "+s.Age.Round(time.Second).String()+" ago",
			"%s: %s", from, s.Error)
	case s.Skewed:
		d.not(Warning, "issuer", s.Issuer, "set both clocks by NTP, or raise auth.clock_skew", "its clock is %s ahead of this one", s.ClockSkew)
	case inTheClear(s.JWKSURL):
		d.not(Warning, "issuer", s.Issuer, "give an https address as jwks_url under auth.issuers",
			"%d keys from %s: whoever stands between can put in keys of his own, and sign any token", s.Keys, from)
	default:
		d.ok("issuer", s.Issuer, "%d keys from %s", s.Keys, from)
	}
}

// roles compares what roles bring with what tools need.
func (d *doctor) roles(a *App) {
	needed := map[string]bool{}
	for _, t := range a.Tools() {
		for _, s := range t.Scopes {
			needed[s] = true
		}
	}
	idle := 0
	for _, role := range slices.Sorted(maps.Keys(a.cfg.Roles)) {
		for _, scope := range a.cfg.Roles[role] {
			if strings.HasPrefix(scope, "tool:") && scope != atlas.ScopeAdmin && !needed[scope] {
				idle++
				d.not(Warning, "roles", role, "correct the scope, or take it away", "no tool needs the scope %s", scope)
			}
		}
	}
	if idle == 0 {
		d.ok("roles", "scopes", "%d roles; each of their tool scopes opens a tool", len(a.cfg.Roles))
	}
}

// listener looks who has the address.
func (d *doctor) listener(ctx context.Context, cfg Config) {
	const area = "listener"
	addr := cfg.HTTP.Listen
	ln, err := Listen(ctx, addr)
	if err == nil {
		err = ln.Close()
		d.ok(area, addr, "free%s", suffix(err))
		return
	}
	status, body, gerr := get(ctx, "http://"+addr+"/readyz")
	var ready struct {
		Status  string   `json:"status"`
		Failing []string `json:"failing"`
	}
	if gerr != nil || json.Unmarshal(body, &ready) != nil || ready.Status == "" {
		d.not(Failed, area, addr, "stop the program that has the address, or choose another with --listen or http.listen", "another program has it")
		return
	}
	if status != http.StatusOK {
		d.not(Failed, area, addr, "mend what fails above; the server's log has the cause", "the Atlas that runs there is %s: %s", ready.Status, strings.Join(ready.Failing, ", "))
		return
	}
	d.ok(area, addr, "an Atlas runs there and is ready")
}

func get(ctx context.Context, url string) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	body, err = io.ReadAll(io.LimitReader(res.Body, 64<<10))
	return res.StatusCode, body, errors.Join(err, res.Body.Close())
}
