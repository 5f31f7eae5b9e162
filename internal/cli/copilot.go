package cli

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/app"
	"github.com/atlas-mcp/atlas/internal/copilot"
	"github.com/atlas-mcp/atlas/internal/copilot/llm/anthropic"
	"github.com/atlas-mcp/atlas/internal/copilot/llm/offline"
	"github.com/atlas-mcp/atlas/internal/copilot/mcpclient"
	"github.com/atlas-mcp/atlas/internal/copilot/memory"
)

// modelFlags choose the model.
type modelFlags struct {
	Model string `help:"offline, or a model of Anthropic such as claude-opus-4-7 (default: Anthropic's if ANTHROPIC_API_KEY is set, else offline)." placeholder:"MODEL"`
}

type copilotCmd struct {
	modelFlags
	identity
	Question []string `arg:"" optional:"" help:"The question."`
	Chat     bool     `help:"Read questions from the standard input, one a line, as one conversation."`
	Session  string   `help:"Go on with the conversation of this name, where turns outlive the command: in the Redis of the configuration, for an hour." placeholder:"NAME"`
	Quiet    bool     `help:"No live progress of the agents."`
}

// Help tells where the copilot connects to.
func (copilotCmd) Help() string {
	return `The copilot is an MCP client with the rights of its token and no others. It connects to the server named by
ATLAS_MCP_URL with ATLAS_MCP_TOKEN (and ATLAS_TENANT as X-Tenant-Id). Without ATLAS_MCP_URL it starts the configured
server inside this process, in development mode, and asks as the persona copilot@acme (or --as).

Exit codes: 0 approved, 1 not approved, 2 wrong usage or no token.`
}

// Run answers.
func (c copilotCmd) Run(ctx context.Context, p *Program, g *globals) error {
	question := strings.TrimSpace(strings.Join(c.Question, " "))
	if question == "" && !c.Chat {
		return usage("ask a question: %s %q", strings.TrimSuffix(p.Name, " copilot")+" copilot", "Why was the refund on order o_9002 for CUST-1001 delayed?")
	}
	target, err := c.connect(ctx, p, g)
	if err != nil {
		return err
	}
	defer target.close()
	target.key.Session = cmp.Or(c.Session, target.key.Session)
	return p.ask(ctx, g, c.modelFlags, target, question, c.Chat, c.Quiet)
}

// A target is the server that the copilot asks.
type target struct {
	client *mcpclient.Client
	cfg    copilot.Config
	key    copilot.SessionKey
	memory copilot.Memory
	close  func()
}

// connect dials the server of the environment, or starts one in this process.
func (c copilotCmd) connect(ctx context.Context, p *Program, g *globals) (*target, error) {
	url, _ := p.Env("ATLAS_MCP_URL")
	if url == "" {
		return p.embedded(ctx, g, c.identity)
	}
	token, _ := p.Env("ATLAS_MCP_TOKEN")
	if token == "" {
		return nil, usage("ATLAS_MCP_TOKEN is not set; get a token with: atlas token --tenant acme --subject you --role support_copilot")
	}
	tenant, _ := p.Env("ATLAS_TENANT")
	client, err := mcpclient.Dial(ctx, mcpclient.Config{URL: url, Token: token, Tenant: tenant, Version: p.Version}, nil)
	if err != nil {
		return nil, connectError(url, err)
	}
	t := &target{
		client: client, key: copilot.SessionKey{Tenant: tenant, Subject: "token", Session: rand.Text()},
		close: func() { _ = client.Close() }, // nothing is lost with a session
	}
	t.memory, err = memory.New(memory.Config{})
	return t, err
}

// connectError tells what is wrong with the way to the server, for the person who set it up.
func connectError(url string, err error) error {
	where := ""
	if url != "" {
		where = " (ATLAS_MCP_URL is " + url + ")"
	}
	code := atlas.CodeOf(err)
	if code == atlas.CodeMissingToken || code == atlas.CodeInvalidToken || code == atlas.CodeTokenExpired {
		return &exitError{exitUsage, err}
	}
	if code == atlas.CodeInvalidArguments {
		return usage("%s%s", describe(err), where)
	}
	if code == atlas.CodeSourceUnavailable {
		return fmt.Errorf("%s%s", describe(err), where)
	}
	return fmt.Errorf("connect: %w", err)
}

// embedded starts the configured server on a loopback port of its own choice and connects to it as
// any client does, with a token.
func (p *Program) embedded(ctx context.Context, g *globals, who identity) (*target, error) {
	ctx, stop := context.WithCancel(ctx)
	o := p.quietly(g)
	ln, err := app.ListenLoopback(ctx)
	if err != nil {
		stop()
		return nil, err
	}
	o.PublicURL = "http://" + ln.Addr().String()
	a, err := app.Open(ctx, o)
	if err != nil {
		stop()
		return nil, errors.Join(err, ln.Close())
	}
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, ln) }()
	t := &target{cfg: a.Config().Copilot}
	transport := &http.Transport{MaxIdleConnsPerHost: 8}
	t.close = func() {
		if t.client != nil {
			_ = t.client.Close() // nothing is lost with a session
		}
		// A stopping server waits five seconds for a connection that was opened and never used.
		transport.CloseIdleConnections()
		stop()
		if err := errors.Join(<-served, a.Close()); err != nil {
			p.notef("%s: stop: %v\n", p.Name, err)
		}
	}
	principal, err := who.principal(a, app.PersonaCopilot)
	if err == nil {
		var token string
		token, err = a.Token(app.TokenRequest{Tenant: string(principal.Tenant), Subject: principal.Subject, Roles: principal.Roles})
		if err == nil {
			t.client, err = mcpclient.Dial(ctx, mcpclient.Config{URL: o.PublicURL, Token: token, Version: p.Version}, transport)
		}
		t.key = copilot.SessionKey{Tenant: string(principal.Tenant), Subject: principal.Subject, Session: rand.Text()}
	}
	if err == nil {
		t.memory, err = a.Memory(memory.Config{})
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// ask answers one question, or one a line in a chat.
func (p *Program) ask(ctx context.Context, g *globals, m modelFlags, t *target, question string, chat, quiet bool) error {
	model, err := m.open(p)
	if err != nil {
		return err
	}
	pilot, err := copilot.New(t.cfg, model, t.client, t.memory, slog.New(slog.NewTextHandler(p.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	if err != nil {
		return err
	}
	if !chat {
		return p.answer(ctx, g, pilot, t.key, question, quiet)
	}
	if question != "" {
		if err := p.answer(ctx, g, pilot, t.key, question, quiet); err != nil && !isNo(err) {
			return err
		}
	}
	lines := bufio.NewScanner(p.Stdin)
	for p.prompt(); lines.Scan(); p.prompt() {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		if err := p.answer(ctx, g, pilot, t.key, line, quiet); err != nil && !isNo(err) {
			return err
		}
	}
	return lines.Err()
}

func isNo(err error) bool {
	e, ok := errors.AsType[*exitError](err)
	return ok && e.code == exitNo
}

func (p *Program) prompt() {
	if p.Terminal {
		p.notef("? ")
	}
}

func (p *Program) answer(ctx context.Context, g *globals, pilot *copilot.Copilot, key copilot.SessionKey, question string, quiet bool) error {
	req := copilot.Request{Question: question, Session: key}
	if p.Terminal && !quiet && !g.JSON {
		req.OnEvent = copilot.NewProgress(p.Stderr, true).Event
	}
	res, err := pilot.Run(ctx, req)
	if err != nil {
		if code := atlas.CodeOf(err); code == atlas.CodeInvalidArguments || code == atlas.CodeTooLarge {
			return &exitError{exitUsage, err}
		}
		return connectError("", err)
	}
	if g.JSON {
		err = p.printJSON(res)
	} else {
		err = copilot.Render(p.Stdout, res, copilot.RenderOptions{Color: p.Terminal, Now: time.Now()})
	}
	if err == nil && res.ExitCode() != exitOK {
		return no()
	}
	return err
}

// open returns the model that the flags and the environment ask for.
func (m modelFlags) open(p *Program) (copilot.Model, error) {
	key, _ := p.Env("ANTHROPIC_API_KEY")
	if m.Model == "offline" || m.Model == "" && key == "" {
		return new(offline.Model), nil
	}
	if key == "" {
		return nil, usage("ANTHROPIC_API_KEY is not set; set it, or use --model offline")
	}
	base, _ := p.Env("ANTHROPIC_BASE_URL")
	model, err := anthropic.New(anthropic.Config{Key: key, Model: m.Model, BaseURL: base}, &http.Client{})
	if err != nil {
		return nil, usage("%w", err)
	}
	return model, nil
}
