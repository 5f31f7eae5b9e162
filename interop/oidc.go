package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
)

// oidcVersion is pinned in clients/js/package.json.
const oidcVersion = "9.13.3"

// oidcProvider is npm oidc-provider; see clients/js/oidc.mjs.
type oidcProvider struct {
	url  string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	log  *os.File
	done context.CancelFunc
}

func startOIDC(ctx context.Context, l *lab, audience string) (_ provider, err error) {
	home, err := l.js()
	if err != nil {
		return nil, err
	}
	setup, err := json.Marshal(map[string]any{"audience": audience, "stranger": elsewhere, "users": users})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	p := &oidcProvider{done: cancel, cmd: l.cache.Node(ctx, home, filepath.Join(home, "drivers", "oidc.mjs"), string(setup))}
	if p.log, err = os.Create(filepath.Join(l.out, "oidc-provider.log")); err != nil {
		cancel()
		return nil, err
	}
	p.cmd.Stderr = p.log
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		cancel()
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	var hello struct {
		Issuer string `json:"issuer"`
	}
	if err := p.read(&hello); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	p.url = hello.Issuer
	return p, nil
}

func (p *oidcProvider) read(v any) error {
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("oidc-provider: %w; see %s", err, p.log.Name())
	}
	return json.Unmarshal(line, v)
}

func (p *oidcProvider) command(word string) error {
	if _, err := io.WriteString(p.in, word+"\n"); err != nil {
		return err
	}
	var done struct {
		Done string `json:"done"`
	}
	return p.read(&done)
}

func (p *oidcProvider) issuer(audience string) string {
	return fmt.Sprintf(`{issuer: %q, audience: [%q], claims: {tenant: "https://idp.example/organization", roles: [groups]}, `+
		`role_map: {support: [support_copilot], reporting: [analyst]}, scopes_from_roles: true}`, p.url, audience)
}

func (p *oidcProvider) token(ctx context.Context, name, audience string) (string, error) {
	return tokenFrom(ctx, p.url+"/token", name, name, url.Values{"grant_type": {"client_credentials"}, "resource": {audience}})
}

func (p *oidcProvider) rotate(context.Context) error   { return p.command("rotate") }
func (p *oidcProvider) withdraw(context.Context) error { return p.command("withdraw") }

func (p *oidcProvider) stop() error {
	err := p.in.Close() // it ends with its input
	werr := p.cmd.Wait()
	p.done()
	return errors.Join(err, werr, p.log.Close())
}
