package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas/internal/app"
)

// elsewhere is the audience of tokens that are not for Atlas.
const elsewhere = "https://elsewhere.example/mcp"

// A user of an identity provider.
type user struct {
	Name         string   `json:"name"`
	Secret       string   `json:"secret"`
	Organization string   `json:"organization,omitempty"` // mapped to the tenant
	Groups       []string `json:"groups"`                 // mapped to roles
}

// users of all providers. The groups support and reporting are mapped to roles, cooking is not.
var users = []user{
	{"support-acme", "support-acme", "acme", []string{"support"}},
	{"support-globex", "support-globex", "globex", []string{"support"}},
	{"reporting-acme", "reporting-acme", "acme", []string{"reporting"}},
	{"cook-acme", "cook-acme", "acme", []string{"cooking"}},
	{"nobody", "nobody", "", []string{"support"}},
}

// A provider is a running identity provider.
type provider interface {
	// issuer returns the issuer's entry of auth.issuers, as YAML in one line.
	issuer(audience string) string
	// token gets a token of the user from the token endpoint; stranger, one for another audience.
	token(ctx context.Context, user, audience string) (string, error)
	// rotate has new tokens signed with a new key; withdraw forgets the old one.
	rotate(ctx context.Context) error
	withdraw(ctx context.Context) error
	stop() error
}

// provider starts an identity provider and an Atlas that trusts it, and judges what tokens are good for.
func (l *lab) provider(ctx context.Context, name, version string, start func(ctx context.Context, l *lab, audience string) (provider, error)) (r row) {
	r = row{Version: version, Cells: map[string]string{}}
	err := func() (err error) {
		ln, err := app.ListenLoopback(ctx)
		if err != nil {
			return err
		}
		audience := "http://" + ln.Addr().String() + "/mcp"
		p, err := start(ctx, l, audience)
		if err != nil {
			return errors.Join(err, ln.Close())
		}
		defer func() { err = errors.Join(err, p.stop()) }()
		overlay := "auth: {clock_skew: 1s, keys_refresh: 1s, cache_ttl: 1s, issuers: [" + p.issuer(audience) + "]}\n"
		s, err := startAtlasOn(ctx, ln, filepath.Join(l.dir, "data-"+name), filepath.Join(l.out, name+"-atlas.log"), overlay)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.close()) }()
		t := &providerTrial{provider: p, server: s, audience: audience}
		for _, check := range []struct {
			cell string
			run  func(context.Context, *lab) error
		}{
			{"accepted", t.accepted}, {"tenant", t.tenant}, {"roles", t.roles}, {"audience", t.wrongAudience}, {"rotation", t.rotation},
		} {
			r.Cells[check.cell] = ok
			if err := check.run(ctx, l); err != nil {
				r.Cells[check.cell] = err.Error()
			}
		}
		return nil
	}()
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

type providerTrial struct {
	provider provider
	server   *atlasServer
	audience string
}

func (t *providerTrial) as(ctx context.Context, name string) (caller, error) {
	token, err := t.provider.token(ctx, name, t.audience)
	return caller{t.server.url, token}, err
}

// accepted: the token of a supporter sees and calls what the persona may, and is denied what it may not.
func (t *providerTrial) accepted(ctx context.Context, l *lab) error {
	c, err := t.as(ctx, "support-acme")
	if err != nil {
		return err
	}
	names, err := c.list(ctx)
	if err != nil {
		return err
	}
	if said := judgeList(names, l.tools); said != ok {
		return errors.New(said)
	}
	for _, want := range []struct {
		request
		isError bool
		word    string
	}{{allowedCall, false, allowedWord}, {deniedCall, true, deniedWord}} {
		a, err := c.call(ctx, want.request)
		if err != nil {
			return err
		}
		if said := judgeAnswer(&a, want.isError, want.word); said != ok {
			return errors.New(said)
		}
	}
	return nil
}

// tenant: the claim decides whose data is read; without it nothing is.
func (t *providerTrial) tenant(ctx context.Context, _ *lab) error {
	who := request{"crm_query", map[string]any{"sql": "SELECT email FROM customers ORDER BY email"}}
	emails := map[string]string{}
	for _, name := range []string{"support-acme", "support-globex"} {
		c, err := t.as(ctx, name)
		if err != nil {
			return err
		}
		a, err := c.call(ctx, who)
		if err != nil || a.IsError {
			return unexpected(name, 0, err, []byte(a.Text))
		}
		emails[name] = a.Text
	}
	if emails["support-acme"] == emails["support-globex"] {
		return fmt.Errorf("both tenants read the same: %.300s", emails["support-acme"])
	}
	c, err := t.as(ctx, "support-globex")
	if err != nil {
		return err
	}
	if a, err := c.call(ctx, allowedCall); err != nil || strings.Contains(a.Text, allowedWord) {
		return unexpected("globex reads an order of acme", 0, err, []byte(a.Text))
	}
	if c, err = t.as(ctx, "nobody"); err != nil {
		return err
	}
	return c.refused(ctx, http.StatusForbidden, "no_tenant")
}

// roles: mapped groups give roles, and these their scopes; others give nothing.
func (t *providerTrial) roles(ctx context.Context, _ *lab) error {
	analyst, found := t.server.app.Persona("analyst@acme")
	if !found {
		return errors.New("there is no analyst")
	}
	may, err := t.server.app.List(ctx, analyst)
	if err != nil {
		return err
	}
	want := map[string][]string{"reporting-acme": {}, "cook-acme": {}}
	for _, tool := range may.Tools {
		want["reporting-acme"] = append(want["reporting-acme"], tool.Name)
	}
	for name, tools := range want {
		c, err := t.as(ctx, name)
		if err != nil {
			return err
		}
		got, err := c.list(ctx)
		if err != nil {
			return err
		}
		if said := judgeList(got, tools); said != ok {
			return fmt.Errorf("%s: %s", name, said)
		}
	}
	return nil
}

func (t *providerTrial) wrongAudience(ctx context.Context, _ *lab) error {
	token, err := t.provider.token(ctx, "support-acme", elsewhere)
	if err != nil {
		return err
	}
	return caller{t.server.url, token}.refused(ctx, http.StatusUnauthorized, "invalid_token")
}

// rotation: a new key is taken up, and a withdrawn one is given up.
func (t *providerTrial) rotation(ctx context.Context, _ *lab) error {
	old, err := t.as(ctx, "support-acme")
	if err != nil {
		return err
	}
	if err := t.provider.rotate(ctx); err != nil {
		return err
	}
	fresh, err := t.as(ctx, "support-acme")
	if err != nil {
		return err
	}
	if keyID(old.token) == keyID(fresh.token) {
		return errors.New("the provider did not change its key")
	}
	// An unknown key has the key set read again, though not twice in a moment.
	const patience = 30 * time.Second
	if err := poll(ctx, patience, func() bool { _, err := fresh.list(ctx); return err == nil }); err != nil {
		return fmt.Errorf("a token of the new key is still refused after %s", patience)
	}
	if _, err := old.list(ctx); err != nil {
		return fmt.Errorf("the old key while it is published: %w", err)
	}
	if err := t.provider.withdraw(ctx); err != nil {
		return err
	}
	if err := poll(ctx, patience, func() bool { return old.refused(ctx, http.StatusUnauthorized, "invalid_token") == nil }); err != nil {
		return fmt.Errorf("a token of the withdrawn key is still accepted after %s", patience)
	}
	if _, err := fresh.list(ctx); err != nil {
		return fmt.Errorf("the new key after the old one is gone: %w", err)
	}
	return nil
}

func keyID(token string) string {
	head, _, _ := strings.Cut(token, ".")
	return head
}

// poll asks until yes.
func poll(ctx context.Context, patience time.Duration, yes func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for !yes() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// plain is for requests to this machine.
var plain = &http.Client{
	Timeout:   30 * time.Second,
	Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext},
}

// A caller sends single requests of 2026-07-28.
type caller struct{ url, token string }

func (c caller) send(ctx context.Context, method, name, params string) (int, []byte, error) {
	body := `{"jsonrpc":"2.0","id":1,"method":"` + method + `","params":{` + params +
		`"_meta":{"io.modelcontextprotocol/protocolVersion":"` + modern + `","io.modelcontextprotocol/clientCapabilities":{}}}}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header = http.Header{
		"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"},
		"Mcp-Protocol-Version": {modern}, "Mcp-Method": {method}, "Authorization": {"Bearer " + c.token},
	}
	if name != "" {
		req.Header.Set("Mcp-Name", name)
	}
	return fetch(req)
}

// unexpected is the error about an answer that is not as it should be, or about none.
func unexpected(what string, status int, err error, body []byte) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: status %d: %.300s", what, status, body)
}

// fetch sends a request and reads the answer.
func fetch(req *http.Request) (int, []byte, error) {
	resp, err := plain.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to the end
	data, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	return resp.StatusCode, data, err
}

func (c caller) list(ctx context.Context) ([]string, error) {
	status, data, err := c.send(ctx, "tools/list", "", "")
	var msg struct {
		Result *struct {
			Tools []struct {
				Name string `json:"name"`
			} `json:"tools"`
		} `json:"result"`
	}
	if err == nil {
		err = json.Unmarshal(data, &msg)
	}
	if err != nil || msg.Result == nil {
		return nil, unexpected("tools/list", status, err, data)
	}
	names := []string{}
	for _, t := range msg.Result.Tools {
		names = append(names, t.Name)
	}
	return names, nil
}

func (c caller) call(ctx context.Context, r request) (answer, error) {
	args, err := json.Marshal(r.Arguments)
	if err != nil {
		return answer{}, err
	}
	status, data, err := c.send(ctx, "tools/call", r.Name, `"name":"`+r.Name+`","arguments":`+string(args)+`,`)
	var msg struct {
		Result *struct {
			IsError bool `json:"isError"`
			Content []struct {
				Text string `json:"text"`
			} `json:"content"`
		} `json:"result"`
	}
	if err == nil {
		err = json.Unmarshal(data, &msg)
	}
	if err != nil || msg.Result == nil || len(msg.Result.Content) == 0 {
		return answer{}, unexpected(r.Name, status, err, data)
	}
	return answer{msg.Result.IsError, msg.Result.Content[0].Text}, nil
}

// refused returns an error if the caller is not refused with the status and the code.
func (c caller) refused(ctx context.Context, status int, code string) error {
	got, data, err := c.send(ctx, "tools/list", "", "")
	if err != nil || got != status || !bytes.Contains(data, []byte(`"`+code+`"`)) {
		return unexpected(fmt.Sprintf("it should be refused with %d for %s", status, code), got, err, data)
	}
	return nil
}

// tokenFrom asks a token endpoint.
func tokenFrom(ctx context.Context, endpoint, client, secret string, form url.Values) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if secret != "" {
		req.SetBasicAuth(url.QueryEscape(client), url.QueryEscape(secret))
	}
	status, data, err := fetch(req)
	var answer struct {
		Token string `json:"access_token"`
	}
	if err == nil {
		err = json.Unmarshal(data, &answer)
	}
	if err != nil || answer.Token == "" {
		return "", unexpected("token endpoint", status, err, data)
	}
	return answer.Token, nil
}
