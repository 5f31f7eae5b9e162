package redis

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// The values of Config.Mode.
const (
	Standalone = "standalone"
	Sentinel   = "sentinel"
	Cluster    = "cluster"
)

// Config says which Redis, and how to reach it. The zero value means that there is none.
type Config struct {
	// URL is redis://[user[:password]@]host[:port][/db], or rediss:// for TLS. Addresses are
	// host:port, of some nodes of the cluster or of the sentinels. One of the two is given.
	URL       string   `yaml:"url"`
	Addresses []string `yaml:"addresses"`

	Mode string `yaml:"mode"` // standalone (default), sentinel or cluster

	SentinelMaster   string `yaml:"sentinel_master"` // the name under which the sentinels know the master
	SentinelUsername string `yaml:"sentinel_username"`
	SentinelPassword string `yaml:"sentinel_password"`

	Username string `yaml:"username"`
	Password string `yaml:"password"`
	DB       int    `yaml:"db"` // default 0; a cluster has no other

	TLS TLS `yaml:"tls"`

	// KeyPrefix begins every key and channel, so that two installations can share one Redis. Default
	// "atlas:".
	KeyPrefix string `yaml:"key_prefix"`

	DialTimeout time.Duration `yaml:"dial_timeout"` // of connecting, TLS and login included; default 1s
	Timeout     time.Duration `yaml:"timeout"`      // after which a connection that does not answer is given up; default 1s

	// BusKey authenticates what replicas tell each other: 64 hex digits, the same for all of them. Without
	// it, whoever can write to Redis can make them reload, purge and end sessions.
	BusKey string `yaml:"bus_key"`
}

// TLS says how to verify the server, and who to be. Giving any of it, or a rediss:// URL, turns TLS on.
type TLS struct {
	Enabled    bool   `yaml:"enabled"`
	CAFile     string `yaml:"ca_file"`   // PEM; default: the system's
	CertFile   string `yaml:"cert_file"` // PEM, of the client; with KeyFile
	KeyFile    string `yaml:"key_file"`
	ServerName string `yaml:"server_name"` // default: the host of the address
}

func (t TLS) on() bool { return t != TLS{} }

// Enabled reports whether a Redis is configured.
func (c Config) Enabled() bool { return c.URL != "" || len(c.Addresses) > 0 }

const (
	defaultPrefix  = "atlas:"
	defaultPort    = "6379"
	defaultTimeout = time.Second
	maxTimeout     = time.Minute
	maxPrefix      = 64
)

// withDefaults fills in the defaults and what the URL says. Config is valid.
func (c Config) withDefaults() Config {
	if c.URL != "" {
		_ = c.applyURL() // valid
	}
	c.Mode = cmp.Or(c.Mode, Standalone)
	c.KeyPrefix = cmp.Or(c.KeyPrefix, defaultPrefix)
	c.DialTimeout = cmp.Or(c.DialTimeout, defaultTimeout)
	c.Timeout = cmp.Or(c.Timeout, defaultTimeout)
	return c
}

// applyURL takes the URL apart. Its errors never quote the URL: it may hold a password.
func (c *Config) applyURL() error {
	u, err := url.Parse(c.URL)
	if err != nil {
		return errors.New("url: not a URL")
	}
	switch u.Scheme {
	case "rediss":
		c.TLS.Enabled = true
	case "redis":
	default:
		return errors.New("url: must begin with redis:// or rediss://")
	}
	if u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" {
		return errors.New("url: must be redis://[user[:password]@]host[:port][/db] and no more")
	}
	if db := strings.Trim(u.Path, "/"); db != "" {
		n, err := strconv.Atoi(db)
		if err != nil || n < 0 || c.DB != 0 && c.DB != n {
			return errors.New("url: the path must be the number of the database, and the same as db")
		}
		c.DB = n
	}
	password, _ := u.User.Password()
	if name := u.User.Username(); name != "" && c.Username != "" && name != c.Username || password != "" && c.Password != "" && password != c.Password {
		return errors.New("url: names another user or password than username and password do")
	}
	c.Username, c.Password = cmp.Or(c.Username, u.User.Username()), cmp.Or(c.Password, password)
	c.Addresses = []string{net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), defaultPort))}
	c.URL = ""
	return nil
}

// Validate reports all mistakes, joined. A Config that names no Redis is valid only if it says
// nothing else either.
func (c Config) Validate() error {
	if !c.Enabled() {
		if reflect.ValueOf(c).IsZero() {
			return nil
		}
		return errors.New("there is neither url nor addresses")
	}
	var errs []error
	add := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	add(c.URL != "" && len(c.Addresses) > 0, "give url or addresses, not both")
	if c.URL != "" && len(c.Addresses) == 0 {
		if err := c.applyURL(); err != nil {
			errs = append(errs, err)
		}
	}
	for i, a := range c.Addresses {
		host, port, err := net.SplitHostPort(a)
		n, perr := strconv.Atoi(port)
		add(err != nil || host == "" || perr != nil || n < 1 || n > 65535, "addresses[%d]: must be host:port", i)
	}
	add(c.DB < 0, "db: must not be negative")
	switch cmp.Or(c.Mode, Standalone) {
	case Standalone:
		add(len(c.Addresses) > 1, "addresses: a standalone Redis has one; say mode: cluster or sentinel")
	case Sentinel:
		add(c.SentinelMaster == "", "sentinel_master: mode sentinel needs the name of the master")
	case Cluster:
		add(c.DB > 0, "db: a cluster has database 0 only")
	default:
		add(true, "mode: %q is none of standalone, sentinel, cluster", c.Mode)
	}
	add(c.Mode != Sentinel && (c.SentinelMaster != "" || c.SentinelUsername != "" || c.SentinelPassword != ""), "sentinel_*: only with mode sentinel")
	add(c.Username != "" && c.Password == "", "password: there is a username without one")
	add((c.TLS.CertFile == "") != (c.TLS.KeyFile == ""), "tls: cert_file and key_file go together")
	add(!plainPrefix(c.KeyPrefix), "key_prefix: at most %d of a-z, A-Z, 0-9 and :_.-", maxPrefix)
	for _, t := range []struct {
		name  string
		value time.Duration
	}{{"dial_timeout", c.DialTimeout}, {"timeout", c.Timeout}} {
		add(t.value < 0 || t.value > maxTimeout || t.value > 0 && t.value < 10*time.Millisecond, "%s: must be 10ms to %s", t.name, maxTimeout)
	}
	if key, err := hex.DecodeString(c.BusKey); c.BusKey != "" && (err != nil || len(key) < 32) {
		errs = append(errs, errors.New("bus_key: must be at least 64 hex digits")) // without the text: it is secret
	}
	return errors.Join(errs...)
}

// plainPrefix keeps braces out: they would move the hash tags of a cluster's keys.
func plainPrefix(s string) bool {
	if len(s) > maxPrefix {
		return false
	}
	return strings.IndexFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(":_.-", r)
	}) < 0
}

// Cleartext returns the addresses that are reached without TLS and not over loopback: passwords
// and customers' data cross a network in the clear.
func (c Config) Cleartext() []string {
	if c.Validate() != nil {
		return nil
	}
	c = c.withDefaults()
	if c.TLS.on() {
		return nil
	}
	var open []string
	for _, a := range c.Addresses {
		host, _, _ := net.SplitHostPort(a)
		if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
			open = append(open, a)
		}
	}
	return open
}

// client returns the TLS settings, or nil if TLS is off.
func (t TLS) client() (*tls.Config, error) {
	if !t.on() {
		return nil, nil
	}
	out := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("tls.ca_file: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls.ca_file: %s holds no certificate", t.CAFile)
		}
	}
	if t.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("tls.cert_file: %w", err)
		}
		out.Certificates = []tls.Certificate{cert}
	}
	return out, nil
}
