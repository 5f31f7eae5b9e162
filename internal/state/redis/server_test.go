//go:build unix

package redis_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas/internal/state/redis"
	"github.com/atlas-mcp/atlas/internal/testenv"
	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

func do(t *testing.T, c *redis.Client, words ...string) {
	t.Helper()
	conn := c.Client()
	if err := conn.Do(t.Context(), conn.B().Arbitrary(words...).Build()).Error(); err != nil {
		t.Fatalf("%v: %v", words, err)
	}
}

func kept(t *testing.T, c *redis.Client) {
	t.Helper()
	do(t, c, "SET", "x", "1") // without a key that the builder knows: any node
}

// freePort returns a port that nobody listens on just now.
func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().(*net.TCPAddr).Port
}

// A client that was connected is again when Redis is, and its bus tells of the gap.
func TestComesBack(t *testing.T) {
	t.Parallel()
	server := testenv.Start(t, testenv.Redis, servers.Options{})
	cfg := redis.Config{URL: server.URL()}
	a, b := listen(t, cfg, nil), listen(t, cfg, nil)
	a.want(t, gap)
	b.want(t, gap)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	until(t, "noticed", func() bool { return !a.Listening() && !b.Listening() })
	begun := time.Now()
	if _, err := a.client.Ping(t.Context()); err == nil {
		t.Error("a dead Redis answers")
	}
	if err := a.Publish(t.Context(), redis.Message{Topic: redis.TopicReload}); err == nil {
		t.Error("sent to a dead Redis")
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("it took %s to fail", took)
	}
	until(t, "nobody waits any more to send", func() bool {
		err := a.Publish(t.Context(), redis.Message{Topic: redis.TopicReload})
		return err != nil && strings.Contains(err.Error(), "away for a while")
	})
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	a.want(t, gap)
	b.want(t, gap)
	publish(t, a, redis.Message{Topic: redis.TopicReload})
	b.want(t, gap, redis.Message{Topic: redis.TopicReload}) // it missed those that could not be sent
}

// A Redis that hangs is noticed without asking it anything.
func TestHangs(t *testing.T) {
	t.Parallel()
	server := testenv.Start(t, testenv.Redis, servers.Options{})
	a := listen(t, redis.Config{URL: server.URL()}, nil)
	a.want(t, gap)
	if err := server.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	until(t, "noticed", func() bool { return !a.Listening() })
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	a.want(t, gap)
}

// A caller whose time is up does not take the connection from the others: cutting it off would let anybody
// with a tiny budget do that all day.
func TestTinyDeadlinesDoNotCutTheConnection(t *testing.T) {
	t.Parallel()
	server := testenv.Start(t, testenv.Redis, servers.Options{})
	c := open(t, redis.Config{URL: server.URL()})
	// Every command has a deadline, as calls have: a connection begins to serve several at once only when it
	// must, and until then would be cut.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	accepted := func() string {
		info, err := c.Client().Do(ctx, c.Client().B().Info().Section("stats").Build()).ToString()
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(info) {
			if v, ok := strings.CutPrefix(line, "total_connections_received:"); ok {
				return v
			}
		}
		t.Fatal("no total_connections_received")
		return ""
	}
	set := func(i int) {
		if err := c.Client().Do(ctx, c.Client().B().Set().Key(strconv.Itoa(i)).Value("1").Build()).Error(); err != nil {
			t.Error(err)
		}
	}
	for i := range 100 { // all connections are there
		set(i)
		accepted()
	}
	before := accepted()
	if err := server.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		err := c.Client().Do(ctx, c.Client().B().Ping().Build()).Error()
		cancel()
		if err == nil {
			t.Error("a paused server answers")
		}
	}
	if err := server.Resume(); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		set(i)
	}
	if after := accepted(); after != before {
		t.Errorf("connections received: %s before, %s after", before, after)
	}
}

func TestCluster(t *testing.T) {
	t.Parallel()
	server := testenv.Start(t, testenv.Redis, servers.Options{Args: []string{
		"--cluster-enabled", "yes", "--cluster-port", strconv.Itoa(freePort(t)), "--cluster-config-file", "nodes.conf",
	}})
	admin := open(t, redis.Config{URL: server.URL()})
	if _, err := open(t, redis.Config{Addresses: []string{server.Addr()}, Mode: redis.Cluster}).Ping(t.Context()); err == nil {
		t.Error("a cluster without slots is well")
	}
	do(t, admin, "CLUSTER", "ADDSLOTSRANGE", "0", "16383")
	early := open(t, redis.Config{Addresses: []string{server.Addr()}, Mode: redis.Cluster})
	until(t, "all slots are served", func() bool { _, err := early.Ping(t.Context()); return err == nil })
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	// Who starts while it is down gets it when it is up.
	late := listen(t, redis.Config{Addresses: []string{server.Addr()}, Mode: redis.Cluster}, nil)
	stale := late.client.Client().B().Get().Key("x").Build() // built while nobody knew the slots
	if _, err := late.client.Ping(t.Context()); err == nil {
		t.Error("a dead cluster answers")
	}
	if late.client.Client().Do(t.Context(), late.client.Client().B().Get().Key("x").Build()).Error() == nil {
		t.Error("a dead cluster gives")
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	late.want(t, gap)
	until(t, "the cluster is back for who starts late", func() bool { _, err := late.client.Ping(t.Context()); return err == nil })
	if err := late.client.Client().Do(t.Context(), stale).Error(); err == nil {
		t.Error("a command that knows no slot ran")
	}
	until(t, "and for who was there", func() bool { _, err := early.Ping(t.Context()); return err == nil })
	conn := late.client.Client()
	if err := conn.Do(t.Context(), conn.B().Set().Key("{acme}x").Value("1").Build()).Error(); err != nil {
		t.Error(err)
	}
	for i, r := range conn.DoMulti(t.Context(), conn.B().Get().Key("{acme}x").Build(), conn.B().Del().Key("{acme}x").Build()) {
		if err := r.Error(); err != nil {
			t.Errorf("command %d: %v", i, err)
		}
	}
	if info, err := late.client.Ping(t.Context()); err != nil || info.Mode != redis.Cluster || info.Version == "" {
		t.Errorf("%+v, %v", info, err)
	}
}

// sentinel starts one that watches the master.
func sentinel(t *testing.T, master string) (addr string) {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Fatal(err) // the master is one
	}
	host, port, _ := net.SplitHostPort(master)
	own := freePort(t)
	file := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("bind 127.0.0.1\nport %d\nsentinel monitor atlas-master %s %s 1\nsentinel down-after-milliseconds atlas-master 500\n", own, host, port)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, file, "--sentinel")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		_ = cmd.Wait() // killed
	})
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(own))
}

func TestSentinel(t *testing.T) {
	t.Parallel()
	server := testenv.Start(t, testenv.Redis, servers.Options{})
	replica := testenv.Start(t, testenv.Redis, servers.Options{})
	host, port, _ := net.SplitHostPort(server.Addr())
	at := open(t, redis.Config{URL: replica.URL()})
	do(t, at, "REPLICAOF", host, port)
	if _, err := at.Ping(t.Context()); err == nil || !strings.Contains(err.Error(), "takes no writes") {
		t.Errorf("a replica is well: %v", err)
	}
	addr := sentinel(t, server.Addr())
	cfg := redis.Config{Addresses: []string{addr}, Mode: redis.Sentinel, SentinelMaster: "atlas-master"}
	l := listen(t, cfg, nil) // most likely before the sentinel serves
	l.want(t, gap)
	until(t, "the master answers", func() bool { _, err := l.client.Ping(t.Context()); return err == nil })
	kept(t, l.client)
	watcher := open(t, redis.Config{URL: "redis://" + addr})
	until(t, "the sentinel knows the replica", func() bool {
		n, err := watcher.Client().Do(t.Context(), watcher.Client().B().Arbitrary("SENTINEL", "REPLICAS", "atlas-master").Build()).ToArray()
		return err == nil && len(n) == 1
	})
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	// The sentinel makes the replica a master, and the client follows.
	until(t, "the other is the master", func() bool {
		conn := l.client.Client()
		return conn.Do(t.Context(), conn.B().Set().Key("y").Value("1").Build()).Error() == nil
	})
	l.want(t, gap)
}

func TestLoginAndDatabase(t *testing.T) {
	t.Parallel()
	server := testenv.Start(t, testenv.Redis, servers.Options{})
	admin := open(t, redis.Config{URL: server.URL()})
	// The least that Atlas needs, as docs say.
	do(t, admin, "ACL", "SETUSER", "atlas", "on", ">s3cret", "~atlas:*", "&atlas:*", "+@all", "-@admin", "-@dangerous")
	do(t, admin, "ACL", "SETUSER", "default", "off")
	for name, tt := range map[string]struct {
		cfg  redis.Config
		good bool
	}{
		"right": {redis.Config{Addresses: []string{server.Addr()}, Username: "atlas", Password: "s3cret", DB: 3}, true},
		"url":   {redis.Config{URL: strings.Replace(server.URL(), "redis://", "redis://atlas:s3cret@", 1) + "/3"}, true},
		"wrong": {redis.Config{Addresses: []string{server.Addr()}, Username: "atlas", Password: "wr0ng"}, false},
		"none":  {redis.Config{Addresses: []string{server.Addr()}}, false},
	} {
		c := open(t, tt.cfg)
		info, err := c.Ping(t.Context())
		if (err == nil) != tt.good || err != nil && strings.Contains(err.Error(), "wr0ng") || info.Eviction != "" {
			t.Errorf("%s: %+v, %v", name, info, err)
		}
		if tt.good {
			do(t, c, "SET", "atlas:x", "1")
		}
	}
	// Another database does not see it.
	zero := open(t, redis.Config{Addresses: []string{server.Addr()}, Username: "atlas", Password: "s3cret"}).Client()
	if n, err := zero.Do(t.Context(), zero.B().Exists().Key("atlas:x").Build()).AsInt64(); err != nil || n != 0 {
		t.Errorf("%d, %v", n, err)
	}
}

// certificates writes an authority and what it signed, for 127.0.0.1, and returns the folder.
func certificates(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write := func(name, kind string, der []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var authority *x509.Certificate
	var signer *ecdsa.PrivateKey
	for i, name := range []string{"ca", "server", "client"} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		cert := &x509.Certificate{
			SerialNumber: big.NewInt(int64(i + 1)), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
			BasicConstraintsValid: true, IsCA: i == 0, DNSNames: []string{"redis.test"},
		}
		if i == 0 {
			authority, signer = cert, key
		}
		der, err := x509.CreateCertificate(rand.Reader, cert, authority, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(name+".pem", "CERTIFICATE", der)
		write(name+".key", "PRIVATE KEY", private)
	}
	return dir
}

func TestTLS(t *testing.T) {
	t.Parallel()
	dir, port := certificates(t), freePort(t)
	file := func(name string) string { return filepath.Join(dir, name) }
	testenv.Start(t, testenv.Redis, servers.Options{Args: []string{
		"--tls-port", strconv.Itoa(port), "--tls-cert-file", file("server.pem"), "--tls-key-file", file("server.key"), "--tls-ca-cert-file", file("ca.pem"),
	}})
	url := fmt.Sprintf("rediss://127.0.0.1:%d", port)
	for name, tt := range map[string]struct {
		tls  redis.TLS
		good bool
	}{
		"right":         {redis.TLS{CAFile: file("ca.pem"), CertFile: file("client.pem"), KeyFile: file("client.key"), ServerName: "redis.test"}, true},
		"no client":     {redis.TLS{CAFile: file("ca.pem"), ServerName: "redis.test"}, false},
		"other name":    {redis.TLS{CAFile: file("ca.pem"), CertFile: file("client.pem"), KeyFile: file("client.key"), ServerName: "other.test"}, false},
		"other CA":      {redis.TLS{CertFile: file("client.pem"), KeyFile: file("client.key"), ServerName: "redis.test"}, false},
		"name of place": {redis.TLS{CAFile: file("ca.pem"), CertFile: file("client.pem"), KeyFile: file("client.key")}, false},
	} {
		if _, err := open(t, redis.Config{URL: url, TLS: tt.tls}).Ping(t.Context()); (err == nil) != tt.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}
