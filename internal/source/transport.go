package source

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/atlas-mcp/atlas"
)

// CheckURL checks the address of a service that the operator configured: http or https, without
// user, query or fragment. If a secret is sent to it, it must be https or this machine, unless
// plain says that HTTP may be.
func CheckURL(address string, secret, plain bool) error {
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return errors.New("must be a URL such as https://host:port, without user, query or fragment")
	case u.Scheme == "http" && secret && !plain && !loopback(u.Hostname()):
		return errors.New("sends a key over plain HTTP; use https, or set allow_http if the network between is yours alone")
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Transport is how drivers reach a service that the operator configured: directly, without the
// environment's proxy, over TLS 1.2 or newer. caFile holds certificates, as PEM, to trust instead
// of the system's; it may be empty. conns bounds the connections.
func Transport(caFile string, conns int) (*http.Transport, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile) //nolint:gosec // the operator's configuration names it
		if err != nil {
			return nil, atlas.Errorf(atlas.CodeSourceMisused, fmt.Errorf("ca_file: %w", err), "")
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, atlas.Errorf(atlas.CodeSourceMisused, errors.New("ca_file holds no certificate"), "")
		}
	}
	return &http.Transport{
		DialContext:     (&net.Dialer{Timeout: 5 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig: conf, TLSHandshakeTimeout: 5 * time.Second, ForceAttemptHTTP2: true,
		MaxConnsPerHost: conns, MaxIdleConnsPerHost: conns, IdleConnTimeout: time.Minute,
		MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
	}, nil
}
