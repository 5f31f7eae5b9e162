// Package registry is the stage that knows the tools: it answers lists with the tools that the
// caller may see, and gives each call its tool. A tool that the caller may not see is answered
// exactly like one that does not exist. Who may see what is decided by policy, not here.
//
// The one exception is step-up (RFC 6750 section 3.1): a caller whose roles may have the scopes of a tool,
// and whom policy would show it with them, is told which scopes to ask for. He could find out anyway, by
// asking his issuer for them; nobody else can tell the tool from one that does not exist.
package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Visibility tells which tools a caller may see: policy.
type Visibility interface {
	// Visible reports whether some call of t by p for the tenant could be allowed. It must give the
	// same answer for the same principal and tenant for as long as the registry lives.
	Visible(p *atlas.Principal, tenant atlas.TenantID, t *atlas.Tool) bool
}

// Config narrows what callers see by toolsets, named groups of tools.
type Config struct {
	// Toolsets adds tools to groups by name or glob (* within a name), beside those that the tools
	// name themselves.
	Toolsets map[string][]string `yaml:"toolsets"`
	// Roles restricts the holders of a role to toolsets. Who holds several of these roles has the
	// toolsets of all; other roles neither add nor take away.
	Roles map[string][]string `yaml:"roles"`
	// Claim is the name of a token claim, a list or a text with spaces, that narrows further to the
	// toolsets it names; default: "toolsets".
	Claim string `yaml:"claim"`
	// Obtainable reports whether the caller's roles may have a scope that the token lacks. The program
	// sets it; nil switches step-up off. Like Visibility, it must give the same answer for the same principal
	// for as long as the registry lives.
	Obtainable func(p *atlas.Principal, scope string) bool `yaml:"-"`
}

// Validate reports all mistakes, joined. Names of toolsets are checked by [New], which knows the tools.
func (c Config) Validate() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(c.Toolsets)) {
		for _, glob := range c.Toolsets[name] {
			if _, err := path.Match(glob, ""); err != nil || strings.Contains(glob, "/") {
				errs = append(errs, fmt.Errorf("toolsets.%s: %q is not a glob of tool names", name, glob))
			}
		}
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	c.Claim = c.ClaimName()
	return c
}

// ClaimName returns Claim or its default.
func (c Config) ClaimName() string { return cmp.Or(c.Claim, "toolsets") }

const (
	maxViews = 1024
	// Visibility is fixed while the registry lives; views are dropped all the same, so that the tools
	// of tokens that are gone do not stay for good.
	viewTTL = 5 * time.Minute
)

// A Registry holds the tools of one configuration. It is safe for concurrent use.
type Registry struct {
	tools  []*atlas.Tool // sorted by name
	byName map[string]*atlas.Tool
	vis    Visibility
	roles  map[string]map[string]bool // role → names of toolsets
	sets   map[string]map[string]bool // toolset → names of tools
	claim  string

	obtainable func(*atlas.Principal, string) bool // never nil

	mu    sync.Mutex // guards views
	views map[viewKey]*view
}

// New returns a registry of the tools, whose names must differ.
func New(tools []*atlas.Tool, vis Visibility, cfg Config) (*Registry, error) {
	if vis == nil {
		return nil, errors.New("a registry needs to know who may see what")
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	if cfg.Obtainable == nil {
		cfg.Obtainable = func(*atlas.Principal, string) bool { return false }
	}
	r := &Registry{
		obtainable: cfg.Obtainable,
		tools:      slices.Clone(tools), byName: make(map[string]*atlas.Tool, len(tools)), vis: vis, claim: cfg.Claim,
		roles: map[string]map[string]bool{}, sets: map[string]map[string]bool{}, views: map[viewKey]*view{},
	}
	slices.SortFunc(r.tools, func(a, b *atlas.Tool) int { return cmp.Compare(a.Name, b.Name) })
	var errs []error
	put := func(set, name string) {
		if r.sets[set] == nil {
			r.sets[set] = map[string]bool{}
		}
		r.sets[set][name] = true
	}
	for _, t := range r.tools {
		if r.byName[t.Name] != nil {
			errs = append(errs, fmt.Errorf("there are two tools named %s", t.Name))
		}
		r.byName[t.Name] = t
		for _, set := range t.Toolsets {
			put(set, t.Name)
		}
	}
	for _, set := range slices.Sorted(maps.Keys(cfg.Toolsets)) {
		for _, glob := range cfg.Toolsets[set] {
			hit := false
			for _, t := range r.tools {
				if ok, err := path.Match(glob, t.Name); err == nil && ok {
					put(set, t.Name)
					hit = true
				}
			}
			if !hit {
				errs = append(errs, fmt.Errorf("toolsets.%s: no tool is named %q", set, glob))
			}
		}
	}
	for _, role := range slices.Sorted(maps.Keys(cfg.Roles)) {
		r.roles[role] = map[string]bool{}
		for _, set := range cfg.Roles[role] {
			if r.sets[set] == nil {
				errs = append(errs, fmt.Errorf("roles.%s: there is no toolset %q; use %s", role, set,
					strings.Join(slices.Sorted(maps.Keys(r.sets)), ", ")))
			}
			r.roles[role][set] = true
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return r, nil
}

// All returns all tools, sorted by name. The list is shared and read-only.
func (r *Registry) All() []*atlas.Tool { return r.tools }

// Lookup returns the tool of the name, whoever asks. It is for operators; callers go by [Registry.Stage].
func (r *Registry) Lookup(name string) (*atlas.Tool, bool) {
	t, ok := r.byName[name]
	return t, ok
}

// Find returns the tool of the name if p may see it for the tenant: what the stage would find.
func (r *Registry) Find(p *atlas.Principal, tenant atlas.TenantID, name string) (*atlas.Tool, bool) {
	t, ok := r.view(p, tenant).byName[name]
	return t, ok
}

// Visible returns the tools that p may see for the tenant, sorted by name. The list is shared and
// read-only.
func (r *Registry) Visible(p *atlas.Principal, tenant atlas.TenantID) []*atlas.Tool {
	return r.view(p, tenant).kinds[atlas.KindTool]
}

// Stage answers lists and gives calls their tool, by the kind that they ask for. The list of one
// caller is the same slice each time until his view is made anew. A name that is unknown and one that is
// not visible take the same way: a look-up among the caller's own tools, and one among those that more
// scopes would give him, which were found before anybody asked.
func (r *Registry) Stage(next atlas.Handler) atlas.Handler {
	return func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
		v := r.view(call.Principal, call.Tenant)
		if call.Op == atlas.OpList {
			if call.Fault != nil {
				return atlas.Result{}, call.Fault
			}
			return atlas.Result{Tools: v.kinds[call.Kind]}, nil
		}
		t, ok := v.byName[call.Name]
		if !ok || t.Kind != call.Kind {
			return atlas.Result{}, v.refusal(call)
		}
		call.Tool = t
		return next(ctx, call)
	}
}

// A view is what one caller sees.
type view struct {
	principal *atlas.Principal
	made      time.Time
	kinds     [3][]*atlas.Tool // by kind, each sorted by name
	byName    map[string]*atlas.Tool
	stepUp    map[string]*atlas.Tool // tools that only scopes keep from the caller
}

// refusal is the answer to a call of what the caller does not see.
func (v *view) refusal(call atlas.Call) *atlas.Error {
	if t, ok := v.stepUp[call.Name]; ok && t.Kind == call.Kind {
		return (&atlas.Error{Code: atlas.CodeInsufficientScope}).With("scopes", t.Scopes)
	}
	return &atlas.Error{Code: atlas.CodeToolNotFound}
}

// A viewKey finds a view; whether it is really that caller's is then checked on the whole principal,
// because policy may ask for any of its fields.
type viewKey struct {
	tenant                   atlas.TenantID
	issuer, tokenID, subject string
}

func (r *Registry) view(p *atlas.Principal, tenant atlas.TenantID) *view {
	if p == nil {
		return &view{}
	}
	key := viewKey{tenant, p.Issuer, p.TokenID, p.Subject}
	r.mu.Lock()
	v := r.views[key]
	r.mu.Unlock()
	if v != nil && time.Since(v.made) < viewTTL {
		if v.principal == p {
			return v
		}
		if reflect.DeepEqual(v.principal, p) {
			// The token was verified anew. The next call shall not have to compare.
			again := *v
			again.principal = p
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.views[key] == v {
				r.views[key] = &again
			}
			return &again
		}
	}
	v = r.makeView(p, tenant)
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, held := r.views[key]; !held && len(r.views) >= maxViews {
		for old := range r.views { // any: the order of a map is random, so no caller can keep another out
			delete(r.views, old)
			break
		}
	}
	r.views[key] = v
	return v
}

func (r *Registry) makeView(p *atlas.Principal, tenant atlas.TenantID) *view {
	allowed := r.restriction(p)
	v := &view{principal: p, made: time.Now(), byName: map[string]*atlas.Tool{}, stepUp: map[string]*atlas.Tool{}}
	for _, t := range r.tools {
		switch {
		case !allowed(t.Name):
		case p.HasScopes(t.Scopes):
			if r.vis.Visible(p, tenant, t) {
				v.kinds[t.Kind] = append(v.kinds[t.Kind], t)
				v.byName[t.Name] = t
			}
		case r.withinReach(p, tenant, t):
			v.stepUp[t.Name] = t
		}
	}
	return v
}

// withinReach reports whether p would see the tool with the scopes that it lacks, and may have them all.
func (r *Registry) withinReach(p *atlas.Principal, tenant atlas.TenantID, t *atlas.Tool) bool {
	more := *p
	more.Scopes = slices.Clip(p.Scopes)
	for _, s := range t.Scopes {
		if !p.HasScope(s) {
			if !r.obtainable(p, s) {
				return false
			}
			more.Scopes = append(more.Scopes, s)
		}
	}
	return r.vis.Visible(&more, tenant, t)
}

// restriction returns the test of the caller's toolsets: of its roles, and of its token's claim.
func (r *Registry) restriction(p *atlas.Principal) func(name string) bool {
	var byRole map[string]bool
	for _, role := range p.Roles {
		sets, restricted := r.roles[role]
		if !restricted {
			continue
		}
		if byRole == nil {
			byRole = map[string]bool{}
		}
		maps.Copy(byRole, sets)
	}
	byClaim, claimed := claimSets(p.Claims[r.claim])
	in := func(sets map[string]bool, name string) bool {
		for set := range sets {
			if r.sets[set][name] {
				return true
			}
		}
		return false
	}
	return func(name string) bool {
		return (byRole == nil || in(byRole, name)) && (!claimed || in(byClaim, name))
	}
}

// claimSets reads the claim. A claim of an unexpected form allows nothing: it was meant to narrow.
func claimSets(claim any) (map[string]bool, bool) {
	sets := map[string]bool{}
	switch c := claim.(type) {
	case nil:
		return nil, false
	case string:
		for s := range strings.FieldsSeq(c) {
			sets[s] = true
		}
	case []any:
		for _, e := range c {
			if s, ok := e.(string); ok {
				sets[s] = true
			}
		}
	case []string:
		for _, s := range c {
			sets[s] = true
		}
	}
	return sets, true
}
