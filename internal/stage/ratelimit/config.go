package ratelimit

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Config is the stage's settings. The zero value means the defaults.
type Config struct {
	Tenant  Rate                    `yaml:"tenant"`  // all calls of one tenant; default 2400 per minute, burst 400
	Tool    Rate                    `yaml:"tool"`    // calls of one tool by one tenant; default 600 per minute, burst 100
	Caller  Rate                    `yaml:"caller"`  // calls by one caller; default 240 per minute, burst 60
	Tools   map[string]ToolRate     `yaml:"tools"`   // by tool name
	Tenants map[string]TenantConfig `yaml:"tenants"` // by tenant id

	OnStoreFailure OnStoreFailure `yaml:"on_store_failure"` // if replicas share a store
}

// OnStoreFailure says what becomes of calls while the store that replicas share is away.
type OnStoreFailure struct {
	Reads  FailMode `yaml:"reads"`  // local (default), refuse or allow
	Writes FailMode `yaml:"writes"` // refuse (default) or local
	// After is how long a charge may take before the store counts as away. Default 250ms. It belongs to
	// the store and, unlike the rest, does not change while the program runs.
	After time.Duration `yaml:"after"`
}

// A FailMode is one of the ways to do without the shared store.
type FailMode string

// The fail modes.
const (
	// FailRefuse refuses the call with state_unavailable.
	FailRefuse FailMode = "refuse"
	// FailLocal lets each replica hold the whole limit alone: n replicas let through up to n times as much.
	FailLocal FailMode = "local"
	// FailAllow lets the call pass unlimited.
	FailAllow FailMode = "allow"
)

// A Rate is how many calls may be made. Fields that are 0 are inherited from the next more general
// rate.
type Rate struct {
	Rate  int           `yaml:"rate"`  // sustained calls in the time Per
	Per   time.Duration `yaml:"per"`   // given alone, it changes the meaning of an inherited rate
	Burst int           `yaml:"burst"` // calls that may come at once
}

// A ToolRate is the rate of one tool, and its weight.
type ToolRate struct {
	Rate  int           `yaml:"rate"`
	Per   time.Duration `yaml:"per"`
	Burst int           `yaml:"burst"`
	Cost  int           `yaml:"cost"` // what one call takes from each bucket; 0 means 1
}

func (t ToolRate) rate() Rate { return Rate{t.Rate, t.Per, t.Burst} }

// A TenantConfig overrides the rates for one tenant. Its Tools stand above Config.Tools, and those
// above its Tool.
type TenantConfig struct {
	Tenant Rate                `yaml:"tenant"`
	Tool   Rate                `yaml:"tool"`
	Caller Rate                `yaml:"caller"`
	Tools  map[string]ToolRate `yaml:"tools"`
}

// An agent asks for several things at once in each of its steps: bursts are sized for a turn of
// the copilot with room to spare.
func (c Config) withDefaults() Config {
	c.Tenant = c.Tenant.or(Rate{2400, time.Minute, 400})
	c.Tool = c.Tool.or(Rate{600, time.Minute, 100})
	c.Caller = c.Caller.or(Rate{240, time.Minute, 60})
	c.OnStoreFailure.Reads = cmp.Or(c.OnStoreFailure.Reads, FailLocal)
	c.OnStoreFailure.Writes = cmp.Or(c.OnStoreFailure.Writes, FailRefuse)
	return c
}

func (r Rate) or(general Rate) Rate {
	return Rate{cmp.Or(r.Rate, general.Rate), cmp.Or(r.Per, general.Per), cmp.Or(r.Burst, general.Burst)}
}

// longest is how far ahead a bucket may be charged.
const longest = 366 * 24 * time.Hour

// Validate reports all mistakes, joined.
func (c Config) Validate() error {
	var errs []error
	d := c.withDefaults()
	check := func(where string, given, effective Rate, cost int) {
		if given.Rate < 0 || given.Per < 0 || given.Burst < 0 || cost < 0 {
			errs = append(errs, fmt.Errorf("%s: rate, per, burst and cost must not be negative", where))
			return
		}
		if time.Duration(effective.Rate) > effective.Per {
			errs = append(errs, fmt.Errorf("%s: %d in %s is more than one per nanosecond", where, effective.Rate, effective.Per))
			return
		}
		if interval := effective.Per / time.Duration(effective.Rate); int64(effective.Burst) > int64(longest/interval) {
			errs = append(errs, fmt.Errorf("%s: a burst of %d takes more than a year to refill", where, effective.Burst))
		}
		if cost > effective.Burst {
			errs = append(errs, fmt.Errorf("%s: cost %d is above the burst %d, so no call could ever be made", where, cost, effective.Burst))
		}
	}
	check("tenant", c.Tenant, d.Tenant, 0)
	check("tool", c.Tool, d.Tool, 0)
	check("caller", c.Caller, d.Caller, 0)
	tools := func(where string, set map[string]ToolRate, general func(string) Rate) {
		for _, name := range slices.Sorted(maps.Keys(set)) {
			t := set[name]
			if name == "" {
				errs = append(errs, fmt.Errorf("%s: a tool has no name", where))
			}
			check(where+"."+name, t.rate(), t.rate().or(general(name)), t.Cost)
			if t.Cost > min(d.Tenant.Burst, d.Caller.Burst) {
				errs = append(errs, fmt.Errorf("%s.%s: cost %d is above the burst of the tenant or the caller", where, name, t.Cost))
			}
		}
	}
	tools("tools", c.Tools, func(string) Rate { return d.Tool })
	for _, id := range slices.Sorted(maps.Keys(c.Tenants)) {
		t := c.Tenants[id]
		where := "tenants." + id
		if _, err := atlas.ParseTenantID(id); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", where, err))
		}
		check(where+".tenant", t.Tenant, t.Tenant.or(d.Tenant), 0)
		check(where+".tool", t.Tool, t.Tool.or(d.Tool), 0)
		check(where+".caller", t.Caller, t.Caller.or(d.Caller), 0)
		tools(where+".tools", t.Tools, func(name string) Rate { return c.Tools[name].rate().or(t.Tool.or(d.Tool)) })
	}
	if !slices.Contains([]FailMode{FailLocal, FailRefuse, FailAllow}, d.OnStoreFailure.Reads) {
		errs = append(errs, fmt.Errorf("on_store_failure.reads: %q is none of local, refuse, allow", d.OnStoreFailure.Reads))
	}
	if after := d.OnStoreFailure.After; after < 0 || after > 0 && after < time.Millisecond || after > time.Minute {
		errs = append(errs, errors.New("on_store_failure.after: must be 1ms to 1m"))
	}
	if !slices.Contains([]FailMode{FailLocal, FailRefuse}, d.OnStoreFailure.Writes) {
		errs = append(errs, fmt.Errorf("on_store_failure.writes: %q is none of refuse, local", d.OnStoreFailure.Writes))
	}
	return errors.Join(errs...)
}

// A limit is a rate ready to be charged.
type limit struct {
	interval time.Duration
	burst    int64
}

func (l limit) cell(name string, cost int64) Cell {
	// A weight above an overridden burst would refuse the call for ever.
	return Cell{Name: name, Interval: l.interval, Burst: l.burst, Cost: min(cost, l.burst)}
}

func limitOf(r Rate) limit {
	// Rounded up: the sustained rate is never above the one that was set.
	rate := time.Duration(r.Rate)
	return limit{interval: (r.Per + rate - 1) / rate, burst: int64(r.Burst)}
}

type toolRule struct {
	limit limit
	cost  int64
}

// tenantRules are the effective rates of one tenant, or of all that have none of their own.
type tenantRules struct {
	own, caller, anyTool limit
	tools                map[string]toolRule
}

func (t *tenantRules) tool(name string) (limit, int64) {
	if r, ok := t.tools[name]; ok {
		return r.limit, r.cost
	}
	return t.anyTool, 1
}

type rules struct {
	general *tenantRules
	tenants map[atlas.TenantID]*tenantRules
}

func (r *rules) tenant(id atlas.TenantID) *tenantRules {
	if t := r.tenants[id]; t != nil {
		return t
	}
	return r.general
}

func compile(cfg Config) rules {
	r := rules{general: compileTenant(cfg, TenantConfig{}), tenants: make(map[atlas.TenantID]*tenantRules, len(cfg.Tenants))}
	for id, t := range cfg.Tenants {
		r.tenants[atlas.TenantID(id)] = compileTenant(cfg, t)
	}
	return r
}

func compileTenant(cfg Config, t TenantConfig) *tenantRules {
	general := t.Tool.or(cfg.Tool)
	out := &tenantRules{
		own: limitOf(t.Tenant.or(cfg.Tenant)), caller: limitOf(t.Caller.or(cfg.Caller)), anyTool: limitOf(general),
		tools: make(map[string]toolRule, len(cfg.Tools)+len(t.Tools)),
	}
	add := func(name string, own, below ToolRate) {
		rate := own.rate().or(below.rate()).or(general)
		out.tools[name] = toolRule{limitOf(rate), int64(cmp.Or(own.Cost, below.Cost, 1))}
	}
	for name, tr := range cfg.Tools {
		add(name, t.Tools[name], tr)
	}
	for name, tr := range t.Tools {
		add(name, tr, cfg.Tools[name])
	}
	return out
}
