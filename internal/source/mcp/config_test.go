package mcp_test

import (
	"strings"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/mcp"
)

func TestConfig(t *testing.T) {
	good := func() *mcp.Config { return &mcp.Config{URL: "https://tools.example.com/mcp", Shared: true} }
	if err := good().Validate(); err != nil {
		t.Fatal(err)
	}
	yes := true
	grant := mcp.ClientGrant{TokenURL: "https://login.example.com/token", ClientID: "a", ClientSecret: "b"}
	for name, tc := range map[string]struct {
		edit func(*mcp.Config)
		want string // in the message; "" if it is fine
	}{
		"no url":                {func(c *mcp.Config) { c.URL = "" }, "url: "},
		"user in url":           {func(c *mcp.Config) { c.URL = "https://u:p@tools.example.com/mcp" }, "url: "},
		"query in url":          {func(c *mcp.Config) { c.URL += "?token=x" }, "url: "},
		"file":                  {func(c *mcp.Config) { c.URL = "file:///bin/sh" }, "url: "},
		"plain http":            {func(c *mcp.Config) { c.URL = "http://tools.example.com/mcp" }, "plain HTTP"},
		"plain http, allowed":   {func(c *mcp.Config) { c.URL, c.AllowHTTP = "http://tools.example.com/mcp", true }, ""},
		"loopback":              {func(c *mcp.Config) { c.URL = "http://127.0.0.1:1/mcp" }, ""},
		"trust":                 {func(c *mcp.Config) { c.Trust = "always" }, "trust: "},
		"nothing about tenants": {func(c *mcp.Config) { c.Shared = false }, "keeps tenants apart"},
		"credentials of all":    {func(c *mcp.Config) { c.Shared, c.Bearer = false, "x" }, "keeps tenants apart"},
		"shared and tenants":    {func(c *mcp.Config) { c.Tenants = map[string]mcp.Credentials{"acme": {Bearer: "x"}} }, "shared: true says"},
		"shared and header":     {func(c *mcp.Config) { c.Headers = map[string]string{"X-T": "{tenant}"} }, "shared: true says"},
		"tenants": {func(c *mcp.Config) {
			c.Shared, c.Tenants = false, map[string]mcp.Credentials{"acme": {Bearer: "x"}}
		}, ""},
		"tenant without": {func(c *mcp.Config) { c.Shared, c.Tenants = false, map[string]mcp.Credentials{"acme": {}} }, "tenants.acme: has no credentials"},
		"no tenant": {func(c *mcp.Config) {
			c.Shared, c.Tenants = false, map[string]mcp.Credentials{"Acme!": {Bearer: "x"}}
		}, "tenants.Acme!: "},
		"header, but no eyes": {func(c *mcp.Config) { c.Shared, c.Headers = false, map[string]string{"X-T": "{tenant}"} }, "discover_as: is needed"},
		"header": {func(c *mcp.Config) {
			c.Shared, c.Headers, c.DiscoverAs = false, map[string]string{"X-T": "{tenant}"}, "acme"
		}, ""},
		"eyes of nobody":       {func(c *mcp.Config) { c.DiscoverAs = "acme" }, "discover_as: must be a tenant"},
		"two credentials":      {func(c *mcp.Config) { c.Bearer, c.OAuth = "x", &grant }, "give one of"},
		"bearer with a line":   {func(c *mcp.Config) { c.Bearer = "x\r\ny" }, "bearer: "},
		"own header":           {func(c *mcp.Config) { c.Headers = map[string]string{"authorization": "x"} }, "headers.authorization"},
		"protocol's header":    {func(c *mcp.Config) { c.Headers = map[string]string{"mcp-session-id": "x"} }, "headers.mcp-session-id"},
		"bad header":           {func(c *mcp.Config) { c.Headers = map[string]string{"a b": "x"} }, "headers.a b"},
		"header value":         {func(c *mcp.Config) { c.Headers = map[string]string{"X-A": "x\ny"} }, "headers.X-A"},
		"oauth":                {func(c *mcp.Config) { c.OAuth = &grant }, ""},
		"oauth in the clear":   {func(c *mcp.Config) { g := grant; g.TokenURL = "http://login.example.com/token"; c.OAuth = &g }, "oauth.token_url"},
		"oauth without client": {func(c *mcp.Config) { c.OAuth = &mcp.ClientGrant{TokenURL: grant.TokenURL} }, "client_id"},
		"oauth auth":           {func(c *mcp.Config) { g := grant; g.Auth = "jwt"; c.OAuth = &g }, "oauth.auth"},
		"exchange of nothing":  {func(c *mcp.Config) { c.Exchange = &mcp.Exchange{ClientGrant: grant} }, "subject_token_file"},
		"cache of a write":     {func(c *mcp.Config) { c.Tools = map[string]mcp.Grant{"x": {Cache: time.Second}} }, "cache needs read_only"},
		"read and destroy":     {func(c *mcp.Config) { c.Tools = map[string]mcp.Grant{"x": {ReadOnly: true, Destructive: &yes}} }, "read_only and destructive"},
		"scope":                {func(c *mcp.Config) { c.Tools = map[string]mcp.Grant{"x": {Scopes: []string{"a b"}}} }, "scope"},
		"max_answer_bytes":     {func(c *mcp.Config) { c.MaxAnswerBytes = -1 }, "max_answer_bytes"},
		"max_age":              {func(c *mcp.Config) { c.MaxAge = 2 * time.Hour }, "max_age"},
	} {
		c := good()
		tc.edit(c)
		err := c.Validate()
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
	if _, err := good().Open(t.Context(), source.Deps{Name: "x"}); err == nil {
		t.Error("opened without a state")
	}
}
