package elasticsearch_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/source/elasticsearch"
	"github.com/atlas-mcp/atlas/internal/source/sourcetest"
)

func TestValidate(t *testing.T) {
	const u = "https://search.example.com:9200"
	if err := (&elasticsearch.Config{URL: u, Index: "tickets", Username: "u", Password: "p"}).Validate(); err != nil {
		t.Error(err)
	}
	for _, tc := range []struct {
		cfg  elasticsearch.Config
		want string
	}{
		{elasticsearch.Config{Index: "a"}, "give url or urls"},
		{elasticsearch.Config{URL: u, URLs: []string{u}, Index: "a"}, "not both"},
		{elasticsearch.Config{URL: "ftp://x", Index: "a"}, "must be a URL"},
		{elasticsearch.Config{URL: "https://u:secretword@x", Index: "a"}, "without user"},
		{elasticsearch.Config{URL: "https://x?a=b", Index: "a"}, "without user, query"},
		{elasticsearch.Config{URL: "http://search:9200", Index: "a", APIKey: "k"}, "plain HTTP"},
		{elasticsearch.Config{URL: "http://127.0.0.2:9200", Index: "a", APIKey: "k"}, ""},
		{elasticsearch.Config{URL: "http://search:9200", Index: "a", APIKey: "k", AllowHTTP: true}, ""},
		{elasticsearch.Config{URL: u}, "index: must have"},
		{elasticsearch.Config{URL: u, Index: "a*"}, "index: has '*'"},
		{elasticsearch.Config{URL: u, Index: "a,b"}, "index: has ','"},
		{elasticsearch.Config{URL: u, Index: "<a-{now/d}>"}, "index: has '<'"},
		{elasticsearch.Config{URL: u, Index: "other:a"}, "index: has ':'"},
		{elasticsearch.Config{URL: u, Index: "_all"}, "index: has '_'"},
		{elasticsearch.Config{URL: u, Index: ".kibana"}, "index: has '.'"},
		{elasticsearch.Config{URL: u, Index: "-a"}, "index: has '-'"},
		{elasticsearch.Config{URL: u, Index: "a/b"}, "index: has '/'"},
		{elasticsearch.Config{URL: u, Index: "a%2cb"}, "index: has '%'"},
		{elasticsearch.Config{URL: u, Index: "A"}, "index: has 'A'"},
		{elasticsearch.Config{URL: u, Index: strings.Repeat("a", 129)}, "index: must have"},
		{elasticsearch.Config{URL: u, Index: "a", Isolation: "none"}, "isolation"},
		{elasticsearch.Config{URL: u, Index: "a", RouteByTenant: true}, "route_by_tenant"},
		{elasticsearch.Config{URL: u, Index: "a", SharedStatistics: true}, "shared_statistics"},
		{elasticsearch.Config{URL: u, Index: "a", LoadAPIKey: "k", LoadUsername: "u", LoadPassword: "p"}, "load_api_key, load_username"},
		{elasticsearch.Config{URL: u, Index: "a", LoadUsername: "u"}, "load_username and load_password: give both"},
		{elasticsearch.Config{URL: "http://search:9200", Index: "a", LoadAPIKey: "k"}, "plain HTTP"},
		{elasticsearch.Config{URL: u, Index: "a", Shards: -1}, "shards"},
		{elasticsearch.Config{URL: u, Index: "a", Attributes: map[string]string{"title": "keyword"}}, `"title"`},
		{elasticsearch.Config{URL: u, Index: "a", Attributes: map[string]string{"a.b": "keyword"}}, `"a.b"`},
		{elasticsearch.Config{URL: u, Index: "a", Attributes: map[string]string{"a": "text"}}, "attributes.a"},
		{elasticsearch.Config{URL: u, Index: "a", APIKey: "k", Bearer: "b"}, "give one of them"},
		{elasticsearch.Config{URL: u, Index: "a", Username: "u"}, "give both"},
		{elasticsearch.Config{URL: u, Index: "a", APIKey: "k\n"}, "line break"},
		{elasticsearch.Config{URL: u, Index: "a", CertFile: "x"}, "cert_file and key_file"},
		{elasticsearch.Config{URL: u, Index: "a", TitleWeight: -1}, "title_weight"},
		{elasticsearch.Config{URL: u, Index: "a", MaxSize: 1001}, "max_size"},
		{elasticsearch.Config{URL: u, Index: "a", MaxWords: -1}, "max_words"},
		{elasticsearch.Config{URL: u, Index: "a", MaxDocumentBytes: 1 << 20}, "max_document_bytes"},
		{elasticsearch.Config{URL: u, Index: "a", MaxAnswerBytes: -1}, "max_answer_bytes"},
		{elasticsearch.Config{URL: u, Index: "a", MaxConns: -1}, "max_conns"},
		{elasticsearch.Config{URL: u, Index: "a", Timeout: -1}, "timeout"},
		{elasticsearch.Config{URL: u, Index: "a", ConnectTimeout: -1}, "connect_timeout"},
	} {
		err := tc.cfg.Validate()
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%+v: %v", tc.cfg, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%+v: got %v, want %q", tc.cfg, err, tc.want)
		case err != nil && strings.Contains(err.Error(), "secretword"):
			t.Errorf("a password is shown: %v", err)
		}
	}
}

// An index that does not keep tenants apart is refused, and the refusal holds what mends it: the
// index that it describes is accepted.
func TestMisfits(t *testing.T) {
	s := real(t)
	shared := elasticsearch.Config{URL: s.url, Isolation: elasticsearch.IsolationFilter, Attributes: map[string]string{"year": "double"}}
	open := func(cfg elasticsearch.Config) error {
		src, err := cfg.Open(t.Context(), source.Deps{Name: "tickets"})
		if err == nil {
			err = src.Close()
		}
		return err
	}
	// The mapping that fits, to be spoilt.
	shared.Index = s.name(t)
	if err := open(shared); atlas.CodeOf(err) != atlas.CodeSourceMisused || !strings.Contains(err.Error(), "atlas migrate") {
		t.Errorf("a missing index: %v", err)
	}
	if err := shared.Migrate(t.Context(), source.Deps{}); err != nil {
		t.Fatal(err)
	}
	var got map[string]json.RawMessage
	if err := json.Unmarshal([]byte(s.must(t, "GET", "/"+shared.Index, "")), &got); err != nil {
		t.Fatal(err)
	}
	var made struct {
		Mappings json.RawMessage
		Settings struct {
			Index struct{ Analysis json.RawMessage }
		}
	}
	if err := json.Unmarshal(got[shared.Index], &made); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ old, now, want string }{
		"fits":                {`"strict"`, `"false"`, ""},
		"tenant is a text":    {`"tenant_id":{"type":"keyword"}`, `"tenant_id":{"type":"text"}`, "tenant_id is text, must be keyword"},
		"tenant is cut":       {`"tenant_id":{"type":"keyword"}`, `"tenant_id":{"type":"keyword","ignore_above":10}`, "ignore_above 10"},
		"tenant is folded":    {`"tenant_id":{"type":"keyword"}`, `"tenant_id":{"type":"keyword","normalizer":"lowercase"}`, "normalizer"},
		"tenant not indexed":  {`"tenant_id":{"type":"keyword"}`, `"tenant_id":{"type":"keyword","index":false}`, "not indexed"},
		"tenant not counted":  {`"tenant_id":{"type":"keyword"}`, `"tenant_id":{"type":"keyword","doc_values":false}`, "doc_values"},
		"tenant is elsewhere": {`"tenant_id":{"type":"keyword"}`, `"t":{"type":"keyword"},"tenant_id":{"type":"alias","path":"t"}`, "tenant_id is alias"},
		"no tenant":           {`"tenant_id":{"type":"keyword"}`, `"tenant":{"type":"keyword"}`, "tenant_id is missing"},
		"statistics":          {`,"similarity":"boolean"`, ``, "statistics of all tenants"},
		"any field":           {`"dynamic":"strict"`, `"dynamic":"true"`, "dynamic must be"},
		"no source":           {`"dynamic":"strict"`, `"dynamic":"strict","_source":{"enabled":false}`, "_source is not kept"},
		"source without":      {`"dynamic":"strict"`, `"dynamic":"strict","_source":{"excludes":["tenant_id"]}`, "_source is not kept"},
		"another type":        {`"year":{"type":"double"}`, `"year":{"type":"keyword"}`, "field.year is keyword, must be double"},
	} {
		cfg := shared
		cfg.Index = s.name(t)
		mappings := strings.Replace(string(made.Mappings), tc.old, tc.now, 1)
		if mappings == string(made.Mappings) {
			t.Fatalf("%s: no %s in %s", name, tc.old, mappings)
		}
		s.must(t, "PUT", "/"+cfg.Index, `{"settings":{"analysis":`+string(made.Settings.Index.Analysis)+`},"mappings":`+mappings+`}`)
		err := open(cfg)
		if tc.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if atlas.CodeOf(err) != atlas.CodeSourceMisused || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
			continue
		}
		if told := asJSON(t, atlas.ErrorOf(err).Failure("r")); strings.Contains(told, sourcetest.Marker) || strings.Contains(told, "tenant_id") {
			t.Errorf("%s: callers are told %s", name, told)
		}
		_, remedy, _ := strings.Cut(err.Error(), "`index` to it: ")
		cfg.Index = s.name(t)
		s.must(t, "PUT", "/"+cfg.Index, remedy)
		if err := open(cfg); err != nil {
			t.Errorf("%s: the remedy does not mend it: %v", name, err)
		}
	}
	routed := shared
	routed.RouteByTenant = true
	if err := open(routed); err == nil || !strings.Contains(err.Error(), "_routing") {
		t.Errorf("an index without routing: %v", err)
	}
}

// With isolation by index, a tenant's name that leads elsewhere is refused at the first call.
func TestMisfitsOfOneTenant(t *testing.T) {
	s := real(t)
	x, _ := company(t, s, modes["index"])
	s.must(t, "PUT", "/"+x.Name(sourcetest.A)+"/_alias/"+x.Name("evil"), "")
	s.must(t, "PUT", "/"+x.Name("loose"), `{"mappings":{"properties":{"tenant_id":{"type":"text"}}}}`)
	for _, tenant := range []atlas.TenantID{"evil", "loose"} {
		if hits, err := x.Search(t.Context(), tenant, source.Search{}); atlas.CodeOf(err) != atlas.CodeSourceMisused {
			t.Errorf("%s: got %v, %v", tenant, hits, err)
		}
		if err := x.Load(t.Context(), tenant, source.Data{Documents: []source.Document{{ID: "x"}}}); atlas.CodeOf(err) != atlas.CodeSourceMisused {
			t.Errorf("%s: loaded: %v", tenant, err)
		}
	}
	if _, err := x.Search(t.Context(), sourcetest.A, source.Search{}); err != nil {
		t.Error(err)
	}
	// An index that is removed under us is one that holds nothing, and can be filled again.
	s.must(t, "DELETE", "/"+x.Name(sourcetest.A), "")
	if hits, err := x.Search(t.Context(), sourcetest.A, source.Search{}); err != nil || len(hits.Hits) != 0 || hits.Total != 0 {
		t.Errorf("removed: %v, %v", hits, err)
	}
	if err := x.Load(t.Context(), sourcetest.A, sourcetest.Company()[sourcetest.A]); err != nil {
		t.Error(err)
	}
	if hits, err := x.Search(t.Context(), sourcetest.A, source.Search{}); err != nil || len(hits.Hits) != 5 {
		t.Errorf("filled again: %v, %v", hits, err)
	}
}

// All is checked before anything is sent.
func TestLoadRefuses(t *testing.T) {
	s := real(t)
	mode := modes["index"]
	mode.URL, mode.Index, mode.MaxDocumentBytes = s.url, s.name(t), 100
	mode.Attributes = map[string]string{"year": "long", "when": "date", "kind": "keyword", "public": "boolean"}
	x := open(t, mode)
	for name, tc := range map[string]struct {
		doc  source.Document
		code atlas.Code
	}{
		"no id":         {source.Document{Body: "x"}, atlas.CodeInvalidArguments},
		"too large":     {source.Document{ID: "x", Body: strings.Repeat("x", 101)}, atlas.CodeTooLarge},
		"bad attribute": {source.Document{ID: "x", Attrs: map[string]any{"a": []string{"b"}}}, atlas.CodeInvalidArguments},
		"id":            {source.Document{ID: "x", Attrs: map[string]any{"id": "b"}}, atlas.CodeInvalidArguments},
		"no long":       {source.Document{ID: "x", Attrs: map[string]any{"year": 1.5}}, atlas.CodeInvalidArguments},
		"no date":       {source.Document{ID: "x", Attrs: map[string]any{"when": "soon"}}, atlas.CodeInvalidArguments},
		"no keyword":    {source.Document{ID: "x", Attrs: map[string]any{"kind": 1}}, atlas.CodeInvalidArguments},
		"no boolean":    {source.Document{ID: "x", Attrs: map[string]any{"public": "true"}}, atlas.CodeInvalidArguments},
	} {
		good := source.Document{ID: "good", Body: "good"}
		if err := x.Load(t.Context(), "acme", source.Data{Documents: []source.Document{good, tc.doc}}); atlas.CodeOf(err) != tc.code {
			t.Errorf("%s: got %v, want %s", name, err, tc.code)
		}
		if hits, err := x.Search(t.Context(), "acme", source.Search{}); err != nil || hits.Total > 0 {
			t.Errorf("%s: half of it was loaded: %+v, %v", name, hits, err)
		}
	}
	// Names and texts that an index could stumble on.
	odd := source.Document{ID: "odd", Body: strings.Repeat("x", 90), URL: strings.Repeat("u", 40_000), Attrs: map[string]any{
		"a": 1, "a.b": "c", "": "empty", "_id": "x", "tenant_id": "globex", "kind.x": true, "deep": strings.Repeat("y", 40_000), "created_at": "never",
	}}
	if err := x.Load(t.Context(), "acme", source.Data{Documents: []source.Document{odd}}); err != nil {
		t.Fatal(err)
	}
	for name, value := range odd.Attrs {
		hits, err := x.Search(t.Context(), "acme", source.Search{Filter: map[string]any{name: value}})
		if err != nil || hits.Total != 1 || asJSON(t, hits.Hits[0].Fields[name]) != asJSON(t, value) {
			t.Errorf("%q: got %d, %v", name, hits.Total, err)
		}
	}
}

// A batch is cut where it is large, and replaces what was there.
func TestBatches(t *testing.T) {
	s := real(t)
	mode := modes["index"]
	mode.URL, mode.Index = s.url, s.name(t)
	x := open(t, mode)
	var d source.Data
	for i := range 60 {
		d.Documents = append(d.Documents, source.Document{ID: strings.Repeat("i", i+1), Body: strings.Repeat("many words ", 15_000)})
	}
	for range 2 {
		if err := x.Load(t.Context(), "acme", d); err != nil {
			t.Fatal(err)
		}
		hits, err := x.Search(t.Context(), "acme", source.Search{Text: "word", Size: 1})
		if err != nil || hits.Total != 60 || len([]rune(hits.Hits[0].Snippet)) > 300 {
			t.Fatalf("got %d, %v", hits.Total, err)
		}
	}
}

// A cluster that is away at the start is looked at before it is first asked.
func TestAwayAtTheStart(t *testing.T) {
	s := real(t)
	ready, cfg := company(t, s, modes["filter"])
	m := between(t, s)
	var away atomic.Bool
	away.Store(true)
	m.request = func(_ *http.Request, body []byte) []byte {
		if away.Load() {
			panic(http.ErrAbortHandler)
		}
		return body
	}
	cfg.URL = m.URL
	x := open(t, cfg)
	if _, err := x.Search(t.Context(), sourcetest.A, source.Search{}); atlas.CodeOf(err) != atlas.CodeSourceUnavailable {
		t.Errorf("away: %v", err)
	}
	// An index that does not fit takes the name while it is away.
	s.must(t, "DELETE", "/"+ready.Name(sourcetest.A), "")
	s.must(t, "PUT", "/"+ready.Name(sourcetest.A), `{"mappings":{"properties":{"tenant_id":{"type":"text"}}}}`)
	away.Store(false)
	if err := x.Ping(t.Context()); atlas.CodeOf(err) != atlas.CodeSourceMisused || !strings.Contains(err.Error(), "tenant_id is text") {
		t.Errorf("back, and misfit: %v", err)
	}
	if _, err := x.Search(t.Context(), sourcetest.A, source.Search{}); atlas.CodeOf(err) != atlas.CodeSourceMisused {
		t.Errorf("back, and misfit: %v", err)
	}
	// Once it is mended, calls go through: no restart is needed.
	s.must(t, "DELETE", "/"+ready.Name(sourcetest.A), "")
	if err := cfg.Migrate(t.Context(), source.Deps{}); err != nil {
		t.Fatal(err)
	}
	if err := x.Ping(t.Context()); err != nil {
		t.Errorf("mended: %v", err)
	}
	if hits, err := x.Search(t.Context(), sourcetest.A, source.Search{}); err != nil || len(hits.Hits) != 0 {
		t.Errorf("mended: %v, %v", hits, err)
	}
	// And the other way round.
	s.must(t, "DELETE", "/"+ready.Name(sourcetest.A), "")
	for range 2 {
		if hits, err := x.Search(t.Context(), sourcetest.A, source.Search{}); atlas.CodeOf(err) != atlas.CodeSourceMisused {
			t.Errorf("removed: %v, %v", hits, err)
		}
	}
}

// Fields made by scripts, which hide the indexed ones of their name: a field of every mapping of
// Elasticsearch, which OpenSearch does not have.
func TestRuntimeFields(t *testing.T) {
	for _, section := range []string{"runtime", "derived"} {
		cfg := fake(t, func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			fits(rec, r)
			_, _ = w.Write([]byte(strings.Replace(rec.Body.String(), `"dynamic"`, `"`+section+`":{"tenant_id":{"type":"keyword"}},"dynamic"`, 1)))
		})
		if _, err := open(t, cfg).Search(t.Context(), "acme", source.Search{}); atlas.CodeOf(err) != atlas.CodeSourceMisused || !strings.Contains(err.Error(), "hidden by a runtime field") {
			t.Errorf("%s: %v", section, err)
		}
	}
}

// What is no search server at all.
func TestNotASearchServer(t *testing.T) {
	for name, body := range map[string]string{"a page": "<html>", "another API": `{"version":"1"}`, "no version": `{}`} {
		cfg := fake(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) })
		if _, err := cfg.Open(t.Context(), source.Deps{}); atlas.CodeOf(err) != atlas.CodeSourceMisused {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Credentials that may search, but not ask for the version.
	cfg := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		if !fits(w, r) {
			_, _ = w.Write([]byte(`{"hits":{"total":{"value":0},"hits":[]},"aggregations":{"_whose":{"sum_other_doc_count":0,"buckets":[]}}}`))
		}
	})
	if _, err := open(t, cfg).Search(t.Context(), "acme", source.Search{}); err != nil {
		t.Error(err)
	}
}

// Credentials go to the configured nodes, in their header, and redirects nowhere.
func TestCredentials(t *testing.T) {
	for name, tc := range map[string]struct {
		set  func(*elasticsearch.Config)
		want string
	}{
		"none":    {func(*elasticsearch.Config) {}, ""},
		"api key": {func(c *elasticsearch.Config) { c.APIKey = "abc=" }, "ApiKey abc="},
		"bearer":  {func(c *elasticsearch.Config) { c.Bearer = "tok" }, "Bearer tok"},
		"basic":   {func(c *elasticsearch.Config) { c.Username, c.Password = "u", "p:q" }, "Basic dTpwOnE="},
	} {
		seen := make(chan string, 8)
		cfg := fake(t, func(w http.ResponseWriter, r *http.Request) {
			seen <- r.Header.Get("Authorization")
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		})
		tc.set(&cfg)
		if _, err := cfg.Open(t.Context(), source.Deps{}); err == nil {
			t.Errorf("%s: a redirect was taken for an answer", name)
		}
		if got := <-seen; got != tc.want || len(seen) > 0 {
			t.Errorf("%s: got %q, want %q; %d more requests", name, got, tc.want, len(seen))
		}
	}
}

// Who may only read serves, who may write loads; and the server's logs can name the call.
func TestLoadCredentials(t *testing.T) {
	type seen struct{ method, auth, trace string }
	var requests []seen
	cfg := fake(t, func(w http.ResponseWriter, r *http.Request) {
		requests = append(requests, seen{r.Method + " " + r.URL.Path, r.Header.Get("Authorization"), r.Header.Get("Traceparent")})
		switch {
		case strings.HasSuffix(r.URL.Path, "/_mapping") && len(requests) < 3:
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"error":{"type":"index_not_found_exception"}}`))
		case strings.HasSuffix(r.URL.Path, "/_search"):
			_, _ = w.Write([]byte(`{"hits":{"hits":[]},"aggregations":{"_whose":{"sum_other_doc_count":0,"buckets":[]}}}`))
		case !fits(w, r):
			_, _ = w.Write([]byte(`{"errors":false}`))
		}
	})
	cfg.APIKey, cfg.LoadUsername, cfg.LoadPassword = "read", "u", "p:q"
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	src, err := cfg.Open(t.Context(), source.Deps{TraceParent: func(context.Context) string { return trace }})
	if err != nil {
		t.Fatal(err)
	}
	if err := src.(source.Loader).Load(t.Context(), "acme", source.Data{Documents: []source.Document{{ID: "x"}}}); err != nil {
		t.Error(err)
	}
	if _, err := src.(source.Searcher).Search(t.Context(), "acme", source.Search{}); err != nil {
		t.Error(err)
	}
	if err := src.Close(); err != nil {
		t.Error(err)
	}
	const read, write = "ApiKey read", "Basic dTpwOnE="
	index := "/" + cfg.Index + ".acme"
	want := []seen{
		{"GET /", read, trace},
		{"GET " + index + "/_mapping", read, trace},
		{"PUT " + index, write, trace},
		{"GET " + index + "/_mapping", read, trace},
		{"POST " + index + "/_bulk", write, trace},
		{"POST " + index + "/_search", read, trace},
	}
	if !slices.Equal(requests, want) {
		t.Errorf("got %v, want %v", requests, want)
	}
}

// Only the configured authority is trusted, and the client shows its certificate.
func TestTLS(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, der []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	certFile, keyFile := write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", keyDER)
	pool := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(leaf)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fits(w, r) }))
	s.TLS = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS12,
	}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	t.Cleanup(s.Close)
	cfg := elasticsearch.Config{URL: s.URL, Index: "a", CAFile: certFile, CertFile: certFile, KeyFile: keyFile}
	if err := open(t, cfg).Ping(t.Context()); err != nil {
		t.Error(err)
	}
	without := cfg
	without.CertFile, without.KeyFile = "", ""
	stranger := cfg
	stranger.CAFile = ""
	for name, c := range map[string]elasticsearch.Config{"without a certificate": without, "a stranger": stranger} {
		if err := open(t, c).Ping(t.Context()); atlas.CodeOf(err) != atlas.CodeSourceUnavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]elasticsearch.Config{
		"no such file": {URL: s.URL, Index: "a", CAFile: "/nonexistent"}, "no certificate": {URL: s.URL, Index: "a", CAFile: keyFile},
		"no key": {URL: s.URL, Index: "a", CertFile: certFile, KeyFile: certFile},
	} {
		if _, err := c.Open(t.Context(), source.Deps{}); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
}
