package isolation

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/atlas-mcp/atlas"
)

// doors are what can be tried over HTTP only.
func (p *Proof) doors() []attempt {
	d := p.deps.Door
	if d == nil {
		p.note("header fields, tokens, sessions, tasks and approvals were not tried: that needs a way over HTTP, with a token of each tenant")
		return nil
	}
	var b *bound
	for _, t := range p.tools {
		if t.status == Proven && t.Kind == atlas.KindTool && slices.Contains(d.Roles(), p.deps.Target.Roles()[t.role]) {
			b = t
			break
		}
	}
	if b == nil {
		p.note("header fields, tokens and sessions were not tried: no tool is proven whose role has tokens")
		return nil
	}
	g := &gate{p: p, door: d, tool: b, role: slices.Index(d.Roles(), p.deps.Target.Roles()[b.role])}
	out := slices.Concat(g.headers(), g.tokens(), g.sessions(), g.tasks(), g.decisions(), g.open())
	for i := range out {
		if out[i].Tool == "" {
			out[i].Tool, out[i].Source = b.Name, b.Source
		}
	}
	return out
}

func (p *Proof) note(text string) {
	if !slices.Contains(p.notes, text) {
		p.notes = append(p.notes, text)
	}
}

// A gate tries one proven tool over HTTP.
type gate struct {
	p    *Proof
	door Doorway
	tool *bound
	role int
}

func (g *gate) a() Caller { return Caller{A, g.role} }

func (g *gate) b() Caller { return Caller{B, g.role} }

// control makes B's own call over HTTP. It returns false, and what happened, if B did not get its own.
func (g *gate) control(ctx context.Context) (outcome, bool) {
	ask := g.tool.ask(g.tool.args)
	a, err := g.p.askOf(ctx, g.door, g.b(), ask)
	o := g.p.judgeAnswer(B, sent(ask), a, err)
	if o.verdict == Leaked {
		return o, false
	}
	if o.verdict != Held || !g.p.own(g.tool, ask, &a) {
		return outcome{verdict: Inconclusive, got: "B did not get its own over HTTP: " + o.got}, false
	}
	return o, true
}

// once is an attempt of one request by A for B's data, after B's control.
func (g *gate) once(area, tried string, change func(*Ask)) attempt {
	return attempt{Attempt: Attempt{Area: area, Tried: tried}, run: func(ctx context.Context) outcome {
		if o, ok := g.control(ctx); !ok {
			return o
		}
		ask := g.tool.ask(g.tool.args)
		change(&ask)
		a, err := g.p.askOf(ctx, g.door, g.a(), ask)
		return g.p.judgeAnswer(A, sent(ask), a, err)
	}}
}

func (g *gate) headers() []attempt {
	b := string(g.p.cfg.Tenants[B])
	a := string(g.p.cfg.Tenants[A])
	var out []attempt
	for _, h := range []struct{ name, value, about string }{
		{"X-Tenant-Id", b, "is B"},
		{"X-Tenant-Id", strings.ToUpper(b), "is B in capitals"},
		{"X-Tenant-Id", a + ", " + b, "is A, B"},
		{"X-Tenant-Id", a + "," + b, "is A,B without a space"},
		{"X-Tenant-Id", b + "\t", "is B and a tab"},
		{"X-Tenant-Id", `"` + b + `"`, "is B in quotes"},
		{"X-Tenant-Id", "*", "is a wildcard"},
		{"X-Tenant-Id", a + "/../" + b, "is a path from A to B"},
		{"X-Tenant_Id", b, "is B"},
		{"X-Tenant", b, "is B"},
		{"X-Tenant-Name", b, "is B"},
		{"X-Forwarded-Tenant", b, "is B"},
		{"X-Original-Tenant-Id", b, "is B"},
		{"Tenant", b, "is B"},
		{"X-Scope-Orgid", b, "is B"},
		{"X-User-Id", Subject + "@" + b, "is a user of B"},
		{"Forwarded", "for=127.0.0.1;host=" + b, "names B"},
		{"X-Forwarded-Host", b, "is B"},
		{"X-Http-Method-Override", "GET", "is GET"},
		{"Cookie", "tenant=" + b + "; X-Tenant-Id=" + b, "names B"},
		{"Baggage", "tenant_id=" + b, "names B"},
		{"Tracestate", "tenant=" + b, "names B"},
	} {
		out = append(out, g.once("headers", fmt.Sprintf("the header field %s %s", h.name, h.about), func(ask *Ask) { ask.Header = map[string]string{h.name: h.value} }))
	}
	for _, q := range []string{"tenant=" + b, "X-Tenant-Id=" + b, "tenant_id=" + b} {
		out = append(out, g.once("headers", "the URL's query is "+q, func(ask *Ask) { ask.Query = q }))
	}
	out = append(out, attempt{Attempt: Attempt{Area: "headers", Tried: "two X-Tenant-Id fields, A and B"}, run: g.raw(http.Header{"X-Tenant-Id": {a, b}})},
		attempt{Attempt: Attempt{Area: "headers", Tried: "two X-Tenant-Id fields, B and A"}, run: g.raw(http.Header{"X-Tenant-Id": {b, a}})})
	return out
}

// raw sends B's call as A with other header fields.
func (g *gate) raw(change http.Header) func(ctx context.Context) outcome {
	return func(ctx context.Context) outcome {
		if o, ok := g.control(ctx); !ok {
			return o
		}
		body, header := g.message(revision, g.tool.args)
		maps.Copy(header, change)
		g.p.calls.Add(1)
		a, _, err := g.door.Raw(ctx, g.a(), http.MethodPost, "/mcp", header, body)
		return g.p.judgeAnswer(A, string(body), a, err)
	}
}

// message is a call of the tool as a client of the revision writes it.
func (g *gate) message(version string, args map[string]any) ([]byte, http.Header) {
	params := map[string]any{"name": g.tool.Name, "arguments": args}
	header := http.Header{"Mcp-Protocol-Version": {version}}
	if version == revision {
		params["_meta"] = map[string]any{"io.modelcontextprotocol/protocolVersion": version, "io.modelcontextprotocol/clientCapabilities": map[string]any{}}
		header["Mcp-Method"], header["Mcp-Name"] = []string{string(OpCall)}, []string{g.tool.Name}
	}
	return encode(map[string]any{"jsonrpc": "2.0", "id": 1, "method": OpCall, "params": params}), header
}

// tokens change A's token so that it says B.
func (g *gate) tokens() []attempt {
	parts := strings.Split(g.door.Token(g.a()), ".")
	if len(parts) != 3 {
		g.p.note("changed tokens were not tried: the tokens are not JWTs")
		return nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil
	}
	a, b := string(g.p.cfg.Tenants[A]), string(g.p.cfg.Tenants[B])
	forged := base64.RawURLEncoding.EncodeToString([]byte(strings.ReplaceAll(string(payload), a, b)))
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"at+jwt"}`))
	theirs := strings.Split(g.door.Token(g.b()), ".")
	var out []attempt
	for _, t := range []way{
		{"says B and has A's signature", parts[0] + "." + forged + "." + parts[2]},
		{"says B and has no signature", parts[0] + "." + forged + "."},
		{"says B and alg none", none + "." + forged + "."},
		{"says B and alg none, with A's signature", none + "." + forged + "." + parts[2]},
		{"is B's with A's signature", strings.Join(append(slices.Clone(theirs[:len(theirs)-1]), parts[2]), ".")},
		{"is A's with B's signature", parts[0] + "." + parts[1] + "." + theirs[len(theirs)-1]},
		{"is A's twice, with B's payload between", parts[0] + "." + parts[1] + "." + parts[2] + "." + forged},
	} {
		out = append(out, attempt{Attempt: Attempt{Area: "tokens", Tried: "a token that " + t.about}, run: g.refusedToken(http.Header{"Authorization": {"Bearer " + t.value}})})
	}
	return append(out,
		attempt{Attempt: Attempt{Area: "tokens", Tried: "no token"}, run: g.refusedToken(http.Header{"Authorization": {""}})},
		attempt{Attempt: Attempt{Area: "tokens", Tried: "two tokens, A's and one that says B"}, run: g.raw(http.Header{"Authorization": {"Bearer " + g.door.Token(g.a()), "Bearer " + parts[0] + "." + forged + "." + parts[2]}})})
}

// refusedToken sends B's call with a token that must not be accepted.
func (g *gate) refusedToken(header http.Header) func(ctx context.Context) outcome {
	send := g.raw(header)
	return func(ctx context.Context) outcome {
		o := send(ctx)
		if o.verdict == Held && strings.Contains(o.got, "row") {
			return outcome{Leaked, o.got, []string{"a token that nobody has signed was accepted"}}
		}
		return o
	}
}

var errNoSession = errors.New("the server gave B no session")

// sessions use a session of the older era that B has begun.
func (g *gate) sessions() []attempt {
	begin := func(ctx context.Context) (string, error) {
		body := encode(map[string]any{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": map[string]any{
			"protocolVersion": legacy, "capabilities": map[string]any{}, "clientInfo": map[string]string{"name": "atlas-verify", "version": "1"},
		}})
		g.p.calls.Add(1)
		_, header, err := g.door.Raw(ctx, g.b(), http.MethodPost, "/mcp", http.Header{"Mcp-Protocol-Version": {legacy}}, body)
		if err != nil {
			return "", err
		}
		if id := header.Get(sessionHeader); id != "" {
			return id, nil
		}
		return "", errNoSession
	}
	in := func(ctx context.Context, who Caller, method, session string) (Answer, []byte, error) {
		var body []byte
		header := http.Header{}
		if method == http.MethodPost {
			body, header = g.message(legacy, g.tool.args)
		}
		header[sessionHeader] = []string{session}
		g.p.calls.Add(1)
		a, _, err := g.door.Raw(ctx, who, method, "/mcp", header, body)
		return a, body, err
	}
	made := func(change func(string) string, method string) func(ctx context.Context) outcome {
		return func(ctx context.Context) outcome {
			session, err := begin(ctx)
			if err != nil {
				return outcome{verdict: Inconclusive, got: err.Error()}
			}
			a, body, err := in(ctx, g.a(), method, change(session))
			o := g.p.judgeAnswer(A, string(body), a, err)
			theirs, body, err := in(ctx, g.b(), http.MethodPost, session)
			after := g.p.judgeAnswer(B, string(body), theirs, err)
			if o.verdict == Held && after.verdict == Held && !g.p.own(g.tool, Ask{Args: body}, &theirs) {
				return outcome{Leaked, describe(&theirs), []string{"B's session no longer works after what A did to it"}}
			}
			return worst(o, after)
		}
	}
	same := func(s string) string { return s }
	return []attempt{
		{Attempt: Attempt{Area: "sessions", Tried: "A calls in B's session"}, run: made(same, http.MethodPost)},
		{Attempt: Attempt{Area: "sessions", Tried: "A calls in B's session with a byte changed"}, run: made(func(s string) string {
			i := len(s) / 2
			return s[:i] + string('A'+(s[i]+1)%26) + s[i+1:]
		}, http.MethodPost)},
		{Attempt: Attempt{Area: "sessions", Tried: "A ends B's session; B's must go on"}, run: made(same, http.MethodDelete)},
	}
}

// tasks follow a call of B's that runs on by itself.
func (g *gate) tasks() []attempt {
	begin := func(ctx context.Context) (string, error) {
		for _, b := range g.p.tools {
			role := slices.Index(g.door.Roles(), g.p.deps.Target.Roles()[b.role])
			if b.status != Proven || b.Kind != atlas.KindTool || role < 0 {
				continue
			}
			ask := b.ask(b.args)
			ask.Follow = true
			a, err := g.p.askOf(ctx, g.door, Caller{B, role}, ask)
			if err != nil {
				return "", err
			}
			if a.Task != "" {
				return a.Task, nil
			}
		}
		return "", nil
	}
	made := func(op Op) func(ctx context.Context) outcome {
		return func(ctx context.Context) outcome {
			task, err := begin(ctx)
			if err != nil {
				return outcome{verdict: Inconclusive, got: err.Error()}
			}
			own := task != ""
			if !own { // then at least one that is made up
				task = "task_" + letters(fixed.mac("task"), 20)
			}
			ask := Ask{Op: op, Task: task}
			a, err := g.p.askOf(ctx, g.door, g.a(), ask)
			o := g.p.judgeAnswer(A, sent(ask), a, err)
			none := Ask{Op: op, Task: nowhere(task)}
			x, err := g.p.askOf(ctx, g.door, g.a(), none)
			if err == nil && o.verdict == Held && masked(&a, task) != masked(&x, none.Task) {
				return outcome{Leaked, describe(&a), []string{"B's task is answered otherwise than one that nobody has"}}
			}
			if !own {
				o.got += " (to a made-up task: no call of B became one)"
			}
			return o
		}
	}
	return []attempt{
		{Attempt: Attempt{Area: "tasks", Tried: "A reads B's task"}, run: made(OpTask)},
		{Attempt: Attempt{Area: "tasks", Tried: "A cancels B's task"}, run: made(OpCancel)},
	}
}

// decisions use the administrative API on an approval that B waits for.
func (g *gate) decisions() []attempt {
	var out []attempt
	for role, name := range g.door.Roles() {
		for _, d := range []struct{ method, path, body, about string }{
			{http.MethodGet, "", "", "reads"},
			{http.MethodPost, "/approve", `{"reason":"isolation proof"}`, "approves"},
			{http.MethodPost, "/deny", `{"reason":"isolation proof"}`, "denies"},
		} {
			out = append(out, attempt{
				Attempt: Attempt{Area: "approvals", Tool: "admin API", Tried: fmt.Sprintf("A (%s) %s an approval that B waits for", name, d.about)},
				run: func(ctx context.Context) outcome {
					return g.decide(ctx, Caller{A, role}, d.method, d.path, d.body)
				},
			})
		}
		out = append(out, attempt{Attempt: Attempt{Area: "approvals", Tool: "admin API", Tried: fmt.Sprintf("A (%s) lists approvals", name)}, run: func(ctx context.Context) outcome {
			id := g.pending(ctx)
			g.p.calls.Add(1)
			a, _, err := g.door.Raw(ctx, Caller{A, role}, http.MethodGet, "/admin/v1/approvals", http.Header{}, nil)
			o := g.p.judgeAnswer(A, g.p.awaited(A), a, err) // A reads there what it has asked for itself
			if id != "" && strings.Contains(a.Text, id) {
				return outcome{Leaked, describe(&a), []string{"the approval " + redact(id) + ", which B asked for"}}
			}
			return o
		}})
	}
	return out
}

// pending returns an approval that B waits for, or "".
func (g *gate) pending(ctx context.Context) string {
	for _, b := range g.p.tools {
		if !b.Destructive || b.Kind != atlas.KindTool {
			continue
		}
		for role := range g.door.Roles() {
			for _, args := range g.p.writable(b) {
				a, err := g.p.askOf(ctx, g.door, Caller{B, role}, b.ask(args))
				if err == nil && a.Approval != "" {
					return a.Approval
				}
			}
		}
	}
	return ""
}

func (g *gate) decide(ctx context.Context, who Caller, method, path, body string) outcome {
	id := g.pending(ctx)
	known := id != ""
	if !known {
		id = strings.ToUpper(letters(fixed.mac("approval"), 26))
	}
	var data []byte
	if body != "" {
		data = json.RawMessage(body)
	}
	none := nowhere(id)
	g.p.calls.Add(2)
	a, _, err := g.door.Raw(ctx, who, method, "/admin/v1/approvals/"+id+path, http.Header{}, data)
	o := g.p.judgeAnswer(A, id, a, err)
	x, _, xerr := g.door.Raw(ctx, who, method, "/admin/v1/approvals/"+none+path, http.Header{}, data)
	switch {
	case o.verdict != Held || xerr != nil:
		return o
	case a.Failure == nil:
		return outcome{Leaked, describe(&a), []string{"B's approval " + redact(id)}}
	case masked(&a, id) != masked(&x, none):
		return outcome{Leaked, describe(&a), []string{"B's approval is answered otherwise than one that nobody has"}}
	case !known:
		o.got += " (to a made-up approval: no call of B came to one)"
	}
	return o
}

// open reads what everybody may read.
func (g *gate) open() []attempt {
	var out []attempt
	for _, path := range []string{"/metrics", "/readyz", "/healthz", "/.well-known/mcp-server", "/.well-known/oauth-protected-resource", "/nowhere"} {
		out = append(out, attempt{Attempt: Attempt{Area: "open paths", Tool: path, Tried: "A reads " + path}, run: func(ctx context.Context) outcome {
			g.p.calls.Add(1)
			a, _, err := g.door.Raw(ctx, g.a(), http.MethodGet, path, http.Header{}, nil)
			o := g.p.judgeAnswer(A, "", a, err)
			if b := string(g.p.cfg.Tenants[B]); o.verdict == Held && strings.Contains(a.Text, b) {
				return outcome{Leaked, describe(&a), []string{"the name of tenant B"}}
			}
			return o
		}})
	}
	return out
}
