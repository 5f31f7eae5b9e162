package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

type healthCmd struct {
	URL     string        `arg:"" optional:"" help:"Base URL of the server (default: the port of ATLAS_HTTP_LISTEN on this machine, else http://127.0.0.1:8080)."`
	Live    bool          `help:"Ask whether it runs (/healthz), not whether all that it depends on answers (/readyz)."`
	Timeout time.Duration `help:"How long to wait for the answer." default:"3s" placeholder:"DURATION"`
}

// Help tells what it is for.
func (healthCmd) Help() string {
	return `For health checks of containers, whose image holds no other program that speaks HTTP. It reads no configuration.

Exit codes: 0 ready, 1 not ready or no answer, 2 wrong flags.`
}

const maxHealthAnswer = 64 << 10

// Run asks a running server how it is.
func (c healthCmd) Run(ctx context.Context, p *Program, g *globals) error {
	if c.Timeout <= 0 {
		return usage("--timeout must be more than zero")
	}
	target, err := c.target(p)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return usage("%w", err)
	}
	// Neither a proxy nor a redirect: what answers must be what was asked.
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	defer res.Body.Close() //nolint:errcheck // was read
	var said struct {
		Status  string   `json:"status"`
		Failing []string `json:"failing,omitempty"`
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxHealthAnswer))
	if err != nil {
		return fmt.Errorf("no whole answer: %w", err)
	}
	if json.Unmarshal(body, &said) != nil || said.Status == "" {
		return fmt.Errorf("%s answers %s, and not as an Atlas does", req.URL.Redacted(), res.Status)
	}
	if g.JSON {
		if err := p.printJSON(said); err != nil {
			return err
		}
	} else {
		p.printf("%s\n", strings.TrimSuffix(said.Status+": "+strings.Join(said.Failing, ", "), ": "))
	}
	if res.StatusCode != http.StatusOK {
		return no()
	}
	return nil
}

// target returns what is asked. A server that listens on all addresses is asked on loopback.
func (c healthCmd) target(p *Program) (string, error) {
	path := "/readyz"
	if c.Live {
		path = "/healthz"
	}
	if c.URL != "" {
		u, err := url.Parse(c.URL)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return "", usage("%q is not a URL such as http://127.0.0.1:8080", c.URL)
		}
		return u.JoinPath(path).String(), nil
	}
	listen, _ := p.Env("ATLAS_HTTP_LISTEN")
	host, port, err := net.SplitHostPort(cmp.Or(listen, "127.0.0.1:8080"))
	if err != nil {
		return "", usage("ATLAS_HTTP_LISTEN is %q, not HOST:PORT", listen)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip != nil && ip.To4() == nil {
			host = "::1"
		}
	}
	return "http://" + net.JoinHostPort(host, port) + path, nil
}
