package isolation

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Transport is what the calls of a proof from inside say that they came by; audit records show it.
const Transport = "isolation"

// Subject begins the subject of every caller of a proof from inside; the role follows.
const Subject = "atlas-isolation"

// Issuer is the issuer of every principal of a proof from inside. No token has it.
const Issuer = "atlas:isolation"

// Inside is how a proof reaches an Atlas in its own process.
type Inside struct {
	Handle atlas.Handler        // the one door of all calls
	Tools  func() []*atlas.Tool // all that there is, whoever may use it
	NewID  func() string        // a new request id
	Roles  map[string][]string  // scopes by role
}

// Direct is a [Target] in the same process: the whole pipeline, without the network before it.
type Direct struct {
	in      Inside
	tenants [2]atlas.TenantID
	roles   []string
	nonce   atomic.Pointer[string]
}

// NewDirect returns the target for the two tenants. Every role that brings a tool's scope becomes a
// caller of its own, without the right to act for another tenant or to decide approvals.
func NewDirect(in Inside, tenants [2]atlas.TenantID) (*Direct, error) {
	if in.Handle == nil || in.Tools == nil || in.NewID == nil {
		return nil, errors.New("isolation: Handle, Tools and NewID are needed")
	}
	d := &Direct{in: in, tenants: tenants}
	d.Renew()
	for role, scopes := range in.Roles {
		if slices.ContainsFunc(scopes, isToolScope) {
			d.roles = append(d.roles, role)
		}
	}
	if len(d.roles) == 0 {
		return nil, errors.New("isolation: no role of the configuration brings a tool's scope, so there is nothing to call")
	}
	// Those with the fewest scopes come first: a tool is attacked under the least rights that reach it.
	slices.SortFunc(d.roles, func(a, b string) int {
		return cmp.Or(cmp.Compare(breadth(in.Roles[a]), breadth(in.Roles[b])), strings.Compare(a, b))
	})
	return d, nil
}

// Renew makes all callers new ones to caches, which keep answers by scopes and tokens: what an earlier proof
// was told says nothing of now. Between the two sides nothing changes but the tenant, as before.
func (d *Direct) Renew() { d.nonce.Store(new(strings.ToLower(rand.Text()))) }

func isToolScope(s string) bool { return strings.HasPrefix(s, "tool:") }

// breadth is how much the scopes open.
func breadth(scopes []string) int {
	if slices.Contains(scopes, atlas.ScopeAdmin) {
		return 1 << 20
	}
	return len(scopes)
}

// Roles implements [Target].
func (d *Direct) Roles() []string { return d.roles }

func (d *Direct) principal(who Caller) *atlas.Principal {
	role, nonce := d.roles[who.Role], *d.nonce.Load()
	scopes := slices.DeleteFunc(slices.Clone(d.in.Roles[role]), func(s string) bool { return !isToolScope(s) })
	return &atlas.Principal{
		Subject: Subject + "/" + role, Tenant: d.tenants[who.Side], Roles: []string{role},
		Scopes: append(scopes, "isolation:"+nonce), // a scope that opens nothing
		Issuer: Issuer, TokenID: nonce, Expiry: time.Now().Add(time.Hour),
	}
}

func (d *Direct) call(who Caller, op atlas.Op, kind atlas.Kind, name string) atlas.Call {
	p := d.principal(who)
	return atlas.Call{
		ID: d.in.NewID(), Op: op, Kind: kind, Name: name, Principal: p, Tenant: p.Tenant, Transport: Transport, Received: time.Now(),
	}
}

// Tools implements [Target].
func (d *Direct) Tools(ctx context.Context, who Caller) ([]Tool, error) {
	var out []Tool
	for _, kind := range []atlas.Kind{atlas.KindTool, atlas.KindPrompt, atlas.KindResource} {
		res, err := d.in.Handle(ctx, d.call(who, atlas.OpList, kind, ""))
		if err != nil {
			return nil, fmt.Errorf("list: %w", err)
		}
		for _, t := range res.Tools {
			out = append(out, Tool{
				Name: t.Name, Kind: t.Kind, Source: t.Source, URI: t.URI, Description: t.Description, Input: t.Input, ReadOnly: t.ReadOnly, Destructive: t.Destructive,
			})
		}
	}
	return out, nil
}

// Do implements [Target].
func (d *Direct) Do(ctx context.Context, who Caller, ask Ask) (Answer, error) {
	if ask.Cancel > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, ask.Cancel)
		defer cancel()
	}
	begun := time.Now()
	answer, err := d.do(ctx, who, ask)
	answer.Took = time.Since(begun)
	return answer, err
}

func (d *Direct) do(ctx context.Context, who Caller, ask Ask) (Answer, error) {
	switch ask.Op {
	case OpCall, OpGet:
		kind := atlas.KindTool
		if ask.Op == OpGet {
			kind = atlas.KindPrompt
		}
		return d.handle(ctx, d.fill(d.call(who, atlas.OpCall, kind, ask.Name), ask)), nil
	case OpRead:
		return d.read(ctx, who, ask), nil
	case OpComplete, OpResources:
		return d.look(ctx, who, ask)
	case OpTools:
		tools, err := d.Tools(ctx, who)
		if err != nil {
			return failed(err, ""), nil
		}
		data, err := json.Marshal(tools)
		return Answer{Text: string(data)}, err
	case OpTask, OpCancel:
	}
	return Answer{}, ErrUnsupported
}

func (d *Direct) fill(call atlas.Call, ask Ask) atlas.Call {
	call.Args.Raw, call.IdempotencyKey = ask.Args, ask.Key
	call.ID = cmp.Or(ask.Repeat, call.ID)
	call.Client.Elicit, call.Client.Tasks = ask.Elicit, ask.Follow
	if ask.State != "" || ask.Reply != nil {
		call.Reply = &atlas.Reply{State: []byte(ask.State)}
		_ = json.Unmarshal(ask.Reply, &call.Reply.Answers) // what does not fit is no answer
	}
	return call
}

func (d *Direct) handle(ctx context.Context, call atlas.Call) Answer {
	res, err := d.in.Handle(ctx, call)
	if err != nil {
		a := failed(err, call.ID)
		a.Text += notes(res.Notes)
		return a
	}
	var text strings.Builder
	text.Write(res.Structured)
	for _, c := range res.Content {
		fmt.Fprintf(&text, "\n%s %s %s %s %s\n%s\n%s", c.Role, c.URI, c.Name, c.Title, c.Description, c.Text, c.Data)
	}
	a := Answer{
		Structured: res.Structured, RequestID: call.ID, Cursor: res.NextCursor,
		Approval: res.Notes.ApprovalID,
	}
	if res.Ask != nil {
		a.Asked, a.State = true, string(res.Ask.State)
		for key, r := range res.Ask.Requests {
			fmt.Fprintf(&text, "\n%s %s %s", key, r.Method, r.Params)
		}
	}
	a.Text = text.String() + notes(res.Notes)
	return a
}

func notes(n atlas.Notes) string {
	data, err := json.Marshal(n)
	if err != nil { // texts and numbers only
		return ""
	}
	return "\nnotes " + string(data)
}

// failed is a failure as its caller sees it.
func failed(err error, requestID string) Answer {
	f := atlas.ErrorOf(err).Failure(requestID)
	data, merr := json.Marshal(f)
	if merr != nil {
		data = []byte(f.Hint)
	}
	a := Answer{Text: string(data), Failure: &f, RequestID: requestID}
	a.Approval, _ = f.Context["approval_id"].(string)
	return a
}

// read reads a resource as the edge does: the first whose template the URI fits and which the caller
// may see.
func (d *Direct) read(ctx context.Context, who Caller, ask Ask) Answer {
	answer := failed(atlas.Errorf(atlas.CodeNotFound, nil, ""), "")
	for _, t := range d.in.Tools() {
		if t.Kind != atlas.KindResource || t.Match == nil {
			continue
		}
		args, ok := t.Match(ask.URI)
		if !ok {
			continue
		}
		call := d.call(who, atlas.OpCall, atlas.KindResource, t.Name)
		call.Args.Raw = args
		if answer = d.handle(ctx, call); answer.Code() != atlas.CodeToolNotFound {
			break
		}
	}
	return answer
}

// look answers what the edge finds out beside calls: what is behind templates, and completions.
func (d *Direct) look(ctx context.Context, who Caller, ask Ask) (Answer, error) {
	list := func(kind atlas.Kind) (atlas.Call, []*atlas.Tool, error) {
		call := d.call(who, atlas.OpList, kind, "")
		res, err := d.in.Handle(ctx, call)
		call.Op = atlas.OpCall
		return call, res.Tools, err
	}
	var text strings.Builder
	if ask.Op == OpResources {
		call, tools, err := list(atlas.KindResource)
		if err != nil {
			return failed(err, call.ID), nil
		}
		for _, t := range tools {
			if t.List == nil {
				continue
			}
			call.Name, call.Tool = t.Name, t
			links, err := t.List(ctx, call)
			if err != nil {
				return failed(err, call.ID), nil
			}
			for _, l := range links {
				fmt.Fprintf(&text, "%s %s %s %s\n", l.URI, l.Name, l.Title, l.Description)
			}
		}
		return Answer{Text: text.String()}, nil
	}
	for _, kind := range []atlas.Kind{atlas.KindPrompt, atlas.KindResource} {
		call, tools, err := list(kind)
		if err != nil {
			return failed(err, call.ID), nil
		}
		for _, t := range tools {
			if t.Name != ask.Name || t.Complete == nil {
				continue
			}
			call.Name, call.Tool = t.Name, t
			values, err := t.Complete(ctx, call, ask.Argument, ask.Prefix, nil)
			if err != nil {
				return failed(err, call.ID), nil
			}
			return Answer{Text: strings.Join(values, "\n")}, nil
		}
	}
	return Answer{}, ErrUnsupported
}
