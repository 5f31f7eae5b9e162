package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/atlas-mcp/atlas/internal/app"
	"github.com/atlas-mcp/atlas/internal/cli"
	"github.com/atlas-mcp/atlas/internal/isolation"
)

// A server is attacked over the network with two tokens, after its operator has planted canaries.
func TestVerifyAgainst(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	env := map[string]string{}
	run := func(args ...string) (int, []byte) {
		var out bytes.Buffer
		code := cli.Program{
			Name: "atlas", Stdin: &bytes.Buffer{}, Stdout: &out, Stderr: t.Output(), ReadFile: os.ReadFile, Version: "test",
			Env:    func(name string) (string, bool) { v, ok := env[name]; return v, ok },
			Exists: func(string) bool { return false },
		}.Run(t.Context(), append([]string{"--data-dir", data, "--json"}, args...))
		return code, out.Bytes()
	}
	if code, out := run("verify", "isolation", "--plant"); code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	ln, err := app.ListenLoopback(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + ln.Addr().String()
	a, err := app.Open(t.Context(), app.Options{DataDir: data, PublicURL: url, LogTo: io.Discard, Overlay: []byte(`
ratelimit: {tenant: {rate: 1000000, burst: 100000}, tool: {rate: 1000000, burst: 100000}, caller: {rate: 1000000, burst: 100000}}
flood: {rate: 1000000, burst: 100000}
`)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, ln) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	for side, tenant := range map[string]string{"A": string(isolation.DefaultA), "B": string(isolation.DefaultB)} {
		token, err := a.Token(app.TokenRequest{Tenant: tenant, Subject: "verify", Roles: []string{"human_agent"}})
		if err != nil {
			t.Fatal(err)
		}
		env["ATLAS_CANARY_TOKEN_"+side] = token
	}
	code, out := run("verify", "isolation", "--against", url, "--storm", "1")
	var r isolation.Report
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if code != 0 || r.Result != isolation.ResultHeld || r.Summary.Attempts < 1000 || r.Target != url {
		t.Errorf("exit code %d, %s at %s: %+v", code, r.Result, r.Target, r.Summary)
	}

	// B's token in A's place is B: everything leaks, and the command says so.
	env["ATLAS_CANARY_TOKEN_A"] = env["ATLAS_CANARY_TOKEN_B"]
	if code, out = run("verify", "isolation", "--against", url, "--storm", "1"); code != 1 || !bytes.Contains(out, []byte(`"result": "leak"`)) {
		t.Errorf("exit code %d: %.200s", code, out)
	}
}
