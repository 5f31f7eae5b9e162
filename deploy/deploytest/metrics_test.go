package deploytest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/atlas-mcp/atlas/internal/app"
	"github.com/atlas-mcp/atlas/internal/testenv"
	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

// An expression is one of a rule or of a panel.
type expression struct{ where, text string }

func rules(t *testing.T) []expression {
	t.Helper()
	var file struct {
		Groups []struct {
			Rules []struct {
				Record, Alert, Expr string
				Labels              map[string]string
				Annotations         map[string]string
			}
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, "deploy/prometheus/rules.yml")), &file); err != nil {
		t.Fatal(err)
	}
	tests := read(t, "deploy/prometheus/rules_test.yml")
	var all []expression
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			all = append(all, expression{r.Record + r.Alert, r.Expr})
			if r.Alert == "" {
				continue
			}
			if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
				t.Errorf("%s lacks severity, summary or description", r.Alert)
			}
			if n := strings.Count(tests, "alertname: "+r.Alert+"\n"); n == 0 {
				t.Errorf("no test lets %s fire", r.Alert)
			}
			if !strings.Contains(tests, "alertname: "+r.Alert+", exp_alerts: []") {
				t.Errorf("no test keeps %s silent", r.Alert)
			}
		}
	}
	if len(all) < 10 {
		t.Fatalf("there are %d rules", len(all))
	}
	return all
}

type target struct{ Expr string }

type datasource struct{ Type, UID string }

type dashboard struct {
	UID, Title string
	Panels     []struct {
		ID          int
		Type, Title string
		Datasource  *datasource
		GridPos     struct{ H, W, X, Y int }
		Targets     []target
	}
	Templating struct {
		List []struct {
			Name       string
			Datasource datasource
			Query      struct{ Query string }
		}
	}
}

func dashboards(t *testing.T) map[string]dashboard {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "deploy", "grafana", "dashboards", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	all := map[string]dashboard{}
	for _, f := range files {
		var d dashboard
		jsonFile(t, "deploy/grafana/dashboards/"+filepath.Base(f), &d)
		all[filepath.Base(f)] = d
	}
	return all
}

// A name with what is selected of it, but for strings: those are taken out first.
var (
	quoted   = regexp.MustCompile(`"[^"]*"`)
	selector = regexp.MustCompile(`\b((?:atlas|process|go)_[a-z0-9_]+)(\{[^}]*\})?`)
	grouping = regexp.MustCompile(`\bby \(([^)]*)\)`)
	label    = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`)
)

// faults compares the names and labels of an expression with those that a server exposes.
func faults(e expression, exposed map[string][]string) []string {
	var out []string
	wrong := func(format string, args ...any) { out = append(out, e.where+": "+fmt.Sprintf(format, args...)) }
	text := quoted.ReplaceAllString(e.text, `""`)
	// What Prometheus adds, and what the buckets of a histogram have.
	labels := []string{"instance", "job", "le"}
	for _, m := range selector.FindAllStringSubmatch(text, -1) {
		own, known := exposed[m[1]]
		if !known {
			wrong("no server exposes %s", m[1])
			continue
		}
		labels = append(labels, own...)
		for _, l := range label.FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(append(slices.Clone(own), "instance", "job", "le"), l[1]) {
				wrong("%s has no label %s", m[1], l[1])
			}
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(text, -1) {
		for name := range strings.SplitSeq(m[1], ",") {
			if name = strings.TrimSpace(name); !slices.Contains(labels, name) {
				wrong("nothing has the label %s", name)
			}
		}
	}
	return out
}

func TestMetricsExist(t *testing.T) {
	exposed := scrapeAll(t)
	all := rules(t)
	for file, d := range dashboards(t) {
		n := 0
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				all, n = append(all, expression{file + ": " + p.Title, target.Expr}), n+1
			}
		}
		for _, v := range d.Templating.List {
			m := regexp.MustCompile(`^label_values\(([a-z_]+), ([a-z_]+)\)$`).FindStringSubmatch(v.Query.Query)
			if m == nil {
				t.Errorf("%s: variable %s has the query %q", file, v.Name, v.Query.Query)
				continue
			}
			all = append(all, expression{file + ": $" + v.Name, "count by (" + m[2] + ") (" + m[1] + ")"})
		}
		if n < 10 {
			t.Errorf("%s shows %d expressions", file, n)
		}
	}
	for _, e := range all {
		if !strings.Contains(e.text, "up{") && !strings.Contains(e.text, "atlas:") && !selector.MatchString(e.text) {
			t.Errorf("%s looks at no metric: %s", e.where, e.text)
		}
		for _, f := range faults(e, exposed) {
			t.Error(f)
		}
	}
	// The other way round: what a server tells is shown, or watched.
	shown := ""
	for _, e := range all {
		shown += e.text + "\n"
	}
	for name := range exposed {
		base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		if strings.HasPrefix(name, "atlas_") && !strings.Contains(shown, base) && name != "atlas_tool_lists_total" {
			t.Errorf("%s is neither on a dashboard nor in a rule", name)
		}
	}
}

// The comparison itself finds what is wrong.
func TestFaults(t *testing.T) {
	exposed := map[string][]string{"atlas_a_total": {"tool"}, "atlas_b": nil}
	for expr, want := range map[string][]string{
		`sum by (tool) (rate(atlas_a_total{tool=~"atlas_x"}[5m]))`: nil,
		`rate(atlas_c_total[5m])`:                                  {"x: no server exposes atlas_c_total"},
		`atlas_b{tool="x"}`:                                        {"x: atlas_b has no label tool"},
		`sum by (code) (atlas_a_total)`:                            {"x: nothing has the label code"},
		`sum by (instance) (atlas_b{job="x"}) / atlas_d`:           {"x: no server exposes atlas_d"},
	} {
		if got := faults(expression{"x", expr}, exposed); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", expr, got, want)
		}
	}
}

func TestDashboards(t *testing.T) {
	var sources struct {
		Datasources []struct{ UID, Type string }
	}
	if err := yaml.Unmarshal([]byte(read(t, "deploy/grafana/provisioning/datasources/datasources.yaml")), &sources); err != nil {
		t.Fatal(err)
	}
	provisioned := func(d datasource) bool {
		return slices.ContainsFunc(sources.Datasources, func(s struct{ UID, Type string }) bool { return s.UID == d.UID && s.Type == d.Type })
	}
	for file, d := range dashboards(t) {
		if d.UID == "" || d.Title == "" {
			t.Errorf("%s has no uid or title", file)
		}
		ids, cells := map[int]bool{}, map[[2]int]string{}
		for _, p := range d.Panels {
			if ids[p.ID] {
				t.Errorf("%s: two panels have the id %d", file, p.ID)
			}
			ids[p.ID] = true
			if p.Type != "row" && (p.Datasource == nil || !provisioned(*p.Datasource) || len(p.Targets) == 0) {
				t.Errorf("%s: %s asks no datasource that is provisioned", file, p.Title)
			}
			if g := p.GridPos; g.X < 0 || g.X+g.W > 24 || g.W < 1 || g.H < 1 {
				t.Errorf("%s: %s stands beside the grid", file, p.Title)
			}
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if other := cells[[2]int{x, y}]; other != "" {
						t.Fatalf("%s: %s covers %s", file, p.Title, other)
					}
					cells[[2]int{x, y}] = p.Title
				}
			}
		}
		for _, v := range d.Templating.List {
			if !provisioned(v.Datasource) {
				t.Errorf("%s: variable %s asks no datasource that is provisioned", file, v.Name)
			}
		}
	}
}

// scrapeAll returns the names, each with its labels, that servers expose on which everything happened that
// is counted: one on a Redis with the rights that compose gives, one whose Redis is away.
func scrapeAll(t *testing.T) map[string][]string {
	t.Helper()
	redis := testenv.Start(t, testenv.Redis, servers.Options{Args: redisUser(t)})
	all := map[string][]string{}
	for name, url := range map[string]string{
		"with Redis": strings.Replace(redis.URL(), "redis://", "redis://atlas:secret@", 1), "without": "redis://127.0.0.1:1",
	} {
		metrics := scrape(t, url)
		if up := strings.Contains(metrics, "\natlas_limiter_store_up 1\n"); up != (name == "with Redis") {
			t.Errorf("%s: atlas_limiter_store_up 1 is %v", name, up)
		}
		if name == "with Redis" && strings.Contains(metrics, "atlas_limiter_fallback_total{") {
			t.Error("the limits could not be held with the rights that compose gives to Atlas's user of Redis")
		}
		line := regexp.MustCompile(`(?m)^([a-z_0-9]+)(?:\{(.*)\})? \S+$`)
		for _, m := range line.FindAllStringSubmatch(metrics, -1) {
			labels := []string{}
			for _, l := range regexp.MustCompile(`([a-z_]+)="`).FindAllStringSubmatch(m[2], -1) {
				labels = append(labels, l[1])
			}
			all[m[1]] = labels
		}
	}
	return all
}

// redisUser returns the arguments by which Redis has the user that deploy/compose/redis.sh gives it.
func redisUser(t *testing.T) []string {
	t.Helper()
	for line := range strings.Lines(read(t, "deploy/compose/redis.sh")) {
		if rule, ok := strings.CutPrefix(strings.TrimSpace(line), "user atlas "); ok {
			return append([]string{"--user", "atlas"}, strings.Fields(strings.ReplaceAll(rule, "$REDIS_PASSWORD", "secret"))...)
		}
	}
	t.Fatal("redis.sh makes no user")
	return nil
}

// scrape opens an app on the Redis, lets all happen that is counted, and returns its metrics.
func scrape(t *testing.T, redisURL string) string {
	t.Helper()
	a, err := app.Open(t.Context(), app.Options{
		DataDir: t.TempDir(), Version: "test", LogTo: io.Discard, LogLevel: "error",
		Env:     func(string) (string, bool) { return "", false },
		Overlay: fmt.Appendf(nil, "redis: {url: %q}\nratelimit: {tool: {rate: 3, per: 1h, burst: 3}}\nisolation: {interval: 1s}\n", redisURL),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	// What runs beside the server counts, too.
	ctx, stop := context.WithCancel(t.Context())
	ln, err := app.ListenLoopback(ctx)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, ln) }()
	defer func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	server := "http://" + ln.Addr().String()

	token := func(role string) string {
		s, err := a.Token(app.TokenRequest{Tenant: "acme", Subject: "prober", Roles: []string{role}, TTL: 60e9})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	support, analyst := token("support_copilot"), token("analyst")
	call := func(bearer, tool string, args map[string]any) {
		body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": map[string]any{"name": tool, "arguments": args}})
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server+"/mcp", strings.NewReader(string(body)))
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range map[string]string{"Content-Type": "application/json", "Accept": "application/json, text/event-stream", "Authorization": "Bearer " + bearer} {
			req.Header.Set(k, v)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
	}
	for range 5 { // answered, from the cache, limited
		call(support, "crm_order", map[string]any{"order_id": "o_9002"})
	}
	call(support, "crm_order", map[string]any{"order_id": 7})
	call(analyst, "crm_query", map[string]any{"sql": "SELECT dob FROM customers"})
	call(support, "crm_query", map[string]any{"sql": "SELECT dob FROM customers"})
	call("nonsense", "crm_order", nil)
	_ = a.Reload(t.Context()) // the other replicas are told of it
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/metrics", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatal(res.Status, err)
		}
		if strings.Contains(string(text), "\natlas_isolation_checks_total{") { // the first round has begun
			return string(text)
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatal("the server does not check the isolation of tenants")
		}
	}
}

// Spans go to the collector that the compose file names, by the path on which a collector takes them.
func TestSpansArrive(t *testing.T) {
	endpoint := compose(t, composeFile).Services["atlas"].Environment["ATLAS_OTEL_ENDPOINT"]
	_, port, _ := strings.Cut(strings.TrimPrefix(endpoint, "http://"), ":")
	port, path, _ := strings.Cut(port, "/")
	if !strings.HasPrefix(endpoint, "http://otel-collector:") || !strings.Contains(read(t, "deploy/otel/collector.yaml"), `http: {endpoint: "0.0.0.0:`+port+`"}`) {
		t.Fatalf("%q is not where the collector listens", endpoint)
	}
	arrived := make(chan string, 16)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case arrived <- r.URL.Path:
		default: // one is enough
		}
	}))
	t.Cleanup(collector.Close)
	a, err := app.Open(t.Context(), app.Options{
		DataDir: t.TempDir(), Version: "test", LogTo: io.Discard, LogLevel: "error",
		Env: func(name string) (string, bool) {
			return collector.URL + "/" + path, name == "ATLAS_OTEL_ENDPOINT"
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	who, ok := a.Persona(app.PersonaCopilot)
	if !ok {
		t.Fatal("there is no such persona")
	}
	_, err = a.Handle(t.Context(), a.NewCall(who, "crm_order", []byte(`{"order_id":"o_9002"}`)))
	if err := errors.Join(err, a.Close()); err != nil { // closing sends what is left
		t.Fatal(err)
	}
	select {
	case got := <-arrived:
		if got != "/v1/traces" {
			t.Errorf("spans are sent to %s, a collector takes them at /v1/traces", got)
		}
	default:
		t.Error("no spans arrived")
	}
}
