package egress_test

import (
	"os"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas/internal/source/egress"
)

func TestParseAllowlistReportsEveryMistake(t *testing.T) {
	_, err := egress.ParseAllowlist("allow.yaml", []byte(`acme:
  - "*.com"
  - "*.co.uk"
  - "*.github.io"
  - "a b.example"
  - 2130706433
  - "*.10.0.0.1"
  - "https://api.example.com"
  - {host: api.example.com, methods: [FETCH]}
  - {host: api.example.com, paths: [v1, /a/../b, "/a?b"]}
  - {hots: api.example.com}
  - ["x"]
Acme: [api.example.com]
"*": x
acme: []
`))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		"allow.yaml:2:5: ", "allow.yaml:3:5: ", "allow.yaml:4:5: ", "allow.yaml:5:5: ", "allow.yaml:6:5: ", "allow.yaml:7:5: ",
		"allow.yaml:8:5: ", `method "FETCH" is not supported`, `path "v1"`, `path "/a/../b"`, `path "/a?b"`, `unknown field "hots"`,
		"allow.yaml:12:5", `allow.yaml:13:1: "Acme" is not a tenant`, "must be a list of hosts", `tenant "acme" is there twice`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("lacks %q in:\n%v", want, err)
		}
	}
}

func TestParseAllowlistEmpty(t *testing.T) {
	for _, text := range []string{"", "# nothing\n", "acme:\n", "acme: []\n", "{}\n"} {
		if _, err := egress.ParseAllowlist("allow.yaml", []byte(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"- a", "a: b: c", "x", "a: [\n", "acme: []\n---\nglobex: []\n"} {
		if _, err := egress.ParseAllowlist("allow.yaml", []byte(text)); err == nil || !strings.HasPrefix(err.Error(), "allow.yaml") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestShippedAllowlist(t *testing.T) {
	data, err := os.ReadFile("../../../config/http_allowlist.yaml")
	if err != nil {
		t.Fatal(err)
	}
	list, err := egress.ParseAllowlist("http_allowlist.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	g, err := egress.New(egress.Config{}, list, egress.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = g.Close() }()
	for url, want := range map[string]bool{
		"https://api.stripe.com/v1/charges": true, "https://wiki.acme.internal/": true, "https://wiki.globex.internal/": false,
		"https://api.company-status-page.internal/": true, "https://api.twilio.com/": false,
	} {
		if got := g.Allowed("acme", "GET", url) == nil; got != want {
			t.Errorf("acme %s: %v, want %v", url, got, want)
		}
	}
}

func FuzzAllowed(f *testing.F) {
	for _, s := range []string{
		"https://api.example.com/", "https://api.example.com@evil/", "https://[::1]/", "https://api.example.com:443", "https://%61pi.example.com",
	} {
		f.Add(s)
	}
	list, err := egress.ParseAllowlist("allow.yaml", []byte(`acme: [api.example.com, "*.acme.internal"]`))
	if err != nil {
		f.Fatal(err)
	}
	g, err := egress.New(egress.Config{}, list, egress.Deps{})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, url string) {
		if g.Allowed("acme", "GET", url) != nil {
			return
		}
		// Whatever is allowed must say so in its own letters, once the host is in its usual form.
		low := strings.ToLower(url)
		if !strings.HasPrefix(low, "https://") || strings.Contains(strings.SplitN(low[8:], "/", 2)[0], "@") {
			t.Errorf("allowed %q", url)
		}
		if g.Allowed("globex", "GET", url) == nil {
			t.Errorf("allowed %q for a tenant without a list", url)
		}
	})
}
