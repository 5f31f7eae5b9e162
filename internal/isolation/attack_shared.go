package isolation

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/atlas-mcp/atlas"
)

// caches are answers that were kept for somebody else.
func (p *Proof) caches(b *bound) []attempt {
	own := b.ask(b.args)
	out := []attempt{{Attempt: Attempt{Tried: "B asks twice, then A asks exactly the same"}, run: func(ctx context.Context) outcome {
		p.asB(ctx, b, own) // warms the cache
		_, kept := p.asB(ctx, b, own)
		return worst(p.asA(ctx, b, own), kept)
	}}, {Attempt: Attempt{Tried: "A asks for what is B's, then B asks: B must get its own, and not A's nothing"}, run: func(ctx context.Context) outcome {
		mine := p.asA(ctx, b, own)
		a, theirs := p.asB(ctx, b, own)
		if theirs.verdict == Held && !p.own(b, own, &a) {
			theirs = outcome{verdict: Inconclusive, got: "B got " + describe(&a) + " in place of its own"}
		}
		return worst(mine, theirs)
	}}}
	if b.mine != nil {
		mine := b.ask(b.mine)
		out = append(out, attempt{Attempt: Attempt{Tried: "A asks for its own twice, then B asks exactly the same, then A"}, run: func(ctx context.Context) outcome {
			one, two := p.asA(ctx, b, mine), p.asA(ctx, b, mine)
			_, theirs := p.asB(ctx, b, mine)
			return worst(one, two, theirs, p.asA(ctx, b, mine))
		}})
	}
	return out
}

// cancelled leaves calls in the middle: what they held goes back to a pool.
func (p *Proof) cancelled(b *bound) []attempt {
	const many = 12
	cut := func(ctx context.Context, by Caller, ask Ask) []outcome {
		out := make([]outcome, many)
		var group errgroup.Group
		for i := range out {
			group.Go(func() error {
				ask := ask
				ask.Cancel = time.Duration(i*i+1) * 100 * time.Microsecond
				a, err := p.deps.Target.Do(ctx, by, ask)
				p.calls.Add(1)
				o := p.judgeAnswer(by.Side, sent(ask), a, err)
				if o.verdict == Inconclusive { // it was cut, as it should be
					o = outcome{verdict: Held, got: "cut"}
				}
				out[i] = o
				return nil
			})
		}
		_ = group.Wait() // no error is returned
		return out
	}
	own := b.ask(b.args)
	return []attempt{{Attempt: Attempt{Tried: fmt.Sprintf("B goes away in the middle of %d calls; A asks the same right after", many)}, run: func(ctx context.Context) outcome {
		out := cut(ctx, b.byB(), own)
		return worst(append(out, p.asA(ctx, b, own), p.asA(ctx, b, own))...)
	}}, {Attempt: Attempt{Tried: fmt.Sprintf("A goes away in the middle of %d calls; B asks for its own, then A for B's", many)}, run: func(ctx context.Context) outcome {
		out := cut(ctx, b.byA(), own)
		_, theirs := p.asB(ctx, b, own)
		return worst(append(out, theirs, p.asA(ctx, b, own))...)
	}}}
}

// retried uses a request id again.
func (p *Proof) retried(b *bound) []attempt {
	return []attempt{{Attempt: Attempt{Tried: "A repeats B's call, under B's request id"}, run: func(ctx context.Context) outcome {
		own := b.ask(b.args)
		a, theirs := p.asB(ctx, b, own)
		own.Repeat = a.RequestID
		return worst(theirs, p.asA(ctx, b, own), p.asA(ctx, b, own))
	}}}
}

// idempotency uses a key that B has used.
func (p *Proof) idempotency(b *bound) []attempt {
	return []attempt{{Attempt: Attempt{Tried: "A uses the idempotency key of B's call, with the same arguments and with its own"}, run: func(ctx context.Context) outcome {
		own := b.ask(b.args)
		own.Key = rand.Text()
		_, theirs := p.asB(ctx, b, own)
		out := []outcome{theirs, p.asA(ctx, b, own)}
		if b.mine != nil {
			mine := b.ask(b.mine)
			mine.Key = own.Key
			out = append(out, p.asA(ctx, b, mine))
		}
		return worst(out...)
	}}}
}

// cursors use B's place in a list, as it is and changed.
func (p *Proof) cursors(b *bound) []attempt {
	if b.Kind != atlas.KindTool {
		return nil
	}
	long := p.long(b)
	made := func(change func(cursor string) string) func(ctx context.Context) outcome {
		return func(ctx context.Context) outcome {
			a, theirs := p.asB(ctx, b, b.ask(long))
			cursor := a.Cursor
			if cursor == "" { // B's list is short: a made-up one then
				cursor = "AQ" + strings.Repeat("A", 60)
			}
			args := maps.Clone(long)
			args["cursor"] = change(cursor)
			o := p.asA(ctx, b, b.ask(args))
			if a.Cursor == "" {
				o.got += " (to a made-up cursor: B's list has one page)"
			}
			return worst(theirs, o)
		}
	}
	return []attempt{
		{Attempt: Attempt{Tried: "A goes on at B's cursor"}, run: made(func(c string) string { return c })},
		{Attempt: Attempt{Tried: "A goes on at B's cursor with a byte changed"}, run: made(func(c string) string {
			i := len(c) / 2
			return c[:i] + string('A'+(c[i]+1)%26) + c[i+1:]
		})},
		{Attempt: Attempt{Tried: "A goes on at B's cursor, cut"}, run: made(func(c string) string { return c[:len(c)/2] })},
	}
}

// long are arguments by which B gets more than a page, where there is a way to say that.
func (p *Proof) long(b *bound) map[string]any {
	for i := range b.fields {
		if f := &b.fields[i]; f.form == formSQL {
			t := b.table(f.name)
			args := b.with(f.name, fmt.Sprintf("SELECT a.* FROM %s a, %s b, %s c ORDER BY a.id", t, t, t))
			for j := range b.fields {
				if g := &b.fields[j]; g.name == "max_rows" {
					args[g.name] = 500
				}
			}
			return args
		}
	}
	return b.args
}

// states use what B's client carries between two rounds.
func (p *Proof) states(b *bound) []attempt {
	if !b.asks {
		return nil
	}
	made := func(change func(string) string, args json.RawMessage) func(ctx context.Context) outcome {
		return func(ctx context.Context) outcome {
			ask := Ask{Op: OpCall, Name: b.Name, Elicit: true}
			a, theirs := p.asB(ctx, b, ask)
			if a.State == "" {
				return outcome{verdict: Inconclusive, got: "B was given no state"}
			}
			ask.State, ask.Args = change(a.State), args
			answers := map[string]any{}
			for i := range b.fields {
				if v, ok := b.args[b.fields[i].name]; ok {
					answers[b.fields[i].name] = v
				}
			}
			ask.Reply = encode(map[string]any{"input": map[string]any{"action": "accept", "content": answers}, "q": map[string]any{"action": "accept", "content": answers}})
			return worst(theirs, p.asA(ctx, b, ask))
		}
	}
	same := func(s string) string { return s }
	return []attempt{
		{Attempt: Attempt{Tried: "A answers the question that B was asked, with B's state"}, run: made(same, nil)},
		{Attempt: Attempt{Tried: "A sends B's state with B's arguments"}, run: made(same, encode(b.args))},
		{Attempt: Attempt{Tried: "A sends B's state with a byte changed"}, run: made(func(s string) string {
			i := len(s) / 2
			return s[:i] + string('A'+(s[i]+1)%26) + s[i+1:]
		}, nil)},
	}
}

// approvals use an approval that B has asked for.
func (p *Proof) approvals() []attempt {
	var out []attempt
	for _, b := range p.tools {
		if !b.Destructive || b.status != Closed || b.Kind != atlas.KindTool {
			continue
		}
		out = append(out, attempt{Attempt: Attempt{
			Area: "approvals", Source: b.Source, Tool: b.Name,
			Tried: "A makes the destructive call for which B waits for an approval, with B's idempotency key",
		}, run: func(ctx context.Context) outcome { return p.approval(ctx, b) }})
	}
	return out
}

func (p *Proof) approval(ctx context.Context, b *bound) outcome {
	key := rand.Text()
	var last outcome
	for _, role := range b.roles {
		for _, args := range p.writable(b) {
			ask := b.ask(args)
			ask.Key = key
			theirs, err := p.ask(ctx, Caller{B, role}, ask)
			last = p.judgeAnswer(B, sent(ask), theirs, err)
			if err != nil || theirs.Approval == "" {
				continue
			}
			mine, err := p.ask(ctx, Caller{A, role}, ask)
			o := p.judgeAnswer(A, sent(ask), mine, err)
			if strings.Contains(mine.Text, theirs.Approval) {
				return outcome{Leaked, describe(&mine), []string{"the approval " + redact(theirs.Approval) + ", which B asked for"}}
			}
			if o.verdict == Held && mine.Failure == nil {
				return outcome{verdict: Inconclusive, got: "A's call ran without an approval"}
			}
			return worst(last, o)
		}
	}
	return outcome{verdict: Inconclusive, got: "B's call came to no approval: " + last.got}
}

// A storm is many calls of both sides at once, over all tools.
type storm struct {
	once sync.Once
	got  map[string][]outcome // by tool
}

// storms are two attempts for each tool: calls of both sides interleaved, and with every third one cut.
func (p *Proof) storms() []attempt {
	var out []attempt
	for _, kind := range []struct {
		about string
		cut   bool
	}{
		{"%d calls of A and of B at once, among those of all other tools", false},
		{"%d calls of A and of B at once, and the clients of some go away in the middle", true},
	} {
		s := &storm{}
		for _, b := range p.tools {
			if b.status != Proven || p.cfg.Storm < 1 {
				continue
			}
			out = append(out, attempt{Attempt: Attempt{Area: "pool", Source: b.Source, Tool: b.Name, Tried: fmt.Sprintf(kind.about, p.cfg.Storm)}, run: func(ctx context.Context) outcome {
				s.once.Do(func() { s.got = p.storm(ctx, kind.cut) })
				return worst(s.got[b.Name]...)
			}})
		}
	}
	return out
}

func (p *Proof) storm(ctx context.Context, cut bool) map[string][]outcome {
	var mu sync.Mutex
	got := map[string][]outcome{}
	var group errgroup.Group
	group.SetLimit(p.cfg.Workers)
	for round := range p.cfg.Storm {
		for n, b := range p.tools {
			if b.status != Proven {
				continue
			}
			for _, side := range []Side{A, B} {
				if ctx.Err() != nil {
					break
				}
				group.Go(func() error {
					o := p.inStorm(ctx, b, side, cut && (round+n+int(side))%3 == 0, round)
					mu.Lock()
					defer mu.Unlock()
					got[b.Name] = append(got[b.Name], o)
					return nil
				})
			}
		}
	}
	_ = group.Wait() // no error is returned
	return got
}

func (p *Proof) inStorm(ctx context.Context, b *bound, side Side, cut bool, round int) outcome {
	args := b.args
	if side == A && b.mine != nil && round%2 == 0 {
		args = b.mine
	}
	ask := b.ask(args)
	if cut {
		ask.Cancel = time.Duration(round%5+1) * 200 * time.Microsecond
	}
	a, err := p.ask(ctx, Caller{side, b.role}, ask)
	o := p.judgeAnswer(side, sent(ask), a, err)
	switch {
	case o.verdict == Leaked:
		return o
	case cut:
		return outcome{verdict: Held, got: "cut, or " + strings.ReplaceAll(o.got, "no answer: ", "")}
	case o.verdict == Held && side == B && a.Failure == nil && !p.own(b, ask, &a):
		return outcome{verdict: Inconclusive, got: "B got something other than its own: " + o.got}
	}
	return o
}

// writable are arguments with which B may ask for a write: of its own, or at places where people may
// often write.
func (p *Proof) writable(b *bound) []map[string]any {
	list := p.candidates(b, B)
	if len(list) == 0 {
		return nil
	}
	for i := range b.fields {
		if f := &b.fields[i]; f.form == formKey {
			for _, dir := range []string{"attachments", "uploads", "drafts", "tmp"} {
				args := maps.Clone(list[0])
				args[f.name] = dir + "/atlas-canary.txt"
				list = append(list, args)
			}
		}
	}
	return list
}
