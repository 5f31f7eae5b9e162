package mcp

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// Credentials say how Atlas identifies itself to the upstream: never by the caller's token. At most
// one of them is given; none at all is for an upstream that asks for nothing.
type Credentials struct {
	Bearer   string        `yaml:"bearer"`   // a token that does not expire
	Header   *HeaderSecret `yaml:"header"`   // a key in a header of the upstream's choice
	OAuth    *ClientGrant  `yaml:"oauth"`    // tokens by client credentials (RFC 6749 section 4.4)
	Exchange *Exchange     `yaml:"exchange"` // tokens by token exchange (RFC 8693) for this workload's identity
}

// A HeaderSecret is a header that holds a key.
type HeaderSecret struct {
	Name  string `yaml:"name"`
	Value string `yaml:"value"`
}

// A ClientGrant asks a token endpoint for tokens. In audience, resource and scopes {tenant} is the
// tenant's id.
type ClientGrant struct {
	TokenURL     string   `yaml:"token_url"`
	ClientID     string   `yaml:"client_id"`
	ClientSecret string   `yaml:"client_secret"`
	Auth         string   `yaml:"auth"`     // how the client identifies itself: basic (the default) or post
	Resource     string   `yaml:"resource"` // resource indicator (RFC 8707); default: the source's url
	Audience     string   `yaml:"audience"` // for servers that want one instead
	Scopes       []string `yaml:"scopes"`
}

// An Exchange asks a token endpoint for a token in exchange for one in a file, such as what the
// platform gives a workload; the file is read anew for each token.
type Exchange struct {
	ClientGrant      `yaml:",inline"`
	SubjectTokenFile string `yaml:"subject_token_file"`
	SubjectTokenType string `yaml:"subject_token_type"` // default: urn:ietf:params:oauth:token-type:jwt
}

const (
	grantExchange  = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeJWT        = "urn:ietf:params:oauth:token-type:jwt"
	typeAccess     = "urn:ietf:params:oauth:token-type:access_token"
	maxSubject     = 64 << 10         // bytes of a subject token
	maxTokenAnswer = 256 << 10        // bytes of a token endpoint's answer
	tokenTimeout   = 10 * time.Second // of one request for a token
	tokenMargin    = 15 * time.Second // a token is not used this close to its end
	tokenUnknown   = 5 * time.Minute  // how long a token is used whose end is not told
)

// kind names the credentials that are given.
func (c *Credentials) kind() string {
	switch {
	case c.Bearer != "":
		return "bearer"
	case c.Header != nil:
		return "header"
	case c.OAuth != nil:
		return "oauth"
	case c.Exchange != nil:
		return "exchange"
	}
	return ""
}

// grant returns what tokens are asked with, or nil.
func (c *Credentials) grant() *ClientGrant {
	switch {
	case c.OAuth != nil:
		return c.OAuth
	case c.Exchange != nil:
		return &c.Exchange.ClientGrant
	}
	return nil
}

// templated reports whether what tokens are asked for names the tenant.
func (c *Credentials) templated() bool {
	g := c.grant()
	return g != nil && (hasTenant(g.Audience) || hasTenant(g.Resource) || slices.ContainsFunc(g.Scopes, hasTenant)) ||
		c.Exchange != nil && hasTenant(c.Exchange.SubjectTokenFile) || c.Header != nil && hasTenant(c.Header.Value)
}

func (c *Credentials) validate(at string, plain bool) []error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(at+format, args...))
		}
	}
	given := 0
	for _, on := range []bool{c.Bearer != "", c.Header != nil, c.OAuth != nil, c.Exchange != nil} {
		if on {
			given++
		}
	}
	check(given <= 1, "credentials: give one of bearer, header, oauth and exchange")
	check(c.Bearer == "" || headerValue(c.Bearer) && !strings.Contains(c.Bearer, " "), "bearer: holds a character that no token has")
	if h := c.Header; h != nil {
		check(headerName(h.Name) && !strings.HasPrefix(strings.ToLower(h.Name), "mcp-"), "header.name: %q is no header that may be set here", h.Name)
		check(headerValue(h.Value), "header.value: is missing, or holds a character that no header has")
	}
	if g := c.grant(); g != nil {
		at := at + c.kind() + "."
		if err := source.CheckURL(g.TokenURL, true, plain); err != nil {
			errs = append(errs, fmt.Errorf("%stoken_url: %w", at, err))
		}
		if c.OAuth != nil && (g.ClientID == "" || g.ClientSecret == "") {
			errs = append(errs, fmt.Errorf("%sclient_id and client_secret are needed", at))
		}
		if g.ClientSecret != "" && g.ClientID == "" {
			errs = append(errs, fmt.Errorf("%sclient_secret needs client_id", at))
		}
		if !slices.Contains([]string{"", "basic", "post"}, g.Auth) {
			errs = append(errs, fmt.Errorf("%sauth: %q is not known; use basic or post", at, g.Auth))
		}
	}
	check(c.Exchange == nil || c.Exchange.SubjectTokenFile != "", "exchange.subject_token_file: is missing")
	return errs
}

// fill puts the tenant's id where it belongs. Of tenant ids every character may stand anywhere.
func fill(s string, tenant atlas.TenantID) string {
	return strings.ReplaceAll(s, placeholder, string(tenant))
}

// An authorizer is one identity at the upstream: one tenant's, or Atlas's own. It is never used for
// another. It is safe for concurrent use.
type authorizer struct {
	header http.Header                                  // sent with each request
	fetch  func(context.Context) (*oauth2.Token, error) // nil if there is no token to get
	busy   chan struct{}                                // holds one: who gets or forgets the token
	token  *oauth2.Token
}

// newAuthorizer makes the identity of the tenant by its credentials. Tokens are fetched by client.
func newAuthorizer(cfg *Config, creds Credentials, tenant atlas.TenantID, client *http.Client) *authorizer {
	a := &authorizer{header: http.Header{}, busy: make(chan struct{}, 1)}
	for name, value := range cfg.Headers {
		a.header.Set(name, fill(value, tenant))
	}
	switch {
	case creds.Bearer != "":
		a.header.Set("Authorization", "Bearer "+creds.Bearer)
	case creds.Header != nil:
		a.header.Set(creds.Header.Name, fill(creds.Header.Value, tenant))
	}
	g := creds.grant()
	if g == nil {
		return a
	}
	style := oauth2.AuthStyleInHeader
	if g.Auth == "post" || g.ClientID == "" {
		style = oauth2.AuthStyleInParams
	}
	scopes := make([]string, len(g.Scopes))
	for i, s := range g.Scopes {
		scopes[i] = fill(s, tenant)
	}
	a.fetch = func(ctx context.Context) (*oauth2.Token, error) {
		params := url.Values{"resource": {fill(cmp.Or(g.Resource, cfg.URL), tenant)}}
		if g.Audience != "" {
			params.Set("audience", fill(g.Audience, tenant))
		}
		if x := creds.Exchange; x != nil {
			subject, err := readSubject(fill(x.SubjectTokenFile, tenant))
			if err != nil {
				return nil, err
			}
			params.Set("grant_type", grantExchange)
			params.Set("subject_token", subject)
			params.Set("subject_token_type", cmp.Or(x.SubjectTokenType, typeJWT))
			params.Set("requested_token_type", typeAccess)
		}
		conf := clientcredentials.Config{
			ClientID: g.ClientID, ClientSecret: g.ClientSecret, TokenURL: g.TokenURL, AuthStyle: style, Scopes: scopes, EndpointParams: params,
		}
		return conf.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	}
	return a
}

func readSubject(name string) (string, error) {
	f, err := os.Open(name) //nolint:gosec // the operator's configuration names it
	if err != nil {
		return "", fmt.Errorf("subject_token_file: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, maxSubject+1))
	token := string(bytes.TrimSpace(data))
	switch {
	case err != nil:
		return "", fmt.Errorf("subject_token_file: %w", err)
	case token == "" || len(data) > maxSubject || !headerValue(token):
		return "", errors.New("subject_token_file holds no token")
	}
	return token, nil
}

// bearer returns a token that can be used, fetching one if need be: one request at a time, whose answer
// all who wait use.
func (a *authorizer) bearer(ctx context.Context) (string, error) {
	select {
	case a.busy <- struct{}{}:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	defer func() { <-a.busy }()
	if a.token != nil && time.Until(a.token.Expiry) > tokenMargin {
		return a.token.AccessToken, nil
	}
	ctx, cancel := context.WithTimeout(ctx, tokenTimeout)
	defer cancel()
	t, err := a.fetch(ctx)
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case err != nil:
		return "", tokenFailure(err)
	case !strings.EqualFold(cmp.Or(t.TokenType, "Bearer"), "Bearer") || !headerValue(t.AccessToken) || strings.Contains(t.AccessToken, " "):
		return "", atlas.Errorf(atlas.CodeSourceMisused, errors.New("the token endpoint gave no bearer token"), "")
	}
	if t.Expiry.IsZero() {
		t.Expiry = time.Now().Add(tokenUnknown)
	}
	a.token = t
	return t.AccessToken, nil
}

// forget drops a token that the upstream refused.
func (a *authorizer) forget(ctx context.Context, token string) {
	select {
	case a.busy <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-a.busy }()
	if a.token != nil && a.token.AccessToken == token {
		a.token = nil
	}
}

// tokenFailure leaves out what the endpoint wrote: it may repeat what it was sent.
func tokenFailure(err error) error {
	if r, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		code, status := atlas.CodeSourceMisused, 0
		if r.Response != nil {
			status = r.Response.StatusCode
		}
		if status >= 500 || status == http.StatusTooManyRequests {
			code = atlas.CodeSourceUnavailable
		}
		return atlas.Errorf(code, fmt.Errorf("the token endpoint answered %d %.40q", status, r.ErrorCode), "")
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		return atlas.Errorf(atlas.CodeSourceUnavailable, fmt.Errorf("the token endpoint: %w", u.Err), "")
	}
	return atlas.Errorf(atlas.CodeSourceMisused, fmt.Errorf("no token: %.200s", err.Error()), "")
}
