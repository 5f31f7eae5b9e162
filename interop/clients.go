package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The eras' versions of the protocol.
const (
	modern = "2026-07-28"
	legacy = "2025-11-25"
)

// A job is what a driver does; see clients/js/job.mjs.
type job struct {
	URL     string  `json:"url"`
	Token   string  `json:"token"`
	Expired string  `json:"expired"`
	Call    request `json:"call"`
	Denied  request `json:"denied"`
	Home    string  `json:"home"`    // an empty folder
	Version string  `json:"version"` // to be told where a client does not tell
}

type request struct {
	Name      string         `json:"name"`
	Arguments map[string]any `json:"arguments"`
}

// An outcome is what a driver saw.
type outcome struct {
	Version string   `json:"version"`
	Tools   []string `json:"tools"`
	Call    *answer  `json:"call"`
	Denied  *answer  `json:"denied"`
	Expired string   `json:"expired"`
}

type answer struct {
	IsError bool   `json:"isError"`
	Text    string `json:"text"`
}

// What is called, and what the policy denies to support: the dates of birth.
var (
	allowedCall = request{"crm_query", map[string]any{"sql": "SELECT status FROM orders WHERE id = 'o_9002'"}}
	deniedCall  = request{"crm_query", map[string]any{"sql": "SELECT id, dob FROM customers"}}
)

const (
	allowedWord = "refund_pending"
	deniedWord  = "denied_by_policy"
)

func trials() []trial {
	client := func(name, want string, start func(context.Context, *lab) (*exec.Cmd, error)) trial {
		return trial{name: name, group: "client", run: func(ctx context.Context, l *lab) row { return l.client(ctx, name, want, start) }}
	}
	js := func(script string, args ...string) func(context.Context, *lab) (*exec.Cmd, error) {
		return func(ctx context.Context, l *lab) (*exec.Cmd, error) {
			home, err := l.js()
			if err != nil {
				return nil, err
			}
			return l.cache.Node(ctx, home, filepath.Join(home, "drivers", script), args...), nil
		}
	}
	python := func(version string, args ...string) func(context.Context, *lab) (*exec.Cmd, error) {
		return func(ctx context.Context, l *lab) (*exec.Cmd, error) {
			home, err := l.python(version)
			if err != nil {
				return nil, err
			}
			args := append([]string{filepath.Join(home, "drivers", version+".py")}, args...)
			cmd := exec.CommandContext(ctx, filepath.Join(home, "venv", "bin", "python"), args...) //nolint:gosec // our own
			cmd.Env = l.env
			cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
			cmd.WaitDelay = 3 * time.Second
			return cmd, nil
		}
	}
	return []trial{
		client("inspector-modern", modern, js("inspector.mjs", "modern")),
		client("inspector-legacy", legacy, js("inspector.mjs", "legacy")),
		client("typescript-v1", legacy, js("ts1.mjs")),
		client("typescript-v2-auto", modern, js("ts2.mjs", "auto")),
		client("typescript-v2-pin", modern, js("ts2.mjs", "pin")),
		client("typescript-v2-legacy", legacy, js("ts2.mjs", "legacy")),
		client("python-v1", legacy, python("v1")),
		client("python-v2-auto", modern, python("v2", "auto")),
		client("python-v2-legacy", legacy, python("v2", "legacy")),
		client("mcp-remote", legacy, js("mcp-remote.mjs")),
		client("claude-code", modern, js("claude.mjs")),
		{name: "browser-typescript-v2", group: "browser", run: func(ctx context.Context, l *lab) row {
			return l.browser(ctx, "browser-typescript-v2", modern, "ts2")
		}},
		{name: "browser-mcp-remote", group: "browser", run: func(ctx context.Context, l *lab) row {
			return l.browser(ctx, "browser-mcp-remote", legacy, "mcp-remote")
		}},
		{name: "oidc-provider", group: "provider", run: func(ctx context.Context, l *lab) row {
			return l.provider(ctx, "oidc-provider", oidcVersion, startOIDC)
		}},
		{name: "keycloak", group: "provider", run: func(ctx context.Context, l *lab) row {
			return l.provider(ctx, "keycloak", keycloakVersion, startKeycloak)
		}},
	}
}

// client drives a client and judges what it saw.
func (l *lab) client(ctx context.Context, name, want string, start func(context.Context, *lab) (*exec.Cmd, error)) row {
	r := row{Version: want, Cells: map[string]string{}}
	cmd, err := start(ctx, l)
	if err != nil {
		r.Error = err.Error()
		return r
	}
	home := filepath.Join(l.dir, name)
	if err := os.MkdirAll(home, 0o750); err != nil {
		r.Error = err.Error()
		return r
	}
	var o outcome
	err = l.drive(ctx, name, cmd, job{
		URL: l.url, Token: l.good, Expired: l.expired, Call: allowedCall, Denied: deniedCall, Home: home, Version: want,
	}, &o)
	if err != nil {
		r.Error = err.Error()
		return r
	}
	if o.Version != want {
		r.Error = fmt.Sprintf("it speaks %q, which should be %q", o.Version, want)
	}
	r.Cells["list"] = judgeList(o.Tools, l.tools)
	r.Cells["call"] = judgeAnswer(o.Call, false, allowedWord)
	r.Cells["denied"] = judgeAnswer(o.Denied, true, deniedWord)
	r.Cells["expired"] = judgeExpired(o.Expired)
	return r
}

// judgeList says whether the client saw what the pipeline shows to the persona, no more and no less.
func judgeList(got, want []string) string {
	got, want = slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))
	if slices.Equal(got, want) {
		return ok
	}
	return fmt.Sprintf("it lists %d tools, which should be %d: got %v, want %v", len(got), len(want), got, want)
}

// judgeAnswer takes nil for a client that cannot call.
func judgeAnswer(a *answer, wantError bool, word string) string {
	switch {
	case a == nil:
		return none
	case a.IsError != wantError || !strings.Contains(a.Text, word):
		return fmt.Sprintf("isError %v and %.500q, which should be %v and hold %q", a.IsError, a.Text, wantError, word)
	}
	return ok
}

// The words by which clients tell that they are not authorized.
var unauthorized = regexp.MustCompile(`(?i)\b401\b|unauthori[sz]ed|invalid_token|token_expired|needs-auth|auth_required|authorization required|authorize this client|status failed`)

func judgeExpired(said string) string {
	switch {
	case said == "":
		return "an expired token was accepted"
	case !unauthorized.MatchString(said):
		return fmt.Sprintf("it failed, but not for want of authorization: %.500s", said)
	}
	return ok
}
