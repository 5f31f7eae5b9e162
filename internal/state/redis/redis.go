// Package redis opens the one client through which Atlas speaks to Redis (standalone, behind
// sentinels, or a cluster), and the bus on which replicas tell each other what changed. What is
// kept in Redis is the business of those who keep it: the limiter, the cache, the memory of
// sessions.
//
// Nothing here is needed to start: a Redis that is down is looked for until it is there, and calls
// fail meanwhile, quickly.
package redis

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// Deps are what the program gives to the client.
type Deps struct {
	Log *slog.Logger
	// Bus is told what became of each message of the bus; see the Bus* words. May be nil.
	Bus func(outcome string)
}

// A Client is a connection to Redis, shared by all who keep something there. It is safe for
// concurrent use.
type Client struct {
	cfg    Config
	log    *slog.Logger
	busKey []byte
	count  func(string)

	conn  rueidis.Client
	close sync.Once
}

const (
	// heartbeat is how often an idle connection is asked whether it lives. With Config.Timeout it is
	// how soon a Redis that hangs is noticed.
	heartbeat = 500 * time.Millisecond
	// ringScale is the logarithm of how many commands may wait for their answers on one connection.
	// Further ones wait for room.
	ringScale = 12
	// buffers hold what one write or read takes; commands here are small.
	buffers = 64 << 10
	// retries is how often a command that only reads is sent again after the connection broke.
	// rueidis never sends one that writes, or a script, again.
	retries    = 2
	retryAfter = 5 * time.Millisecond
)

// Open returns a client. The error is about the configuration only: that Redis is not there shows
// in [Client.Ping] and in what is asked of it.
func Open(_ context.Context, cfg Config, deps Deps) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	if !cfg.Enabled() {
		return nil, errors.New("redis: there is neither url nor addresses")
	}
	cfg = cfg.withDefaults()
	tlsConfig, err := cfg.TLS.client()
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	c := &Client{cfg: cfg, log: deps.Log, count: deps.Bus}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.count == nil {
		c.count = func(string) {}
	}
	if c.busKey, err = hex.DecodeString(cfg.BusKey); err != nil {
		return nil, fmt.Errorf("redis: bus_key: %w", err)
	}
	opt := rueidis.ClientOption{
		InitAddress: cfg.Addresses,
		Username:    cfg.Username,
		Password:    cfg.Password,
		SelectDB:    cfg.DB,
		ClientName:  "atlas",
		TLSConfig:   tlsConfig,
		Dialer:      net.Dialer{Timeout: cfg.DialTimeout, KeepAlive: heartbeat},

		ConnWriteTimeout:    cfg.Timeout,
		RingScaleEachConn:   ringScale,
		ReadBufferEachConn:  buffers,
		WriteBufferEachConn: buffers,
		// Without it, a command whose context ends closes the connection under everybody else's
		// commands: a caller with a tiny budget could do that all day.
		AlwaysPipelining: true,
		// Nobody here asks for tracking; who wants it opens a connection of its own.
		DisableCache: true,
		RetryDelay: func(attempts int, _ rueidis.Completed, _ error) time.Duration {
			if attempts > retries {
				return -1
			}
			return retryAfter
		},
		ClusterOption: rueidis.ClusterOption{MaxMovedRedirections: 5, ShardsRefreshInterval: 5 * time.Second},
	}
	switch cfg.Mode {
	case Sentinel:
		opt.Sentinel = rueidis.SentinelOption{
			MasterSet: cfg.SentinelMaster, Username: cfg.SentinelUsername, Password: cfg.SentinelPassword,
			Dialer: opt.Dialer, TLSConfig: tlsConfig,
			// A missed +switch-master would leave us with a demoted master for ever.
			TopologyRefreshInterval: 5 * time.Second,
		}
		c.conn, err = connectLate(opt, false, c.log)
	case Cluster:
		c.conn, err = connectLate(opt, true, c.log)
	default:
		// It gives a client also when it cannot connect, with the error.
		opt.ForceSingleClient = true
		if c.conn, err = rueidis.NewClient(opt); c.conn != nil {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	c.conn = &patient{Client: c.conn}
	return c, nil
}

// Client returns the connection for those who keep something in Redis. They do not close it. In
// mode cluster, the keys of one command must share a hash tag.
func (c *Client) Client() rueidis.Client { return c.conn }

// Prefix returns what every key and channel begins with.
func (c *Client) Prefix() string { return c.cfg.KeyPrefix }

// Close closes the connection and waits for pending commands. Closing twice is fine; any command
// after it fails.
func (c *Client) Close() error {
	c.close.Do(c.conn.Close)
	return nil
}

// Info is what a Redis says of itself.
type Info struct {
	Server  string // "redis" or "valkey"
	Version string // empty if it does not say
	Mode    string // as configured
	Role    string // "master", or empty if it does not say
	// Eviction is the server's maxmemory-policy; empty if it may not be asked. With any but
	// noeviction a full Redis drops buckets of the limiter, and lifts limits with them.
	Eviction string
}

// Ping asks Redis whether it can keep something: that it answers, is a master and, in mode
// cluster, has all slots. It takes no longer than DialTimeout and Timeout. Errors may name the address;
// they are for operators.
func (c *Client) Ping(ctx context.Context) (Info, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout+c.cfg.Timeout)
	defer cancel()
	info := Info{Mode: c.cfg.Mode}
	b := c.conn.B
	if err := c.conn.Do(ctx, b().Ping().Build()).Error(); err != nil {
		return info, fmt.Errorf("redis: ping: %w", err)
	}
	// What follows may be forbidden to the user, or unknown to an old server.
	hello, err := c.conn.Do(ctx, b().Arbitrary("HELLO").Build()).AsMap()
	if err == nil {
		text := func(key string) string { m := hello[key]; s, _ := m.ToString(); return s }
		info.Server, info.Version, info.Role = text("server"), text("version"), text("role")
	}
	if memory, err := c.conn.Do(ctx, b().Info().Section("memory").Build()).ToString(); err == nil {
		info.Eviction = field(memory, "maxmemory_policy")
	}
	if c.cfg.Mode == Cluster {
		state, err := c.conn.Do(ctx, b().ClusterInfo().Build()).ToString()
		if s := field(state, "cluster_state"); err == nil && s != "ok" {
			return info, fmt.Errorf("redis: the cluster's state is %q", s)
		}
		info.Role = "" // of whichever node was asked
	}
	if info.Role != "" && info.Role != "master" {
		return info, fmt.Errorf("redis: the server is a %s, which takes no writes", info.Role)
	}
	return info, nil
}

// field returns a line's value of what INFO answers: a text, or in RESP3 one that says it is one.
func field(text, name string) string {
	for line := range strings.Lines(strings.TrimPrefix(text, "txt:")) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
