package s3_test

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	awss3 "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/s3"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server returns a configuration for the real server, and a client of its administrator.
func server(t *testing.T) (s3.Config, *awss3.Client) {
	t.Helper()
	u, err := url.Parse(testenv.URL(t, testenv.S3))
	if err != nil {
		t.Fatal(err)
	}
	secret, _ := u.User.Password()
	access := u.User.Username()
	u.User = nil
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	client := awss3.New(awss3.Options{
		Region: "us-east-1", BaseEndpoint: aws.String(u.String()), UsePathStyle: true, HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(access, secret, ""),
	})
	return s3.Config{Endpoint: u.String(), AccessKey: access, SecretKey: secret, MaxObjectBytes: 64 << 10}, client
}

// bucket makes an empty bucket that is removed at the test's end.
func bucket(t *testing.T, cfg s3.Config, admin *awss3.Client) s3.Config {
	t.Helper()
	cfg.Bucket = sourcetest.Marker + "-" + strings.ToLower(rand.Text()[:12])
	if _, err := admin.CreateBucket(t.Context(), &awss3.CreateBucketInput{Bucket: &cfg.Bucket}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.Background()
		for {
			page, err := admin.ListObjectsV2(ctx, &awss3.ListObjectsV2Input{Bucket: &cfg.Bucket})
			if err != nil {
				t.Error(err)
				return
			}
			for _, o := range page.Contents {
				if _, err := admin.DeleteObject(ctx, &awss3.DeleteObjectInput{Bucket: &cfg.Bucket, Key: o.Key}); err != nil {
					t.Error(err)
					return
				}
			}
			if len(page.Contents) == 0 {
				break
			}
		}
		if _, err := admin.DeleteBucket(ctx, &awss3.DeleteBucketInput{Bucket: &cfg.Bucket}); err != nil {
			t.Error(err)
		}
	})
	return cfg
}

func open(t *testing.T, cfg s3.Config) *s3.Bucket {
	t.Helper()
	src, err := cfg.Open(t.Context(), source.Deps{Name: "files"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := src.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return src.(*s3.Bucket)
}

func TestContract(t *testing.T) {
	cfg, admin := server(t)
	for name, prefix := range map[string]string{"Prefix": "", "DeepPrefix": "atlas/{tenant}/objects/"} {
		t.Run(name, func(t *testing.T) {
			sourcetest.Run(t, sourcetest.Harness{
				MaxObjectBytes: 64 << 10,
				Open: func(t *testing.T, data map[atlas.TenantID]source.Data) source.Source {
					t.Helper()
					cfg := bucket(t, cfg, admin)
					cfg.Prefix = prefix
					return sourcetest.Load(t, open(t, cfg), data)
				},
			}, sourcetest.ObjectStore)
		})
	}
}

// Whatever the key and the tenant, what is asked of the server lies below the tenant's prefix, byte by
// byte and after any server's or proxy's own cleaning of the path.
func TestKeysStayBelowThePrefix(t *testing.T) {
	var asked []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path, r.URL.Query().Get("prefix"))
		http.Error(w, "", http.StatusTeapot)
	}))
	defer srv.Close()
	for _, template := range []string{"{tenant}/", "a/{tenant}/b/"} {
		src := open(t, s3.Config{Bucket: "bucket", Endpoint: srv.URL, AccessKey: "a", SecretKey: "s", Prefix: template})
		part := rapid.SampledFrom([]string{"a", "..", ".", "", "/", "\\", "%2e%2e", "%2F", "%00", "\x00", "ü", "．．", "globex", "acme", "..;", " ", "?prefix=", "#", "&", "+", "~"})
		rapid.Check(t, func(t *rapid.T) {
			key := strings.Join(rapid.SliceOfN(part, 0, 6).Draw(t, "key"), rapid.SampledFrom([]string{"", "/"}).Draw(t, "between"))
			asked = nil
			_, _ = src.Get(t.Context(), "acme", key, 0)
			_ = src.Put(t.Context(), "acme", key, source.Object{Content: []byte("x")})
			_, _ = src.List(t.Context(), "acme", key, 0)
			own := strings.Replace(template, "{tenant}", "acme", 1)
			for i := 0; i < len(asked); i += 2 {
				path, prefix := asked[i], asked[i+1] // a listing's prefix is no path: nothing cleans it
				if prefix == "" {
					prefix = strings.TrimPrefix(path, "/bucket/")
					if !strings.HasPrefix(cleaned(t, prefix)+"/", own) {
						t.Fatalf("key %q asked for what could become %q", key, cleaned(t, prefix))
					}
				}
				if !strings.HasPrefix(prefix, own) {
					t.Fatalf("key %q asked for %q", key, prefix)
				}
			}
		})
	}
}

// cleaned resolves the path as a careless proxy might.
func cleaned(t *rapid.T, path string) string {
	u, err := url.Parse("http://host/")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(u.JoinPath(path).Path, "/")
}

// Take the tenant's prefix out of the requests, as a faulty gateway would: what comes back is then not
// the tenant's, and none of it passes.
func TestForeignListing(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/xml")
		_, _ = io.WriteString(w, `<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>acme/own.txt</Key><Size>1</Size></Contents><Contents><Key>globex/secret.txt</Key><Size>1</Size></Contents></ListBucketResult>`)
	}))
	defer srv.Close()
	got, err := open(t, s3.Config{Bucket: "bucket", Endpoint: srv.URL, AccessKey: "a", SecretKey: "s"}).List(t.Context(), "acme", "", 0)
	if len(got) != 0 || atlas.CodeOf(err) != atlas.CodeInternal {
		t.Errorf("got %v, %v", got, err)
	}
}

// Only what is wanted of an object is asked for, and links open that one object for a while.
func TestRangeAndLinks(t *testing.T) {
	cfg, admin := server(t)
	cfg = bucket(t, cfg, admin)
	target, err := url.Parse(cfg.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	var ranges []string
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	proxy := httptest.NewServer(&httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) {
		if r.In.Method == http.MethodGet && strings.HasSuffix(r.In.URL.Path, "big.txt") {
			ranges = append(ranges, r.In.Header.Get("Range"))
		}
		r.Out.URL.Host, r.Out.URL.Scheme = target.Host, target.Scheme
		r.Out.Host = r.In.Host // it is signed
	}})
	defer proxy.Close()
	direct := open(t, cfg)
	if err := direct.Put(t.Context(), "acme", "big.txt", source.Object{Content: []byte(strings.Repeat("x", 50_000))}); err != nil {
		t.Fatal(err)
	}
	via := cfg
	via.Endpoint = proxy.URL
	o, err := open(t, via).Get(t.Context(), "acme", "big.txt", 10)
	if err != nil || len(o.Content) != 10 || !o.Truncated || o.Size != 50_000 {
		t.Fatalf("got %d bytes of %d, %v, %v", len(o.Content), o.Size, o.Truncated, err)
	}
	if diff := cmp.Diff([]string{"bytes=0-9"}, ranges); diff != "" {
		t.Error(diff)
	}

	if direct.Links() {
		t.Error("links are on by themselves")
	}
	if link, _, err := direct.Link(t.Context(), "acme", "big.txt"); atlas.CodeOf(err) != atlas.CodeSourceMisused {
		t.Errorf("got %q, %v", link, err)
	}
	cfg.Links.Enabled = true
	linking := open(t, cfg)
	before := time.Now()
	link, expires, err := linking.Link(t.Context(), "acme", "big.txt")
	if err != nil {
		t.Fatal(err)
	}
	if d := expires.Sub(before); d > 5*time.Minute+time.Second {
		t.Errorf("ends after %s", d)
	}
	if status, body, disposition := fetch(t, link); status != http.StatusOK || len(body) != 50_000 || !strings.HasPrefix(disposition, "attachment") {
		t.Errorf("got %d, %d bytes, %q", status, len(body), disposition)
	}
	for name, forged := range map[string]string{
		"another tenant's object": strings.Replace(link, "/acme/", "/globex/", 1),
		"another object":          strings.Replace(link, "big.txt", "bigger.txt", 1),
		"a longer life":           strings.Replace(link, "X-Amz-Expires=300", "X-Amz-Expires=3000", 1),
		"inline":                  strings.Replace(link, "attachment", "inline", 1),
	} {
		if forged == link {
			t.Fatalf("%s: nothing was forged in %s", name, link)
		}
		if status, body, _ := fetch(t, forged); status == http.StatusOK {
			t.Errorf("%s: got %.60q", name, body)
		}
	}
	for _, tenant := range []atlas.TenantID{"globex", "acme2"} {
		if link, _, err := linking.Link(t.Context(), tenant, "big.txt"); atlas.CodeOf(err) != atlas.CodeNotFound || link != "" {
			t.Errorf("%s: got %q, %v", tenant, link, err)
		}
	}
}

func fetch(t *testing.T, link string) (status int, body []byte, disposition string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, link, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close() //nolint:errcheck // read to its end
	if body, err = io.ReadAll(res.Body); err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, body, res.Header.Get("Content-Disposition")
}

// What is wrong with the server or the set-up has its code, and no text of the server reaches callers.
func TestFailures(t *testing.T) {
	cfg, admin := server(t)
	cfg = bucket(t, cfg, admin)
	with := func(edit func(*s3.Config)) *s3.Bucket {
		c := cfg
		edit(&c)
		return open(t, c)
	}
	answer := func(status int, body string) func(*s3.Config) {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", cfg.Endpoint)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}))
		t.Cleanup(srv.Close)
		return func(c *s3.Config) { c.Endpoint = srv.URL }
	}
	dead := httptest.NewServer(nil)
	dead.Close()
	for name, tc := range map[string]struct {
		edit func(*s3.Config)
		want atlas.Code
	}{
		"no such bucket":  {func(c *s3.Config) { c.Bucket = "nosuch-" + c.Bucket[len(c.Bucket)-12:] }, atlas.CodeSourceMisused},
		"wrong secret":    {func(c *s3.Config) { c.SecretKey += "x" }, atlas.CodeSourceMisused},
		"unknown access":  {func(c *s3.Config) { c.AccessKey = "nobody" }, atlas.CodeSourceMisused},
		"nobody listens":  {func(c *s3.Config) { c.Endpoint = dead.URL }, atlas.CodeSourceUnavailable},
		"slow down":       {answer(http.StatusServiceUnavailable, `<Error><Code>SlowDown</Code><Message>`+sourcetest.Marker+`</Message></Error>`), atlas.CodeSourceUnavailable},
		"a redirect":      {answer(http.StatusTemporaryRedirect, ""), atlas.CodeSourceMisused},
		"another request": {answer(http.StatusBadRequest, `<Error><Code>Weird</Code></Error>`), atlas.CodeSourceError},
	} {
		src := with(tc.edit)
		_, err := src.List(t.Context(), "acme", "", 0)
		if atlas.CodeOf(err) != tc.want {
			t.Errorf("%s: got %v, want %s", name, err, tc.want)
		}
		if e := atlas.ErrorOf(err); strings.Contains(e.Hint, sourcetest.Marker) || e.Err == nil {
			t.Errorf("%s: hint %q, cause %v", name, e.Hint, e.Err)
		}
		if err := src.Ping(t.Context()); err == nil {
			t.Errorf("%s: Ping is content", name)
		}
	}
}

// Migrating makes the bucket, once, and says when it cannot.
func TestMigrate(t *testing.T) {
	cfg, admin := server(t)
	made := bucket(t, cfg, admin) // for its name and its removal
	if _, err := admin.DeleteBucket(t.Context(), &awss3.DeleteBucketInput{Bucket: &made.Bucket}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := made.Migrate(t.Context(), source.Deps{Name: "files"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := open(t, made).Ping(t.Context()); err != nil {
		t.Error(err)
	}
	made.SecretKey += "x"
	if err := made.Migrate(t.Context(), source.Deps{Name: "files"}); atlas.CodeOf(err) != atlas.CodeSourceMisused {
		t.Errorf("got %v", err)
	}
}

// A body that breaks off is no object.
func TestHalfAnObject(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Range", "bytes 0-9/10")
		w.WriteHeader(http.StatusPartialContent)
		_, _ = io.WriteString(w, "half")
	}))
	defer srv.Close()
	o, err := open(t, s3.Config{Bucket: "bucket", Endpoint: srv.URL, AccessKey: "a", SecretKey: "s"}).Get(t.Context(), "acme", "k", 0)
	if atlas.CodeOf(err) != atlas.CodeSourceUnavailable || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %q, %v", o.Content, err)
	}
}

func TestValidate(t *testing.T) {
	err := (&s3.Config{
		Bucket: "Bad_Bucket", Endpoint: "s3.example", AccessKey: "a", Prefix: "x{tenant}/", MaxObjectBytes: -1, MaxList: 20_000,
		Links: s3.Links{TTL: time.Second, Endpoint: "https://user@host"},
	}).Validate()
	if err == nil || strings.Count(err.Error(), "\n") != 7 {
		t.Errorf("got %v", err)
	}
	for _, prefix := range []string{"tenants/", "{tenant}", "/{tenant}/", "{tenant}/../", "{tenant}/{tenant}/", "a/{tenant}b/", "{other}/{tenant}/", "{tenant}//"} {
		if (&s3.Config{Bucket: "bucket", Prefix: prefix}).Validate() == nil {
			t.Errorf("prefix %q is accepted", prefix)
		}
	}
	for _, prefix := range []string{"", "{tenant}/", "a/{tenant}/b/"} {
		if err := (&s3.Config{Bucket: "bucket", Prefix: prefix}).Validate(); err != nil {
			t.Errorf("prefix %q: %v", prefix, err)
		}
	}
}
