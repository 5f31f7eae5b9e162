package app

import (
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas/internal/edge/auth"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
	"github.com/atlas-mcp/atlas/internal/edge/mcp"
)

// Keys that others can exchange on the way are told, though they work.
func TestDoctorTellsOfKeysInTheClear(t *testing.T) {
	for url, want := range map[string]string{
		"https://idp.example/jwks": Healthy, "http://127.0.0.1:9/jwks": Healthy, "http://[::1]/jwks": Healthy, "http://localhost:1/jwks": Healthy, "": Healthy,
		"http://idp.example/jwks": Warning, "http://localhost.evil.example/jwks": Warning, "http://127.0.0.1.evil.example/jwks": Warning,
	} {
		d := &doctor{}
		d.issuer(auth.IssuerStatus{Issuer: "https://idp.example", JWKSURL: url, Usable: true, Reachable: true, Keys: 1})
		if len(d.findings) != 1 || d.findings[0].Status != want {
			t.Errorf("%q: %+v", url, d.findings)
		}
	}
}

// Settings that are fine on a laptop only are told.
func TestDoctorTellsOfExposure(t *testing.T) {
	on, off := true, false
	for _, tt := range []struct {
		url     string
		issuer  *bool
		proxies []string
		want    string
	}{
		{"http://127.0.0.1:8080", &on, nil, ""},
		{"http://localhost:8080", &on, nil, ""},
		{"http://localhost.example", &off, nil, "http.public_url"},
		{"http://atlas.example", &off, nil, "http.public_url"},
		{"https://atlas.example", &off, nil, ""},
		{"https://atlas.example", &on, nil, "issuer.trusted_proxies"},
		{"https://atlas.example", &on, []string{"10.0.0.1"}, ""},
	} {
		d := &doctor{}
		d.exposure(Config{
			Mode: Development, HTTP: HTTP{Listen: "127.0.0.1:8080", Config: mcp.Config{PublicURL: tt.url}},
			Issuer: IssuerConfig{Enabled: tt.issuer, ServerConfig: issuer.ServerConfig{TrustedProxies: tt.proxies}},
		})
		var got []string
		for _, f := range d.findings {
			got = append(got, f.Name)
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %v, want %s", tt.url, got, tt.want)
		}
	}
}

// Development mode on all addresses is a fault, save in a container whose port is published on loopback.
func TestExposureOfDevelopment(t *testing.T) {
	for url, want := range map[string]string{"http://atlas.example": Failed, "http://127.0.0.1:8080": Warning, "http://localhost:8080": Warning} {
		d := &doctor{}
		d.exposure(Config{Mode: Development, HTTP: HTTP{Listen: "0.0.0.0:8080", Config: mcp.Config{PublicURL: url}}})
		if len(d.findings) == 0 || d.findings[0].Name != "mode" || d.findings[0].Status != want {
			t.Errorf("%s: %+v, want %s", url, d.findings, want)
		}
	}
}
