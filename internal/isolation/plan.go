package isolation

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas"
)

// A family is one kind of attack, made for every tool that it fits.
type family struct {
	area string
	make func(p *Proof, b *bound) []attempt
}

// families are the attacks on one tool. To add one, add a row.
func families() []family {
	return []family{
		{"ids", (*Proof).foreignIDs},
		{"same ids", (*Proof).sharedIDs},
		{"existence", (*Proof).oracles},
		{"paths", (*Proof).paths},
		{"odd values", (*Proof).oddValues},
		{"tenant arguments", (*Proof).tenantArguments},
		{"sql", (*Proof).statements},
		{"search", (*Proof).searches},
		{"filters", (*Proof).filters},
		{"query bodies", (*Proof).bodies},
		{"uris", (*Proof).uris},
		{"cache", (*Proof).caches},
		{"cancelled", (*Proof).cancelled},
		{"retried", (*Proof).retried},
		{"idempotency", (*Proof).idempotency},
		{"cursors", (*Proof).cursors},
		{"request state", (*Proof).states},
	}
}

// plan makes all attempts, by tool and kind.
func (p *Proof) plan() []attempt {
	var out []attempt
	for _, b := range p.tools {
		if b.status != Proven {
			continue
		}
		for _, f := range families() {
			for _, a := range f.make(p, b) {
				a.Area, a.Source, a.Tool = f.area, b.Source, b.Name
				out = append(out, a)
			}
		}
	}
	out = append(out, p.lists()...)
	out = append(out, p.completions()...)
	out = append(out, p.approvals()...)
	out = append(out, p.storms()...)
	return append(out, p.doors()...)
}

// byA is the caller that attacks a tool: A with the rights that were enough for B.
func (b *bound) byA() Caller { return Caller{A, b.role} }

func (b *bound) byB() Caller { return Caller{B, b.role} }

// with returns B's arguments with one of them changed.
func (b *bound) with(name string, value any) map[string]any {
	args := maps.Clone(b.args)
	if args == nil {
		args = map[string]any{}
	}
	args[name] = value
	return args
}

// tryA is an attempt of one call by A. What policy refuses to the role does not come to the store: then it
// is tried under the widest role, too.
func (p *Proof) tryA(b *bound, args map[string]any, format string, words ...any) attempt {
	return attempt{Attempt: Attempt{Tried: fmt.Sprintf(format, words...)}, run: func(ctx context.Context) outcome {
		ask := b.ask(args)
		a, err := p.ask(ctx, b.byA(), ask)
		o := p.judgeA(b, ask, a, err)
		widest := b.roles[len(b.roles)-1]
		if !closed[a.Code()] || widest == b.role {
			return o
		}
		a, err = p.ask(ctx, Caller{A, widest}, ask)
		wide := p.judgeA(b, ask, a, err)
		if wide.verdict == o.verdict && wide.got != o.got {
			wide.got = fmt.Sprintf("%s; as %s: %s", o.got, p.deps.Target.Roles()[widest], wide.got)
			return wide
		}
		return worst(o, wide)
	}}
}

// asA makes one call by A and judges it.
func (p *Proof) asA(ctx context.Context, b *bound, ask Ask) outcome {
	a, err := p.ask(ctx, b.byA(), ask)
	return p.judgeA(b, ask, a, err)
}

// judgeA is the outcome of an answer of the tool to A. B's answer to B's own id is a leak, whatever it holds.
func (p *Proof) judgeA(b *bound, ask Ask, a Answer, err error) outcome {
	o := p.judgeAnswer(A, sent(ask), a, err)
	if o.verdict == Held && b.contrast && a.Failure == nil && masked(&a, "") == masked(&b.answer, "") {
		return outcome{Leaked, o.got, []string{"the answer that B got to its own id"}}
	}
	return o
}

// asB makes one of B's own calls and looks for what is A's.
func (p *Proof) asB(ctx context.Context, b *bound, ask Ask) (Answer, outcome) {
	a, err := p.ask(ctx, b.byB(), ask)
	return a, p.judgeAnswer(B, sent(ask), a, err)
}

// foreign returns ids that only B has and the field takes: first those of the form that B's own call had.
func (p *Proof) foreign(b *bound, f *field, most int) []string {
	known := p.judge.seen[B]
	var fit []string
	for _, id := range known.all() {
		if (known.exact[id] || !p.judge.seen[A].knows(id)) && f.fits(id) && !strings.Contains(id, "://") {
			fit = append(fit, id)
		}
	}
	want := shape(text(b.args[f.name]))
	slices.SortStableFunc(fit, func(x, y string) int { return btoi(shape(y) == want) - btoi(shape(x) == want) })
	if f.form == formKey {
		fit = slices.DeleteFunc(fit, func(id string) bool { return !strings.Contains(id, "/") })
	}
	return fit[:min(len(fit), most)]
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// text is the text of an argument, or the first of a list.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case []any:
		if len(v) > 0 {
			return text(v[0])
		}
	}
	return ""
}

// slots are the fields that take ids or keys.
func (b *bound) slots() []*field {
	var out []*field
	for i := range b.fields {
		if f := &b.fields[i]; f.form == formID || f.form == formIDs || f.form == formKey {
			out = append(out, f)
		}
	}
	return out
}

func (p *Proof) foreignIDs(b *bound) []attempt {
	var out []attempt
	for _, f := range b.slots() {
		ids := p.foreign(b, f, 4)
		for _, id := range ids {
			out = append(out, p.tryA(b, b.with(f.name, f.wrap(id)), "%s is %s, which only B has", f.name, redact(id)))
		}
		if f.form == formIDs && len(ids) > 1 {
			list := make([]any, len(ids))
			for i, id := range ids {
				list[i] = id
			}
			out = append(out, p.tryA(b, b.with(f.name, list), "%s lists %d ids that only B has", f.name, len(ids)))
		}
	}
	return out
}

func (p *Proof) sharedIDs(b *bound) []attempt {
	_, both := p.deps.Canaries.ids(B)
	var out []attempt
	for _, f := range b.slots() {
		n := 0
		for _, id := range both {
			if f.form == formKey && !strings.Contains(id, "/") || !f.fits(id) || n == 3 {
				continue
			}
			n++
			args := b.with(f.name, f.wrap(id))
			out = append(out, attempt{Attempt: Attempt{Tried: fmt.Sprintf("%s is %s, which both have with other content: B asks, A asks, B asks again", f.name, redact(id))}, run: func(ctx context.Context) outcome {
				_, first := p.asB(ctx, b, b.ask(args))
				mine := p.asA(ctx, b, b.ask(args))
				_, again := p.asB(ctx, b, b.ask(args))
				return worst(mine, first, again)
			}})
		}
	}
	return out
}

// oracles compare the answer for an id of B with that for an id that nobody has.
func (p *Proof) oracles(b *bound) []attempt {
	var out []attempt
	for _, f := range b.slots() {
		for _, id := range p.foreign(b, f, 2) {
			none := nowhere(id)
			if !f.fits(none) {
				continue
			}
			out = append(out, attempt{Attempt: Attempt{Tried: fmt.Sprintf("%s is %s, then an id that nobody has: the answers must be alike", f.name, redact(id))}, run: func(ctx context.Context) outcome {
				return p.compare(ctx, b, id, none, func(id string) Ask { return b.ask(b.with(f.name, f.wrap(id))) })
			}})
		}
	}
	return out
}

// repeats is how often each of the two calls of a comparison is timed.
const repeats = 5

// compare asks as A for an id of B and for one that nobody has. The answers must be alike; how long they take
// is noted.
func (p *Proof) compare(ctx context.Context, b *bound, id, none string, ask func(id string) Ask) outcome {
	var got [2]Answer
	for range repeats {
		for i, id := range []string{id, none} {
			a, err := p.ask(ctx, b.byA(), ask(id))
			if o := p.judgeAnswer(A, sent(ask(id)), a, err); o.verdict != Held {
				return o
			}
			p.took(b.Name, i == 1, a.Took)
			got[i] = a
		}
	}
	x, y := masked(&got[0], id), masked(&got[1], none)
	if x != y {
		return outcome{Leaked, describe(&got[0]) + " and " + describe(&got[1]), []string{
			"an id of B is answered otherwise than one that nobody has: " + clip(x, 80) + " and " + clip(y, 80),
		}}
	}
	return outcome{verdict: Held, got: describe(&got[0]) + " both times"}
}

// masked is an answer without what differs from call to call: the id that was asked for and the request's.
func masked(a *Answer, id string) string {
	body := string(a.Structured)
	if a.Failure != nil {
		f := *a.Failure
		f.RequestID, f.RetryAfterMS = "", 0
		data, err := json.Marshal(f)
		if err != nil {
			return string(f.Code)
		}
		body = string(data)
	} else if body == "" {
		body = a.Text
	}
	if a.RequestID != "" {
		body = strings.ReplaceAll(body, a.RequestID, "REQUEST")
	}
	quoted, err := json.Marshal(id)
	if err == nil && id != "" {
		body = strings.ReplaceAll(body, string(quoted[1:len(quoted)-1]), "ID")
	}
	if id == "" {
		return body
	}
	return strings.ReplaceAll(body, id, "ID")
}

// nowhere is an id of the same form and length that nobody has.
func nowhere(id string) string {
	mac := fixed.mac("nowhere", id)
	if spans := lastDigits.FindAllStringIndex(id, -1); len(spans) > 0 {
		at := spans[len(spans)-1]
		if n := at[1] - at[0]; n <= len(mac) {
			return id[:at[0]] + digits(mac, n) + id[at[1]:]
		}
	}
	stem, ext := id, ""
	if i := strings.LastIndexByte(id, '.'); i > strings.LastIndexByte(id, '/')+1 {
		stem, ext = id[:i], id[i:]
	}
	n := min(8, len(stem)-strings.LastIndexByte(stem, '/')-1)
	return stem[:len(stem)-n] + letters(mac, n) + ext
}

// lists looks at every list that A gets.
func (p *Proof) lists() []attempt {
	var out []attempt
	for role, name := range p.deps.Target.Roles() {
		for _, op := range []Op{OpTools, OpResources} {
			out = append(out, attempt{Attempt: Attempt{Area: "lists", Tried: fmt.Sprintf("%s as %s", op, name)}, run: func(ctx context.Context) outcome {
				ask := Ask{Op: op}
				a, err := p.ask(ctx, Caller{A, role}, ask)
				return p.judgeAnswer(A, "", a, err)
			}})
		}
	}
	return out
}

// completions type the beginnings of B's ids.
func (p *Proof) completions() []attempt {
	var out []attempt
	for _, b := range p.tools {
		if b.Kind == atlas.KindTool || b.status != Proven {
			continue
		}
		for _, argument := range b.arguments() {
			for _, prefix := range p.prefixes() {
				ask := Ask{Op: OpComplete, Name: b.Name, URI: b.URI, Argument: argument, Prefix: prefix}
				out = append(out, attempt{Attempt: Attempt{Area: "completion", Source: b.Source, Tool: b.Name, Tried: fmt.Sprintf("complete %s from %q", argument, prefix)}, run: func(ctx context.Context) outcome {
					a, err := p.ask(ctx, b.byA(), ask)
					return p.judgeAnswer(A, sent(ask), a, err)
				}})
			}
		}
	}
	return out
}

// arguments are the names that can be completed: those of a prompt, and the variable of a template.
func (b *bound) arguments() []string {
	var out []string
	for i := range b.fields {
		out = append(out, b.fields[i].name)
	}
	if _, rest, ok := strings.Cut(b.URI, "{"); ok {
		name, _, _ := strings.Cut(rest, "}")
		out = append(out, strings.TrimPrefix(name, "+"))
	}
	return unique(out)
}

// prefixes are nothing, a wildcard, and the beginnings of ids that only B has.
func (p *Proof) prefixes() []string {
	out := []string{"", "%"}
	shapes := map[string]bool{}
	known := p.judge.seen[B]
	for _, id := range known.all() {
		if s := shape(id); known.exact[id] && !shapes[s] && len(out) < 8 && !strings.Contains(id, "://") {
			shapes[s] = true
			out = append(out, id[:len(id)-2])
		}
	}
	return out
}
