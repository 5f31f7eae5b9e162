package main

import (
	"encoding/json"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestJudge(t *testing.T) {
	failed := func(suite, scenario, check string) result {
		return result{Suite: suite, Scenario: scenario, Failed: 1, Problems: []problem{{Check: check, Status: "FAILURE"}}}
	}
	for name, c := range map[string]struct {
		results []result
		known   baseline
		want    verdict
		ok      bool
	}{
		"all passed":       {[]result{{Suite: "0.1.16", Scenario: "ping", Passed: 1}}, nil, verdict{}, true},
		"a warning":        {[]result{{Suite: "0.1.16", Scenario: "ping", Warnings: 1, Problems: []problem{{Check: "x", Status: "WARNING"}}}}, nil, verdict{}, true},
		"checked nothing":  {[]result{{Suite: "0.1.16", Scenario: "ping"}}, nil, verdict{Unexpected: []string{"0.1.16 ping: checked nothing"}}, false},
		"unexpected":       {[]result{failed("0.1.16", "ping", "x")}, nil, verdict{Unexpected: []string{"0.1.16 ping:x"}}, false},
		"scenario known":   {[]result{failed("0.1.16", "ping", "x")}, baseline{"0.1.16": {"ping"}}, verdict{Expected: 1}, true},
		"check known":      {[]result{failed("0.1.16", "ping", "x")}, baseline{"0.1.16": {"ping:x"}}, verdict{Expected: 1}, true},
		"other check":      {[]result{failed("0.1.16", "ping", "x")}, baseline{"0.1.16": {"ping:y"}}, verdict{Unexpected: []string{"0.1.16 ping:x"}, Stale: []string{"0.1.16 ping:y"}}, false},
		"other suite":      {[]result{failed("0.1.16", "ping", "x")}, baseline{"2025-11-25": {"ping"}}, verdict{Unexpected: []string{"0.1.16 ping:x"}}, false},
		"passes meanwhile": {[]result{{Suite: "0.1.16", Scenario: "ping", Passed: 1}}, baseline{"0.1.16": {"ping"}}, verdict{Stale: []string{"0.1.16 ping"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got := judge(c.results, []suite{{name: "0.1.16"}}, c.known, "")
			want := verdict{Unexpected: append([]string{}, c.want.Unexpected...), Stale: append([]string{}, c.want.Stale...), Expected: c.want.Expected}
			if diff := cmp.Diff(want, got); diff != "" || got.ok() != c.ok {
				t.Errorf("ok %v, want %v (-want +got):\n%s", got.ok(), c.ok, diff)
			}
		})
	}
}

// A check that needs a test tool is not held against the product, but is against the fixtures.
func TestCountUntestable(t *testing.T) {
	var checks []check
	const found = `[{"id":"a","status":"SUCCESS"},{"id":"b","status":"FAILURE","errorMessage":"no","details":{"untestable":true}},
		{"id":"c","status":"FAILURE"},{"id":"d","status":"WARNING"},{"id":"e","status":"SKIPPED"},{"id":"f","status":"INFO"}]`
	if err := json.Unmarshal([]byte(found), &checks); err != nil {
		t.Fatal(err)
	}
	for profile, want := range map[string][4]int{product: {1, 1, 1, 2}, fixture: {1, 2, 1, 1}} {
		r := suite{profile: profile}.count("x", checks, time.Second)
		if got := [4]int{r.Passed, r.Failed, r.Warnings, r.Skipped}; got != want || len(r.Problems) != want[1]+want[2] {
			t.Errorf("%s: %v, %d problems; want %v", profile, got, len(r.Problems), want)
		}
	}
}

func TestBaselineNamesSuites(t *testing.T) {
	if _, err := loadBaseline(); err != nil {
		t.Error(err)
	}
	if _, err := choose("2026-07-28,nonsense"); err == nil || !strings.Contains(err.Error(), "0.1.16") {
		t.Errorf("a wrong name: %v", err)
	}
}

func TestSplice(t *testing.T) {
	got, err := splice([]byte("before\n"+beginMark+"\nold\n"+endMark+"\nafter\n"), "new\n")
	if want := "before\n" + beginMark + "\nnew\n" + endMark + "\nafter\n"; err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
	for _, text := range []string{"", beginMark, endMark + beginMark} {
		if _, err := splice([]byte(text), "new"); err == nil {
			t.Errorf("no error for %q", text)
		}
	}
}

func TestReadForm(t *testing.T) {
	const page = `<form method="post" action="/logout"><input type="hidden" name="token" value="1"></form>
		<form method="post" action="/login?a=1&amp;b=2" class="people"><input type="hidden" name="token" value="&quot;2&quot;"><button name="persona" value="ann"></form>`
	f, err := readForm([]byte(page), "persona")
	if err != nil || f.action != "/login?a=1&b=2" || f.values.Get("token") != `"2"` {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := readForm([]byte(page), "decision"); err == nil {
		t.Error("no error for a button that is not there")
	}
}

// The fixtures must fit the production pipeline: schemas, policy and registry take them. The token goes
// to the endpoint and nowhere else.
func TestFixtureProfile(t *testing.T) {
	dir := t.TempDir()
	s, err := open(t.Context(), fixture, filepath.Join(dir, "server"), filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	list := func() (names []string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url, strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{`+
			`"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{
			"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"},
			"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/list"},
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close() //nolint:errcheck // read to the end
		body, err := io.ReadAll(resp.Body)
		var msg struct {
			Result struct {
				Tools []struct{ Name string }
			}
		}
		if err == nil {
			err = json.Unmarshal(body, &msg)
		}
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%d %s: %v", resp.StatusCode, body, err)
		}
		for _, tool := range msg.Result.Tools {
			names = append(names, tool.Name)
		}
		return names
	}
	before := list()
	for _, want := range []string{"test_simple_text", "json_schema_2020_12_tool", "test_x_mcp_header", "greet", "test_input_required_result_elicitation", "test_generation_1"} {
		if !slices.Contains(before, want) {
			t.Errorf("%s is not in %v", want, before)
		}
	}
	if err := s.app.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := list(); slices.Contains(after, "test_generation_1") || !slices.Contains(after, "test_generation_2") {
		t.Errorf("after a reload: %v", after)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.TrimSuffix(s.url, "/mcp")+"/admin/v1/approvals", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close() //nolint:errcheck // only its status matters
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("the proxy gave its token to another path: %d", resp.StatusCode)
	}
}
