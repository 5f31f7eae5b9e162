package isolation

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas"
)

// A bound is a tool, and how B reaches its own canary by it.
type bound struct {
	Tool
	fields []field
	roles  []int // by which both sides see it

	role     int
	args     map[string]any  // of B's control; of a resource: the URI under "uri"
	answer   Answer          // to it
	mine     map[string]any  // the same for A; nil if A reached nothing of its own
	contrast bool            // the answer holds nothing of B's by itself; it shows that the id asked for is B's
	asks     bool            // it asks its client for what is missing
	tried    map[string]bool // by side, role and arguments
	status   Status
	detail   string
}

// asks is the tool's call with these arguments.
func (b *bound) ask(args map[string]any) Ask {
	switch b.Kind {
	case atlas.KindResource:
		uri, _ := args["uri"].(string)
		return Ask{Op: OpRead, Name: b.Name, URI: uri}
	case atlas.KindPrompt:
		return Ask{Op: OpGet, Name: b.Name, Args: encode(args)}
	case atlas.KindTool:
	}
	return Ask{Op: OpCall, Name: b.Name, Args: encode(args)}
}

// encode writes arguments as JSON. What an attack puts in is always JSON.
func encode(v any) json.RawMessage {
	data, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage("{}")
	}
	return data
}

// sent is all that a request says, in one text.
func sent(ask Ask) string {
	var plain strings.Builder
	fmt.Fprintf(&plain, "%s %s %s %s %s %s %s %s %s", ask.Name, ask.URI, ask.Args, ask.Prefix, ask.Key, ask.State, ask.Task, ask.Reply, ask.Query)
	for _, v := range ask.Header {
		plain.WriteString(" " + v)
	}
	// What is escaped on the way comes back plain.
	if u, err := url.PathUnescape(ask.URI); err == nil {
		plain.WriteString(" " + u)
	}
	var v any
	if json.Unmarshal(ask.Args, &v) == nil {
		fmt.Fprintf(&plain, " %v", v)
	}
	return plain.String()
}

const (
	rounds      = 3  // what one tool shows may be what another needs
	maxChoices  = 6  // values tried for one argument
	maxTries    = 24 // calls by which B looks for its canary with one tool under one role
	closedTries = 3  // refusals for want of rights after which another role is tried
)

// closed are the codes by which Atlas refuses a tool to anybody of those rights.
var closed = map[atlas.Code]bool{
	atlas.CodeDeniedByPolicy: true, atlas.CodeNotAuthorized: true, atlas.CodeInsufficientScope: true, atlas.CodeHostNotAllowed: true,
	atlas.CodeApprovalRequired: true, atlas.CodeToolNotFound: true, atlas.CodeDefinitionChanged: true,
}

// learn finds out what there is, and how B reaches its canaries by it.
func (p *Proof) learn(ctx context.Context) error {
	if err := p.discover(ctx); err != nil {
		return err
	}
	for name := range p.deps.Canaries.tables(B) {
		p.tables = append(p.tables, name)
	}
	slices.Sort(p.tables)
	var declared strings.Builder
	for _, b := range p.tools {
		declared.WriteString(b.Description + "\n" + string(b.Input) + "\n")
	}
	for range rounds {
		before := len(p.judge.seen[B].all())
		for _, b := range p.tools {
			if b.status == Proven || !b.ReadOnly {
				continue
			}
			// A first: what A finds by itself is no secret of B's.
			p.reach(ctx, b, A)
			p.reach(ctx, b, B)
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
		if len(p.judge.seen[B].all()) == before {
			break
		}
	}
	p.judge.public = map[string]bool{}
	for _, side := range []Side{A, B} {
		for _, id := range p.judge.seen[side].all() {
			p.judge.public[id] = p.judge.public[id] || strings.Contains(declared.String(), id)
		}
	}
	for _, b := range p.tools {
		switch {
		case !b.ReadOnly:
			p.writes(b)
		case b.status == "":
			b.status, b.detail = Unproven, "nothing was found to call it with"
		case b.status == Proven && b.Kind == atlas.KindTool && !slices.ContainsFunc(b.fields, func(f field) bool { return f.required }):
			a, err := p.ask(ctx, Caller{B, b.role}, Ask{Op: OpCall, Name: b.Name, Elicit: true})
			b.asks = err == nil && a.Asked
		}
	}
	return ctx.Err()
}

// discover lists what both sides see.
func (p *Proof) discover(ctx context.Context) error {
	byName := map[string]*bound{}
	for role := range p.deps.Target.Roles() {
		var seen [2]map[string]Tool
		for _, side := range []Side{A, B} {
			p.calls.Add(1)
			tools, err := p.deps.Target.Tools(ctx, Caller{side, role})
			if err != nil {
				return fmt.Errorf("list the tools of %s (%s): %w", p.cfg.Tenants[side], p.deps.Target.Roles()[role], err)
			}
			seen[side] = map[string]Tool{}
			for _, t := range tools {
				if t.Source == "" && p.deps.Sources != nil {
					t.Source = p.deps.Sources(t.Name)
				}
				seen[side][t.Name] = t
			}
		}
		for _, name := range slices.Sorted(maps.Keys(seen[B])) {
			if _, both := seen[A][name]; !both {
				continue
			}
			t := seen[B][name]
			if p.cheap && (t.Kind != atlas.KindTool || t.Source == "" || !t.ReadOnly) {
				continue
			}
			b := byName[name]
			if b == nil {
				b = &bound{Tool: t, fields: fields(t.Input), tried: map[string]bool{}}
				byName[name] = b
				p.tools = append(p.tools, b)
			}
			b.roles = append(b.roles, role)
		}
	}
	if len(p.tools) == 0 {
		return fmt.Errorf("the two tenants see no tool in common: give their callers roles with tools")
	}
	slices.SortFunc(p.tools, func(a, b *bound) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

// reach looks for a call by which the side gets something of its own.
func (p *Proof) reach(ctx context.Context, b *bound, side Side) {
	var last Answer
	success := false
	roles := b.roles
	if side == B && b.mine != nil {
		roles = slices.Insert(slices.DeleteFunc(slices.Clone(roles), func(r int) bool { return r == b.role }), 0, b.role)
	}
	for _, role := range roles {
		refusals := 0
		for _, args := range p.candidates(b, side) {
			ask := b.ask(args)
			again := fmt.Sprint(side, role, string(plain(b, args)))
			if b.tried[again] {
				continue
			}
			b.tried[again] = true
			a, err := p.ask(ctx, Caller{side, role}, ask)
			if err != nil {
				b.detail = err.Error()
				return
			}
			p.judge.seen[side].learn(&a)
			p.learnTables(&a)
			if closed[a.Code()] {
				last = a
				if refusals++; refusals >= closedTries {
					break
				}
				continue
			}
			if a.Failure == nil {
				success = true
			}
			last = a
			if !p.shows(side, sent(ask), &a) {
				if side == B && p.contrasts(ctx, b, role, args, &a) {
					b.status, b.role, b.args, b.answer, b.contrast = Proven, role, args, a, true
					b.detail = "B got an answer to its own id and none to one that nobody has: " + clip(string(plain(b, args)), 100)
					return
				}
				continue
			}
			p.marked[side] = p.marked[side] || len(markers(side, a.Text)) > 0
			if side == A {
				if b.mine == nil || b.role == role {
					b.mine, b.role = args, role
				}
				return
			}
			b.status, b.role, b.args, b.answer = Proven, role, args, a
			b.detail = "B got its own canary with " + clip(string(plain(b, args)), 100)
			return
		}
	}
	if side == B && (last.Text != "" || last.Failure != nil) { // else everything was tried before
		b.status, b.detail = p.hopeless(ctx, b, last, success)
	}
}

func plain(b *bound, args map[string]any) json.RawMessage {
	if b.Kind == atlas.KindResource {
		return json.RawMessage(fmt.Sprint(args["uri"]))
	}
	return encode(args)
}

// shows reports whether the answer holds something that only the side has.
func (p *Proof) shows(side Side, asked string, a *Answer) bool {
	if a.Failure != nil {
		return false
	}
	if len(markers(side, a.Text)) > 0 {
		return true
	}
	own, other := p.judge.seen[side], p.judge.seen[side.Other()]
	for _, id := range own.all() {
		if (own.exact[id] || !other.knows(id)) && strings.Contains(a.Text, id) && !strings.Contains(asked, id) {
			return true
		}
	}
	if side == B {
		_, ok := sumOfB(a.Structured)
		return ok
	}
	return false
}

// own reports whether an answer of the tool to B is B's own.
func (p *Proof) own(b *bound, ask Ask, a *Answer) bool {
	return p.shows(B, sent(ask), a) || b.contrast && a.Failure == nil && masked(a, "") == masked(&b.answer, "")
}

// contrasts reports whether the answer is one that B got because the id that it asked for is its own: for
// one that nobody has there is none. It is how tools are proven that show nothing but the record asked for, with
// tenants in which nothing was planted.
func (p *Proof) contrasts(ctx context.Context, b *bound, role int, args map[string]any, a *Answer) bool {
	if n, ok := countRows(a.Structured); a.Failure != nil || !ok || n == 0 {
		return false
	}
	for _, f := range b.slots() {
		id := text(args[f.name])
		if id == "" || !p.judge.seen[B].knows(id) || p.judge.seen[A].knows(id) || p.judge.seen[B].plant[id] || !f.fits(nowhere(id)) {
			continue
		}
		other := maps.Clone(args)
		other[f.name] = f.wrap(nowhere(id))
		x, err := p.ask(ctx, Caller{B, role}, b.ask(other))
		if n, _ := countRows(x.Structured); err == nil && !unclear[x.Code()] && (x.Failure != nil || n == 0) {
			return true
		}
	}
	return false
}

// hopeless says why B did not reach its canary.
func (p *Proof) hopeless(ctx context.Context, b *bound, last Answer, success bool) (Status, string) {
	switch {
	case last.Failure != nil && closed[last.Code()] && !success:
		return Closed, fmt.Sprintf("refused to both tenants: %s", last.Code())
	case success && p.alike(ctx, b):
		if b.Source != "" && len(idsOf(&last)) > 0 {
			return Unproven, "it answers both tenants alike, with ids of records: either they are everybody's, or both see all"
		}
		return NoData, "it answers both tenants alike"
	case last.Failure != nil && !success:
		return Unproven, fmt.Sprintf("B's own calls were answered with %s", last.Code())
	}
	return Unproven, "B's own calls showed nothing that only B has"
}

// alike reports whether the tool gives both tenants one and the same answer, with something in it, and has no argument
// by which it could have been asked for more.
func (p *Proof) alike(ctx context.Context, b *bound) bool {
	for i := range b.fields {
		if f := &b.fields[i]; f.required && f.form != formOther && f.form != formText {
			return false
		}
	}
	if strings.Contains(b.URI, "{") {
		return false
	}
	list := p.candidates(b, B)
	if len(list) == 0 {
		return false
	}
	for _, role := range b.roles {
		var got [2]Answer
		for _, side := range []Side{A, B} {
			a, err := p.ask(ctx, Caller{side, role}, b.ask(list[0]))
			if err != nil || a.Failure != nil {
				return false
			}
			got[side] = a
		}
		n, isObject := countRows(got[B].Structured)
		if string(got[A].Structured) != string(got[B].Structured) || isObject && n == 0 {
			return false
		}
		if b.Kind == atlas.KindTool && !isObject {
			return false
		}
	}
	return true
}

// writes says what is known of a tool that changes something.
func (p *Proof) writes(b *bound) {
	if b.Destructive {
		b.status, b.detail = Closed, "a person must approve each call; asked for and not approved"
		return
	}
	b.status, b.detail = Unproven, "it writes without approval, and was not called"
}

func (p *Proof) learnTables(a *Answer) {
	var v struct {
		Tables []struct {
			Name string `json:"name"`
		} `json:"tables"`
	}
	if json.Unmarshal(a.Structured, &v) != nil {
		return
	}
	for _, t := range v.Tables {
		if t.Name != "" && !slices.Contains(p.tables, t.Name) && len(p.tables) < 50 {
			p.tables = append(p.tables, t.Name)
		}
	}
}

// candidates are the arguments by which the side may reach something of its own, the likeliest first.
func (p *Proof) candidates(b *bound, side Side) []map[string]any {
	if b.Kind == atlas.KindResource {
		return p.addresses(b, side)
	}
	list := []map[string]any{{}}
	for i := range b.fields {
		if f := &b.fields[i]; f.required {
			list = cross(list, f.name, p.choices(b.Source, f, side))
		}
	}
	for i := range b.fields {
		f := &b.fields[i]
		if f.required || f.form == formOther || f.form == formObject || len(list) == 0 {
			continue
		}
		for _, v := range p.choices(b.Source, f, side) {
			args := maps.Clone(list[0])
			args[f.name] = v
			list = append(list, args)
		}
	}
	return list[:min(len(list), maxTries)]
}

// cross adds an argument to each of the lists, with each of its values.
func cross(list []map[string]any, name string, values []any) []map[string]any {
	var out []map[string]any
	for _, args := range list {
		for _, v := range values {
			if len(out) == maxTries {
				return out
			}
			args := maps.Clone(args)
			args[name] = v
			out = append(out, args)
		}
	}
	return out
}

// choices are the values of one argument. What was planted in the tool's own source comes first, or a
// source of many could end without a value of its own among the few that are tried.
func (p *Proof) choices(source string, f *field, side Side) []any {
	var out []any
	ids := unique(append(p.deps.Canaries.of(side, source), p.judge.seen[side].all()...))
	switch f.form {
	case formOther:
		return []any{f.sample}
	case formObject:
		return []any{map[string]any{}}
	case formBody:
		return []any{everything(), map[string]any{matchAll: map[string]any{}}, map[string]any{}}
	case formSQL:
		for _, t := range p.tables[:min(len(p.tables), 2*maxChoices)] {
			out = append(out, "SELECT * FROM "+t)
		}
		if len(out) == 0 {
			out = append(out, "SELECT 1")
		}
		return out
	case formText:
		out = append(out, commonWord, "the")
	case formURL:
		ids = slices.DeleteFunc(ids, func(s string) bool { return !strings.HasPrefix(s, "https://") })
	case formKey:
		var folders []string
		for _, id := range ids {
			if dir, _, ok := strings.Cut(id, "/"); ok && !strings.Contains(id, "://") {
				folders = append(folders, dir+"/")
			}
		}
		ids = slices.DeleteFunc(ids, func(s string) bool { return !strings.Contains(s, "/") || strings.Contains(s, "://") })
		ids = append(ids[:min(len(ids), maxChoices)], unique(folders)...)
	case formID, formIDs:
	}
	shapes := map[string]int{}
	for _, id := range ids {
		// Two of each form, since this tool may have nothing of the first; and two of what was seen, since
		// what is expected may not be there.
		s := p.form(side, id)
		if len(out) < 2*maxChoices && f.fits(id) && shapes[s] < 2 {
			shapes[s]++
			out = append(out, f.wrap(id))
		}
	}
	if len(out) == 0 && f.form == formURL {
		out = append(out, "https://atlas-canary.invalid/") // RFC 2606: nobody's
	}
	if len(out) == 0 && f.pattern == nil {
		out = append(out, f.wrap("x"))
	}
	return out
}

// form is the shape of an id, apart for planted ones and others.
func (p *Proof) form(side Side, id string) string {
	return fmt.Sprint(shape(id), p.judge.seen[side].plant[id])
}

// addresses are the URIs of a resource for which the side may have something.
func (p *Proof) addresses(b *bound, side Side) []map[string]any {
	if !strings.Contains(b.URI, "{") {
		return []map[string]any{{"uri": b.URI}}
	}
	var out []map[string]any
	shapes := map[string]int{}
	for _, id := range p.judge.seen[side].all() {
		s := p.form(side, id)
		if strings.Contains(id, "://") || shapes[s] == 2 {
			continue
		}
		if uri, ok := expand(b.URI, id); ok && len(out) < 2*maxTries {
			shapes[s]++
			out = append(out, map[string]any{"uri": uri})
		}
	}
	return out
}

// expand fills a template of one variable with a value as it stands. A path fits {+key} only.
func expand(template, value string) (string, bool) {
	head, rest, ok := strings.Cut(template, "{")
	name, tail, closed := strings.Cut(rest, "}")
	if !ok || !closed || strings.Contains(tail, "{") {
		return "", false
	}
	if strings.HasPrefix(name, "+") != strings.Contains(value, "/") {
		return "", false
	}
	return head + (&url.URL{Path: value}).EscapedPath() + tail, true
}

// controls is what the report says of the tools.
func (p *Proof) controls() []Control {
	out := []Control{}
	for _, b := range p.tools {
		c := Control{
			Tool: b.Name, Kind: b.Kind.String(), Source: b.Source, Status: b.status, Detail: b.detail,
			Accept: slices.Contains(p.cfg.Accept, b.Name),
		}
		if b.status == Proven {
			c.Role = p.deps.Target.Roles()[b.role]
		}
		out = append(out, c)
	}
	return out
}
