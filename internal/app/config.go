package app

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/config"
	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/edge/auth"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
	"github.com/atlas-mcp/atlas/internal/edge/mcp"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
	"github.com/atlas-mcp/atlas/internal/edge/tenant"
	"github.com/atlas-mcp/atlas/internal/isolation"
	"github.com/atlas-mcp/atlas/internal/source/egress"
	"github.com/atlas-mcp/atlas/internal/stage/approval"
	"github.com/atlas-mcp/atlas/internal/stage/audit"
	"github.com/atlas-mcp/atlas/internal/stage/breaker"
	"github.com/atlas-mcp/atlas/internal/stage/budget"
	"github.com/atlas-mcp/atlas/internal/stage/cache"
	"github.com/atlas-mcp/atlas/internal/stage/guard"
	"github.com/atlas-mcp/atlas/internal/stage/idempotency"
	"github.com/atlas-mcp/atlas/internal/stage/ratelimit"
	"github.com/atlas-mcp/atlas/internal/stage/registry"
	"github.com/atlas-mcp/atlas/internal/stage/retry"
	"github.com/atlas-mcp/atlas/internal/stage/rounds"
	"github.com/atlas-mcp/atlas/internal/stage/telemetry"
	"github.com/atlas-mcp/atlas/internal/stage/validation"
	"github.com/atlas-mcp/atlas/internal/state/redis"
	"github.com/atlas-mcp/atlas/internal/tool"
)

// Modes.
const (
	Development = "development"
	Production  = "production"
)

// A Config is the whole configuration file. Each part declares its own section.
type Config struct {
	Mode     string `yaml:"mode"`      // development (default) or production
	DataDir  string `yaml:"data_dir"`  // default .atlas
	DemoData bool   `yaml:"demo_data"` // the demo company: its personas, and its data in the sources
	Seeded   bool   `yaml:"seeded"`    // the data is there already: `atlas seed` loads it, the server does not

	Log    Log           `yaml:"log"`
	HTTP   HTTP          `yaml:"http"`
	Auth   auth.Config   `yaml:"auth"`
	Tenant tenant.Config `yaml:"tenant"`
	Issuer IssuerConfig  `yaml:"issuer"`

	Roles    map[string][]string   `yaml:"roles"` // scopes by role
	State    KindSpec              `yaml:"state"` // what Atlas itself remembers: sqlite (default) or another row of kinds.go
	Redis    redis.Config          `yaml:"redis"` // what replicas share: limits, cached answers, news; without it each is on its own
	Sources  map[string]SourceSpec `yaml:"sources"`
	Embedder KindSpec              `yaml:"embedder"` // for vector sources: lexical (default) or another row of kinds.go
	Tools    ToolFiles             `yaml:"tools"`
	Memory   Memory                `yaml:"memory"` // what is remembered of customers
	Policy   FileRef               `yaml:"policy"`
	Egress   Egress                `yaml:"egress"`

	Telemetry   telemetry.Config   `yaml:"telemetry"`
	Audit       audit.Config       `yaml:"audit"`
	Registry    registry.Config    `yaml:"registry"`
	Guard       guard.Config       `yaml:"guard"`
	Rounds      rounds.Config      `yaml:"rounds"`
	Validation  validation.Config  `yaml:"validation"`
	RateLimit   ratelimit.Config   `yaml:"ratelimit"`
	Flood       ratelimit.Rate     `yaml:"flood"` // calls of one caller that reach the pipeline at all; default 4800 a minute, burst 1200 (restart)
	Approval    approval.Config    `yaml:"approval"`
	Idempotency idempotency.Config `yaml:"idempotency"`
	Cache       cache.Config       `yaml:"cache"`
	Budget      budget.Config      `yaml:"budget"`
	Breaker     breaker.Config     `yaml:"breaker"`
	Retry       retry.Config       `yaml:"retry"`
	Tasks       tasks.Config       `yaml:"tasks"`

	Isolation isolation.ProberConfig `yaml:"isolation"` // the checks in the background (restart)

	Copilot copilot.Config `yaml:"copilot"`
}

// Log says what the program's own log holds.
type Log struct {
	Level  string `yaml:"level"`  // debug, info (default), warn or error
	Format string `yaml:"format"` // text (default) or json
}

// HTTP is the listener and what is served on it.
type HTTP struct {
	Listen     string `yaml:"listen"` // default 127.0.0.1:8080
	mcp.Config `yaml:",inline"`
}

// IssuerConfig sets up the embedded authorization server.
type IssuerConfig struct {
	Enabled *bool `yaml:"enabled"` // default: in development mode only

	RotateAfter  time.Duration `yaml:"rotate_after"`  // age at which a key stops signing; default 2160h
	PublishAhead time.Duration `yaml:"publish_ahead"` // how long a key is published before it signs; default 1h

	issuer.ServerConfig `yaml:",inline"`
}

// A KindSpec names a row of one of the tables in kinds.go, and its settings.
type KindSpec struct {
	Kind string      `yaml:"kind"`
	With config.Node `yaml:"with"`
}

// A SourceSpec is a source as the file names it.
type SourceSpec struct {
	Kind  string      `yaml:"kind"`  // a row of the table in kinds.go
	With  config.Node `yaml:"with"`  // the driver's own settings
	Tools tool.Verbs  `yaml:"tools"` // which verbs become tools, and how
}

// ToolFiles names the files of tools.
type ToolFiles struct {
	Files []string `yaml:"files"` // paths or patterns, relative to the configuration file
}

// A FileRef names a file, relative to the configuration file.
type FileRef struct {
	File string `yaml:"file"`
}

// Egress names the outbound allowlist and how it is enforced.
type Egress struct {
	File          string `yaml:"file"`
	egress.Config `yaml:",inline"`
}

// A ConfigError holds every mistake of a configuration.
type ConfigError struct{ Err error }

// Error returns one mistake a line.
func (e *ConfigError) Error() string { return e.Err.Error() }

// Unwrap returns the mistakes.
func (e *ConfigError) Unwrap() error { return e.Err }

// Options say how the app is opened.
type Options struct {
	ConfigFile string // empty: the built-in defaults
	DataDir    string // overrides data_dir
	Version    string // of the program
	LogLevel   string // overrides log.level
	LogTo      io.Writer
	Env        func(string) (string, bool)
	Listen     string // overrides http.listen
	PublicURL  string // overrides http.public_url
	NoPolicy   bool   // no rules: nothing is allowed, and a broken policy file does not matter

	seeding bool // Seed loads the demo company itself

	// For tests and benchmarks.
	Overlay    []byte                                 // YAML laid over the file
	ExtraTools func(call atlas.Handler) []*atlas.Tool // tools beside the configured ones
	EditStages func([]NamedStage) []NamedStage        // changes the pipeline
}

// loadConfig reads the configuration and checks what can be checked without opening anything.
func loadConfig(o Options, files Files) (Config, error) {
	var cfg Config
	name := files.Name(files.main)
	data, err := files.Read(files.main)
	if err != nil {
		return cfg, &ConfigError{fmt.Errorf("%s: %w", name, err)}
	}
	resolver := config.Resolver{Env: o.Env, File: func(path string) ([]byte, error) { return config.ReadFile(files.path(path)) }}
	if err := config.Decode(name, data, resolver, &cfg); err != nil {
		return cfg, &ConfigError{err}
	}
	if len(o.Overlay) > 0 {
		if err := config.Decode("overlay", o.Overlay, resolver, &cfg); err != nil {
			return cfg, &ConfigError{err}
		}
	}
	if o.Env != nil {
		if err := config.Overlay(Variables, o.Env, &cfg); err != nil {
			return cfg, &ConfigError{err}
		}
	}
	if o.DataDir != "" {
		cfg.DataDir = o.DataDir
	}
	if o.Listen != "" {
		cfg.HTTP.Listen = o.Listen
	}
	if o.PublicURL != "" {
		cfg.HTTP.PublicURL = o.PublicURL
	}
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return cfg, &ConfigError{fmt.Errorf("%s: %w", name, err)}
	}
	return cfg, nil
}

func (c Config) withDefaults() Config {
	set := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	set(&c.Mode, Development)
	set(&c.DataDir, ".atlas")
	set(&c.State.Kind, "sqlite")
	set(&c.Embedder.Kind, "lexical")
	set(&c.Log.Level, "info")
	set(&c.Log.Format, "text")
	set(&c.HTTP.Listen, "127.0.0.1:8080")
	set(&c.HTTP.PublicURL, "http://"+c.HTTP.Listen)
	c.Flood.Rate = cmp.Or(c.Flood.Rate, defaultFlood.Rate)
	c.Flood.Per = cmp.Or(c.Flood.Per, defaultFlood.Per)
	c.Flood.Burst = cmp.Or(c.Flood.Burst, defaultFlood.Burst)
	set(&c.Policy.File, "policy.yaml")
	set(&c.Audit.Path, filepath.Join(c.DataDir, "audit", "audit.jsonl"))
	c.Auth.Development = c.Mode == Development
	return c
}

// validate reports all mistakes of all sections, each with the name of its section.
func (c Config) validate() error {
	var errs []error
	section := func(name string, err error) {
		if err == nil {
			return
		}
		for line := range strings.SplitSeq(err.Error(), "\n") {
			errs = append(errs, fmt.Errorf("%s.%s", name, line))
		}
	}
	if c.Mode != Development && c.Mode != Production {
		errs = append(errs, fmt.Errorf("mode: %q is neither %s nor %s", c.Mode, Development, Production))
	}
	if _, err := c.Log.level(); err != nil {
		errs = append(errs, fmt.Errorf("log.level: %q is none of debug, info, warn and error", c.Log.Level))
	}
	if c.Log.Format != "text" && c.Log.Format != "json" {
		errs = append(errs, fmt.Errorf("log.format: %q is neither text nor json", c.Log.Format))
	}
	if _, _, err := net.SplitHostPort(c.HTTP.Listen); err != nil {
		errs = append(errs, fmt.Errorf("http.listen: %q is not HOST:PORT, such as 127.0.0.1:8080", c.HTTP.Listen))
	}
	if c.Mode == Production && c.DemoData {
		errs = append(errs, errors.New("demo_data: not in production mode"))
	}
	if _, ok := States[c.State.Kind]; !ok {
		errs = append(errs, fmt.Errorf("state.kind: %q is none of %s", c.State.Kind, strings.Join(slices.Sorted(maps.Keys(States)), ", ")))
	}
	if _, ok := Embedders[c.Embedder.Kind]; !ok {
		errs = append(errs, fmt.Errorf("embedder.kind: %q is none of %s", c.Embedder.Kind, strings.Join(slices.Sorted(maps.Keys(Embedders)), ", ")))
	}
	if c.Mode == Production && len(c.Auth.Issuers) == 0 && !c.embeddedIssuer() {
		errs = append(errs, errors.New("auth.issuers: production mode needs an issuer, or issuer.enabled"))
	}
	if c.Flood.Rate < 1 || c.Flood.Burst < 1 || c.Flood.Per < time.Millisecond || c.Flood.Per/time.Duration(c.Flood.Rate) < 1 {
		errs = append(errs, errors.New("flood: rate and burst must be at least 1, per at least 1ms, and a nanosecond must be left for each call"))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Sources)) {
		if _, ok := Kinds[c.Sources[name].Kind]; !ok {
			errs = append(errs, fmt.Errorf("sources.%s.kind: %q is none of %s", name, c.Sources[name].Kind,
				strings.Join(slices.Sorted(maps.Keys(Kinds)), ", ")))
		}
		section("sources."+name+".tools", c.Sources[name].Tools.Validate())
	}
	section("redis", c.Redis.Validate())
	section("http", c.HTTP.Validate())
	section("auth", c.Auth.Validate())
	section("issuer", c.Issuer.Validate())
	section("tenant", c.Tenant.Validate())
	section("egress", c.Egress.Validate())
	section("telemetry", c.Telemetry.Validate())
	section("audit", c.Audit.Validate())
	section("registry", c.Registry.Validate())
	section("guard", c.Guard.Validate())
	section("validation", c.Validation.Validate())
	section("ratelimit", c.RateLimit.Validate())
	section("approval", c.Approval.Validate())
	section("idempotency", c.Idempotency.Validate())
	section("cache", c.Cache.Validate())
	section("budget", c.Budget.Validate())
	section("breaker", c.Breaker.Validate())
	section("retry", c.Retry.Validate())
	section("rounds", c.Rounds.Validate())
	section("tasks", c.Tasks.Validate())
	section("isolation", c.Isolation.Validate())
	section("copilot", c.Copilot.Validate())
	return errors.Join(errs...)
}

func (l Log) level() (slog.Level, error) {
	var level slog.Level
	err := level.UnmarshalText([]byte(l.Level))
	return level, err
}

// logger returns the program's log. A level of the command line goes before the configured one.
func (l Log) logger(w io.Writer, override string) *slog.Logger {
	level, _ := l.level() // validated
	if override != "" {
		level, _ = Log{Level: override}.level() // one of the flag's words
	}
	o := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}
