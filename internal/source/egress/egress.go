// Package egress guards outbound HTTP: each tenant reaches the hosts of its allowlist and nothing
// else. The host is checked before a request leaves and after each redirect, the address that it
// resolves to is checked when the connection is made, credentials are taken off, and size and time
// are capped. What is fetched, and for whom, is left to the sources that use it.
package egress

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"code.dny.dev/ssrf"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// Config is the guard's settings. The zero Config is safe.
type Config struct {
	Ports          []uint16      `yaml:"ports"`           // default: 443
	AllowAddresses []string      `yaml:"allow_addresses"` // prefixes that are opened although they are private; default: none
	Timeout        time.Duration `yaml:"timeout"`         // for one request with its redirects; default: 15s
	MaxBytes       int64         `yaml:"max_bytes"`       // of an answer, decompressed; default: 8 MiB
	MaxRedirects   int           `yaml:"max_redirects"`   // default: 3; -1 for none
}

func (c Config) withDefaults() Config {
	if len(c.Ports) == 0 {
		c.Ports = []uint16{443}
	}
	c.Timeout = cmp.Or(c.Timeout, 15*time.Second)
	c.MaxBytes = cmp.Or(c.MaxBytes, 8<<20)
	c.MaxRedirects = cmp.Or(c.MaxRedirects, 3)
	return c
}

// Validate reports all mistakes, joined.
func (c Config) Validate() error {
	var errs []error
	for _, text := range c.AllowAddresses {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("allow_addresses: %q is not a prefix; write one such as 10.1.0.0/16", text))
			continue
		}
		if p.Addr().Is4In6() {
			errs = append(errs, fmt.Errorf("allow_addresses: write the IPv4 prefix for %q", text))
		}
		if p != p.Masked() {
			errs = append(errs, fmt.Errorf("allow_addresses: %q has bits beyond its length; write %s", text, p.Masked()))
		}
	}
	if slices.Contains(c.Ports, 0) {
		errs = append(errs, errors.New("ports: 0 is not a port"))
	}
	if c.Timeout < 0 || c.MaxBytes < 0 {
		errs = append(errs, errors.New("timeout and max_bytes must not be negative"))
	}
	if c.MaxRedirects < -1 || c.MaxRedirects > 10 {
		errs = append(errs, errors.New("max_redirects: must be between -1 and 10"))
	}
	return errors.Join(errs...)
}

// Deps are what the guard takes from the program. The zero Deps are the machine's own.
type Deps struct {
	Resolver *net.Resolver  // nil for the machine's
	RootCAs  *x509.CertPool // nil for the machine's
}

// A Guard gives tenants HTTP clients. It is safe for concurrent use.
type Guard struct {
	cfg   Config
	list  Allowlist
	inner *http.Transport
}

// never lists addresses that no setting opens: services that hand a machine's credentials to
// whoever asks from it. 168.63.129.16 (Azure) stands in a public range; the others are special
// already, and stay shut even if their range is opened.
var never = []netip.Addr{
	netip.MustParseAddr("169.254.169.254"), // AWS, Azure, GCP and others
	netip.MustParseAddr("169.254.170.2"),   // AWS ECS
	netip.MustParseAddr("169.254.170.23"),  // AWS EKS
	netip.MustParseAddr("168.63.129.16"),   // Azure wire server
	netip.MustParseAddr("100.100.100.200"), // Alibaba Cloud
	netip.MustParseAddr("192.0.0.192"),     // Oracle Cloud
	netip.MustParseAddr("fd00:ec2::254"),   // AWS
	netip.MustParseAddr("fd00:ec2::23"),    // AWS EKS
	netip.MustParseAddr("fd20:ce::254"),    // GCP
}

// embedded returns the address that a packet to addr may end up at: the IPv4 address inside of one
// that is mapped (RFC 4291), translated (NAT64, RFC 6052) or tunnelled (6to4, RFC 3056), or addr.
func embedded(addr netip.Addr) netip.Addr {
	addr = addr.WithZone("").Unmap()
	if !addr.Is6() {
		return addr
	}
	b := addr.As16()
	switch {
	case ssrf.IPv6NAT64Prefix.Contains(addr), b[0] == 0x00 && b[1] == 0x64 && b[2] == 0xff && b[3] == 0x9b:
		return netip.AddrFrom4([4]byte(b[12:16]))
	case b[0] == 0x20 && b[1] == 0x02:
		return netip.AddrFrom4([4]byte(b[2:6]))
	}
	return addr
}

// New returns a guard.
func New(cfg Config, list Allowlist, deps Deps) (*Guard, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	var v4, v6 []netip.Prefix
	for _, text := range cfg.AllowAddresses {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, err
		}
		if p.Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	guardian := ssrf.New(ssrf.WithPorts(cfg.Ports...), ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...))
	dialer := &net.Dialer{
		Timeout: 5 * time.Second, KeepAlive: 30 * time.Second, Resolver: deps.Resolver,
		// Control sees the address that is about to be connected to, after the name was resolved: a
		// name that resolves to something else now than it did a moment ago gains nothing.
		Control: func(network, address string, c syscall.RawConn) error {
			ap, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			if ip := embedded(ap.Addr()); slices.Contains(never, ip) {
				return fmt.Errorf("%w: %s hands out credentials", ssrf.ErrProhibitedIP, ip)
			}
			return guardian.Safe(network, address, c)
		},
	}
	return &Guard{cfg: cfg, list: list, inner: &http.Transport{
		Proxy:                  nil, // a proxy from the environment would resolve names behind our back
		DialContext:            dialer.DialContext,
		ForceAttemptHTTP2:      true,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: deps.RootCAs},
		TLSHandshakeTimeout:    5 * time.Second,
		ResponseHeaderTimeout:  cfg.Timeout,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    4,
		// No limit by host: the connections are shared, and one tenant must not use up another's.
		IdleConnTimeout: time.Minute,
	}}, nil
}

// Close closes idle connections. Requests that are running go on.
func (g *Guard) Close() error {
	g.inner.CloseIdleConnections()
	return nil
}

// Client returns the tenant's client. It keeps no cookies, follows a few redirects of reads, each
// checked like a request of its own, and returns refusals as *[atlas.Error] inside of *url.Error.
func (g *Guard) Client(tenant atlas.TenantID) *http.Client {
	return &http.Client{
		Transport: &transport{g, tenant},
		Timeout:   g.cfg.Timeout,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if first := via[0].Method; first != http.MethodGet && first != http.MethodHead {
				return http.ErrUseLastResponse // a write is never sent to a second place
			}
			if len(via) > g.cfg.MaxRedirects {
				return atlas.Errorf(atlas.CodeSourceError, errors.New("too many redirects"), "the answer is redirected too often")
			}
			return g.check(tenant, req.Method, req.URL)
		},
	}
}

// refused is the one answer to everything that is not allowed: a host that is not on the list, and a
// name that resolves to where nobody may go.
func refused(cause error) error { return atlas.Errorf(atlas.CodeHostNotAllowed, cause, "") }

// prohibited reports whether a connection was refused by the check of its address.
func prohibited(err error) bool {
	return errors.Is(err, ssrf.ErrProhibitedIP) || errors.Is(err, ssrf.ErrProhibitedPort) ||
		errors.Is(err, ssrf.ErrProhibitedNetwork) || errors.Is(err, ssrf.ErrInvalidHostPort)
}

var _ source.Dialer = (*Guard)(nil)
