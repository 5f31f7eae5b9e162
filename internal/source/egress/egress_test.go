package egress_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source/egress"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A web is a TLS server on loopback that is known by any name, and a name server that says where
// names are.
type web struct {
	t        *testing.T
	server   *httptest.Server
	port     uint16
	resolver *net.Resolver
	roots    *x509.CertPool
	hits     atomic.Int64
	mu       sync.Mutex
	seen     []*http.Request
	names    map[string][]string // what each name resolves to, one answer a question, the last for ever
}

func newWeb(t *testing.T, handler http.HandlerFunc) *web {
	w := &web{t: t, names: map[string][]string{}}
	if handler == nil {
		handler = func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "hello") }
	}
	w.server = httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.hits.Add(1)
		w.mu.Lock()
		w.seen = append(w.seen, r.Clone(context.Background()))
		w.mu.Unlock()
		handler(rw, r)
	}))
	w.server.EnableHTTP2 = true
	w.server.StartTLS()
	t.Cleanup(w.server.Close)
	w.port = netip.MustParseAddrPort(w.server.Listener.Addr().String()).Port()
	w.roots = x509.NewCertPool()
	w.roots.AddCert(w.server.Certificate()) // for example.com, *.example.com and 127.0.0.1
	w.resolver = w.nameServer()
	return w
}

// nameServer starts a DNS server on loopback. It answers A and AAAA questions from w.names.
func (w *web) nameServer() *net.Resolver {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	done := make(chan struct{})
	w.t.Cleanup(func() { _ = conn.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := w.answer(buf[:n]); reply != nil {
				_, _ = conn.WriteTo(reply, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// answer makes a DNS reply (RFC 1035 section 4) to a question.
func (w *web) answer(q []byte) []byte {
	if len(q) < 17 {
		return nil
	}
	var labels []string
	i := 12
	for q[i] != 0 {
		labels = append(labels, string(q[i+1:i+1+int(q[i])]))
		i += 1 + int(q[i])
	}
	kind := binary.BigEndian.Uint16(q[i+1:])
	end := i + 5
	reply := append([]byte{}, q[:end]...)
	reply[2], reply[3] = 0x81, 0x80
	binary.BigEndian.PutUint16(reply[6:], 0)
	binary.BigEndian.PutUint32(reply[8:], 0)
	w.mu.Lock()
	defer w.mu.Unlock()
	name := strings.ToLower(strings.Join(labels, "."))
	list := w.names[name]
	if len(list) == 0 {
		return reply
	}
	addr := netip.MustParseAddr(list[0])
	if v4 := kind == 1; v4 != addr.Is4() || kind != 1 && kind != 28 {
		return reply
	}
	if len(list) > 1 {
		w.names[name] = list[1:]
	}
	binary.BigEndian.PutUint16(reply[6:], 1)
	reply = append(reply, 0xc0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(len(addr.AsSlice())))
	return append(reply, addr.AsSlice()...)
}

// point lets a name resolve to addresses.
func (w *web) point(name string, addrs ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.names[name] = addrs
}

// guard returns a guard that may reach loopback at the server's port.
func (w *web) guard(allow string, change ...func(*egress.Config)) *egress.Guard {
	w.t.Helper()
	list, err := egress.ParseAllowlist("allow.yaml", []byte(allow))
	if err != nil {
		w.t.Fatal(err)
	}
	cfg := egress.Config{Ports: []uint16{443, w.port}, AllowAddresses: []string{"127.0.0.0/8"}}
	for _, c := range change {
		c(&cfg)
	}
	g, err := egress.New(cfg, list, egress.Deps{Resolver: w.resolver, RootCAs: w.roots})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = g.Close() })
	return g
}

func (w *web) url(host, path string) string {
	return "https://" + host + ":" + strconv.Itoa(int(w.port)) + path
}

func get(t *testing.T, g *egress.Guard, tenant atlas.TenantID, url string) (string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := g.Client(tenant).Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func wantCode(t *testing.T, err error, code atlas.Code) {
	t.Helper()
	if got := atlas.CodeOf(err); got != code {
		t.Errorf("got %q (%v), want %q", got, err, code)
	}
}

func TestReachesWhatIsAllowed(t *testing.T) {
	w := newWeb(t, nil)
	w.point("api.example.com", "127.0.0.1")
	g := w.guard(`acme: ["*.example.com"]`)
	for _, host := range []string{"api.example.com", "API.Example.Com", "api.example.com."} {
		if body, err := get(t, g, "acme", w.url(host, "/")); err != nil || body != "hello" {
			t.Errorf("%s: %q, %v", host, body, err)
		}
	}
	before := w.hits.Load()
	_, err := get(t, g, "globex", w.url("api.example.com", "/"))
	wantCode(t, err, atlas.CodeHostNotAllowed)
	if w.hits.Load() != before {
		t.Error("another tenant's request, over an open connection, reached the server")
	}
}

func TestAllowed(t *testing.T) {
	list, err := egress.ParseAllowlist("allow.yaml", []byte(`
"*": [status.example.com]
acme:
  - api.example.com
  - "*.acme.internal"
  - bücher.example
  - 93.184.216.34
  - {host: pay.example.com, methods: [POST], paths: [/v1/charges, /v2/]}
`))
	if err != nil {
		t.Fatal(err)
	}
	g, err := egress.New(egress.Config{}, list, egress.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = g.Close() }()
	for _, c := range []struct {
		tenant      atlas.TenantID
		method, url string
		want        bool
	}{
		{"acme", "GET", "https://api.example.com/x", true},
		{"acme", "", "https://api.example.com", true},
		{"acme", "GET", "https://api.example.com:443/", true},
		{"acme", "GET", "https://API.EXAMPLE.COM./", true},
		{"acme", "GET", "https://status.example.com/", true},
		{"globex", "GET", "https://status.example.com/", true},
		{"globex", "GET", "https://api.example.com/", false},
		{"*", "GET", "https://status.example.com/", false},
		{"", "GET", "https://status.example.com/", false},
		{"../acme", "GET", "https://status.example.com/", false},
		{"Acme", "GET", "https://status.example.com/", false},

		// what a plain entry does not cover
		{"acme", "POST", "https://api.example.com/", false},
		{"acme", "CONNECT", "https://api.example.com/", false},
		{"acme", "get", "https://api.example.com/", false},
		{"acme", "GET", "http://api.example.com/", false},
		{"acme", "GET", "ftp://api.example.com/", false},
		{"acme", "GET", "//api.example.com/", false},
		{"acme", "GET", "https:api.example.com", false},
		{"acme", "GET", "https://api.example.com:80/", false},
		{"acme", "GET", "https://api.example.com:8443/", false},
		{"acme", "GET", "https://api.example.com:/", false},
		{"acme", "GET", "https://api.example.com:00443/", true},

		// names that look like an allowed one
		{"acme", "GET", "https://api.example.com@evil.example/", false},
		{"acme", "GET", "https://user:pass@api.example.com/", false},
		{"acme", "GET", "https://evil.example#api.example.com", false},
		{"acme", "GET", "https://evil.example/?api.example.com", false},
		{"acme", "GET", "https://evil.example\\@api.example.com/", false},
		{"acme", "GET", "https://api.example.com.evil.example/", false},
		{"acme", "GET", "https://evilapi.example.com/", false},
		{"acme", "GET", "https://sub.api.example.com/", false},
		{"acme", "GET", "https://api.example.com../", false},
		{"acme", "GET", "https://api.example.com%2eevil.example/", false},
		{"acme", "GET", "https://api。example。com/", true}, // IDNA maps the ideographic full stop to a dot

		// suffixes
		{"acme", "GET", "https://a.acme.internal/", true},
		{"acme", "GET", "https://a.b.acme.internal/", true},
		{"acme", "GET", "https://acme.internal/", false},
		{"acme", "GET", "https://evilacme.internal/", false},
		{"acme", "GET", "https://.acme.internal/", false},

		// IDNA
		{"acme", "GET", "https://bücher.example/", true},
		{"acme", "GET", "https://BÜCHER.example/", true},
		{"acme", "GET", "https://xn--bcher-kva.example/", true},
		{"acme", "GET", "https://аpi.example.com/", false}, // Cyrillic а
		{"acme", "GET", "https://xn--a.example/", false},   // not valid punycode

		// addresses
		{"acme", "GET", "https://93.184.216.34/", true},
		{"acme", "GET", "https://[::ffff:93.184.216.34]/", true},
		{"acme", "GET", "https://1572395042/", false},
		{"acme", "GET", "https://0x5db8d822/", false},
		{"acme", "GET", "https://0135.0270.0330.042/", false},
		{"acme", "GET", "https://127.0.0.1/", false},
		{"acme", "GET", "https://2130706433/", false},
		{"acme", "GET", "https://0177.0.0.1/", false},
		{"acme", "GET", "https://127.1/", false},
		{"acme", "GET", "https://[::1]/", false},
		{"acme", "GET", "https://[::ffff:127.0.0.1]/", false},
		{"acme", "GET", "https://[fe80::1%25eth0]/", false},

		// methods and paths
		{"acme", "POST", "https://pay.example.com/v1/charges", true},
		{"acme", "POST", "https://pay.example.com/v1/charges/7", true},
		{"acme", "POST", "https://pay.example.com/v2/anything", true},
		{"acme", "GET", "https://pay.example.com/v1/charges", false},
		{"acme", "POST", "https://pay.example.com/v1/chargesback", false},
		{"acme", "POST", "https://pay.example.com/", false},
		{"acme", "POST", "https://pay.example.com", false},
		{"acme", "POST", "https://pay.example.com/v1/charges/../refunds", false},
		{"acme", "POST", "https://pay.example.com/v1/charges/%2e%2e/refunds", false},
		{"acme", "POST", "https://pay.example.com/v1/charges/..%2frefunds", false},
		{"acme", "POST", "https://pay.example.com/v1/charges/%252e%252e/refunds", false},
		{"acme", "POST", "https://pay.example.com//v1/charges", false},
		{"acme", "POST", `https://pay.example.com/v1/charges/..\refunds`, false},
		{"acme", "GET", "https://%zz/", false},
		{"acme", "GET", "", false},
	} {
		err := g.Allowed(c.tenant, c.method, c.url)
		if (err == nil) != c.want {
			t.Errorf("%s %s %s: %v, want allowed = %v", c.tenant, c.method, c.url, err, c.want)
		}
		if err != nil {
			wantCode(t, err, atlas.CodeHostNotAllowed)
		}
	}
}

// A name of the allowlist that resolves to an address which is not public is refused when the
// connection is made, and the answer is the same as for a host that is not on the list.
func TestForbiddenAddresses(t *testing.T) {
	w := newWeb(t, nil)
	g := w.guard(`acme: ["*.example.com"]`, func(c *egress.Config) { c.AllowAddresses = nil })
	off := g.Allowed("acme", "GET", "https://other.example/")
	for i, addr := range []string{
		"127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "100.100.100.200",
		"169.254.169.254", "169.254.170.2", "168.63.129.16", "192.0.0.192", "224.0.0.1", "255.255.255.255", "198.18.0.1",
		"::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
		"2002:7f00:1::", "2001::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
	} {
		host := "h" + strconv.Itoa(i) + ".example.com"
		w.point(host, addr)
		_, err := get(t, g, "acme", w.url(host, "/"))
		wantCode(t, err, atlas.CodeHostNotAllowed)
		got, want := atlas.ErrorOf(err).Failure("r"), atlas.ErrorOf(off).Failure("r")
		if got.Hint != want.Hint || len(got.Context)+len(want.Context) > 0 {
			t.Errorf("%s: %+v differs from the answer for a host off the list, %+v", addr, got, want)
		}
		if strings.Contains(got.Hint, addr) {
			t.Errorf("%s: the hint names the address", addr)
		}
	}
	if w.hits.Load() != 0 {
		t.Error("the server was reached")
	}
}

// No setting opens the addresses that hand out a machine's credentials.
func TestMetadataStaysShut(t *testing.T) {
	w := newWeb(t, nil)
	g := w.guard(`acme: ["*.example.com"]`, func(c *egress.Config) {
		c.AllowAddresses = []string{"0.0.0.0/0", "::/0"}
		c.Timeout = 2 * time.Second
	})
	for i, addr := range []string{
		"169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "::ffff:169.254.169.254",
		"64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
	} {
		host := "m" + strconv.Itoa(i) + ".example.com"
		w.point(host, addr)
		_, err := get(t, g, "acme", w.url(host, "/"))
		wantCode(t, err, atlas.CodeHostNotAllowed)
	}
}

func TestRebinding(t *testing.T) {
	w := newWeb(t, nil)
	// The first look-up gives a harmless address, each later one the target: whoever checks first and
	// connects later is fooled.
	w.point("rebind.example.com", "93.184.216.34", "127.0.0.1")
	g := w.guard(`acme: [rebind.example.com]`, func(c *egress.Config) { c.AllowAddresses = nil })
	if addrs, err := w.resolver.LookupHost(t.Context(), "rebind.example.com"); err != nil || addrs[0] != "93.184.216.34" {
		t.Fatal(addrs, err)
	}
	_, err := get(t, g, "acme", w.url("rebind.example.com", "/"))
	wantCode(t, err, atlas.CodeHostNotAllowed)
	if w.hits.Load() != 0 {
		t.Error("the server was reached")
	}
}

func TestRedirects(t *testing.T) {
	var w *web
	w = newWeb(t, func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/metadata":
			http.Redirect(rw, r, "https://169.254.169.254/latest/meta-data/", http.StatusFound)
		case "/plain":
			http.Redirect(rw, r, "http://api.example.com/", http.StatusFound)
		case "/file":
			http.Redirect(rw, r, "file:///etc/passwd", http.StatusFound)
		case "/off":
			http.Redirect(rw, r, w.url("other.example.com", "/"), http.StatusFound)
		case "/inside":
			http.Redirect(rw, r, w.url("bad.example.com", "/"), http.StatusTemporaryRedirect)
		case "/userinfo":
			http.Redirect(rw, r, strings.Replace(w.url("api.example.com", "/"), "https://", "https://u:p@", 1), http.StatusFound)
		case "/loop":
			http.Redirect(rw, r, "/loop", http.StatusFound)
		case "/3", "/2", "/1":
			n, _ := strconv.Atoi(r.URL.Path[1:])
			http.Redirect(rw, r, "/"+strconv.Itoa(n-1), http.StatusFound)
		case "/4":
			http.Redirect(rw, r, "/3", http.StatusFound)
		default:
			_, _ = io.WriteString(rw, "arrived")
		}
	})
	w.point("api.example.com", "127.0.0.1")
	w.point("other.example.com", "127.0.0.1")
	w.point("bad.example.com", "10.0.0.1")
	g := w.guard(`acme: [api.example.com, bad.example.com]`)
	for path, want := range map[string]atlas.Code{
		"/metadata": atlas.CodeHostNotAllowed, "/plain": atlas.CodeHostNotAllowed, "/file": atlas.CodeHostNotAllowed,
		"/off": atlas.CodeHostNotAllowed, "/inside": atlas.CodeHostNotAllowed, "/userinfo": atlas.CodeHostNotAllowed,
		"/loop": atlas.CodeSourceError, "/4": atlas.CodeSourceError, "/3": "", "/2": "",
	} {
		body, err := get(t, g, "acme", w.url("api.example.com", path))
		if want != "" {
			wantCode(t, err, want)
		} else if err != nil || body != "arrived" {
			t.Errorf("%s: %q, %v", path, body, err)
		}
	}
}

func TestWritesAreNotRedirected(t *testing.T) {
	w := newWeb(t, func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, "/elsewhere", http.StatusTemporaryRedirect)
	})
	w.point("api.example.com", "127.0.0.1")
	g := w.guard(`acme: [{host: api.example.com, methods: [POST]}]`)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url("api.example.com", "/"), strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := g.Client("acme").Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusTemporaryRedirect || w.hits.Load() != 1 {
		t.Errorf("status %d, %d requests", resp.StatusCode, w.hits.Load())
	}
}

func TestNothingOfOursLeaves(t *testing.T) {
	w := newWeb(t, func(rw http.ResponseWriter, _ *http.Request) { rw.Header().Set("Set-Cookie", "a=b") })
	w.point("api.example.com", "127.0.0.1")
	g := w.guard(`acme: [api.example.com]`)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.url("api.example.com", "/"), nil)
	if err != nil {
		t.Fatal(err)
	}
	secret := []string{
		"Authorization", "Cookie", "Proxy-Authorization", "X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "Referer",
		"X-Tenant-Id", "X-Api-Key", "X-Amz-Security-Token", "Metadata-Flavor", "Metadata",
	}
	for _, h := range secret {
		req.Header.Set(h, "secret")
	}
	req.Header.Set("Accept", "text/plain")
	req.Host = "internal.example"
	resp, err := g.Client("acme").Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	got := w.seen[0]
	for _, h := range secret {
		if got.Header.Get(h) != "" {
			t.Errorf("%s left", h)
		}
	}
	if got.Header.Get("Accept") != "text/plain" || got.Header.Get("User-Agent") != "atlas" {
		t.Errorf("headers %v", got.Header)
	}
	if !strings.HasPrefix(got.Host, "api.example.com") {
		t.Errorf("the Host header was %q", got.Host)
	}
	if resp.Header.Get("Set-Cookie") != "" {
		t.Error("a cookie came back")
	}
}

func TestProxyOfTheEnvironmentIsIgnored(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	w := newWeb(t, nil)
	w.point("api.example.com", "127.0.0.1")
	if _, err := get(t, w.guard(`acme: [api.example.com]`), "acme", w.url("api.example.com", "/")); err != nil {
		t.Error(err)
	}
}

func TestSizeIsCountedAfterDecompression(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	if _, err := z.Write(make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	w := newWeb(t, func(rw http.ResponseWriter, r *http.Request) {
		n, err := strconv.Atoi(r.URL.Path[1:])
		if err != nil {
			rw.Header().Set("Content-Encoding", "gzip")
			_, _ = rw.Write(bomb.Bytes())
			return
		}
		_, _ = rw.Write(make([]byte, n))
	})
	w.point("api.example.com", "127.0.0.1")
	g := w.guard(`acme: [api.example.com]`, func(c *egress.Config) { c.MaxBytes = 1000 })
	body, err := get(t, g, "acme", w.url("api.example.com", "/bomb"))
	wantCode(t, err, atlas.CodeTooLarge)
	if len(body) > 1000 {
		t.Errorf("%d bytes came through", len(body))
	}
	if _, err = get(t, g, "acme", w.url("api.example.com", "/1001")); atlas.CodeOf(err) != atlas.CodeTooLarge {
		t.Error("1001 bytes:", err)
	}
	if body, err = get(t, g, "acme", w.url("api.example.com", "/1000")); err != nil || len(body) != 1000 {
		t.Error("1000 bytes:", len(body), err)
	}
}

func TestTimeIsCapped(t *testing.T) {
	release := make(chan struct{})
	w := newWeb(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	t.Cleanup(func() { close(release) })
	w.point("api.example.com", "127.0.0.1")
	g := w.guard(`acme: [api.example.com]`, func(c *egress.Config) { c.Timeout = 50 * time.Millisecond })
	_, err := get(t, g, "acme", w.url("api.example.com", "/"))
	if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
		t.Errorf("got %v", err)
	}
}

func TestCertificatesAreChecked(t *testing.T) {
	w := newWeb(t, nil)
	w.point("www.other.test", "127.0.0.1") // the certificate is for example.com
	_, err := get(t, w.guard(`acme: ["*.other.test"]`), "acme", w.url("www.other.test", "/"))
	if _, bad := errors.AsType[*tls.CertificateVerificationError](err); !bad {
		t.Errorf("got %v", err)
	}
}

func TestConfigMistakes(t *testing.T) {
	err := egress.Config{
		AllowAddresses: []string{"10.0.0.1", "10.0.0.1/8", "::ffff:10.0.0.0/104"}, Ports: []uint16{0}, MaxRedirects: 11, Timeout: -1,
	}.Validate()
	for _, want := range []string{
		`"10.0.0.1" is not a prefix`, "write 10.0.0.0/8", "write the IPv4 prefix", "0 is not a port", "max_redirects", "timeout",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
	if err := (egress.Config{}).Validate(); err != nil {
		t.Error(err)
	}
}
