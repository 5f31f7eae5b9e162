package mcp_test

import (
	"testing"
	"time"

	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/mcp"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

// settings are a configuration for the server with a credential for each tenant.
func settings(s *server) *mcp.Config {
	c := &mcp.Config{
		URL: s.url(), Trust: "first_use", Tenants: map[string]mcp.Credentials{}, CheckEachCall: true,
		Credentials: mcp.Credentials{Bearer: "look"}, MaxAnswerBytes: sourcetest.ProviderLimit, ConnectTimeout: 10 * time.Second,
	}
	for tenant, credential := range s.up.Credential {
		c.Tenants[string(tenant)] = mcp.Credentials{Bearer: credential}
	}
	return c
}

func open(t *testing.T, c *mcp.Config, state source.State) source.Source {
	t.Helper()
	src, err := c.Open(t.Context(), source.Deps{Name: "crm", State: state})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	return src
}

func TestContract(t *testing.T) {
	for _, era := range []string{modern, legacy} {
		t.Run(era, func(t *testing.T) {
			sourcetest.Run(t, sourcetest.Harness{
				OpenProvider: func(t *testing.T, up *sourcetest.Upstream) source.Source {
					t.Helper()
					return open(t, settings(serve(t, up, era)), newMemory())
				},
			}, sourcetest.Provider)
		})
	}
}
