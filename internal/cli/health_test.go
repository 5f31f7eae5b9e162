package cli_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas/internal/app"
	"github.com/atlas-mcp/atlas/internal/cli"
)

// health runs the command with ATLAS_HTTP_LISTEN as given.
func health(t *testing.T, listen string, args ...string) (code int, out, errs string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code = cli.Program{
		Name: "atlas", Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr, Version: "test",
		Env: func(name string) (string, bool) { return listen, name == "ATLAS_HTTP_LISTEN" && listen != "" },
	}.Run(t.Context(), append([]string{"health"}, args...))
	return code, stdout.String(), stderr.String()
}

func TestHealthOfARealServer(t *testing.T) {
	a, err := app.Open(t.Context(), app.Options{
		DataDir: t.TempDir(), Version: "test", LogTo: io.Discard, LogLevel: "error",
		Env: func(string) (string, bool) { return "", false },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	srv := httptest.NewServer(a.HTTPHandler())
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(u.Host)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		listen string
		args   []string
		want   string
	}{
		{"", []string{srv.URL}, "ready\n"},
		{"", []string{srv.URL + "/"}, "ready\n"},
		{"", []string{"--live", srv.URL}, "ok\n"},
		{u.Host, nil, "ready\n"},
		{"0.0.0.0:" + port, nil, "ready\n"}, // as in a container
		{":" + port, nil, "ready\n"},
		{"127.0.0.1:1", []string{srv.URL}, "ready\n"}, // what is asked for goes first
	} {
		code, out, errs := health(t, tc.listen, tc.args...)
		if code != 0 || out != tc.want || errs != "" {
			t.Errorf("listen %q, %q: code %d, %q, %q", tc.listen, tc.args, code, out, errs)
		}
	}
}

func TestHealthSaysNo(t *testing.T) {
	for name, tc := range map[string]struct {
		status    int
		body      string
		out, errs string
	}{
		"not ready":             {503, `{"status":"not ready","failing":["sources","state"]}`, "not ready: sources, state\n", ""},
		"stopping":              {503, `{"status":"stopping"}`, "stopping\n", ""},
		"another server":        {200, "hello", "", "not as an Atlas does"},
		"JSON of another":       {200, `{"ok":true}`, "", "not as an Atlas does"},
		"more than it may say":  {200, `{"status":"` + strings.Repeat("x", 100<<10) + `"}`, "", "not as an Atlas does"},
		"a redirect":            {302, "", "", "not as an Atlas does"},
		"a success that is 404": {404, `{"status":"ready"}`, "ready\n", ""},
	} {
		asked := 0
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked++
			if r.URL.Path != "/readyz" {
				t.Errorf("%s: %s was asked for", name, r.URL.Path)
			}
			w.Header().Set("Location", "/readyz")
			w.WriteHeader(tc.status)
			_, _ = io.WriteString(w, tc.body)
		}))
		code, out, errs := health(t, "", srv.URL)
		srv.Close()
		if code != 1 || out != tc.out || !strings.Contains(errs, tc.errs) || asked != 1 {
			t.Errorf("%s: code %d, %q, %q, asked %d times", name, code, out, errs, asked)
		}
	}
}
