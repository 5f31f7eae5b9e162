package cli_test

import (
	"context"
	"database/sql"
	"errors"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	_ "modernc.org/sqlite" // for expire

	"github.com/atlas-mcp/atlas/internal/cli"
)

// The scripts run this test binary as atlas and atlas-copilot, each command in a process of its own.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"atlas":         func() { os.Exit(program("atlas", os.Args[1:])) },
		"atlas-copilot": func() { os.Exit(program("atlas-copilot", append([]string{"copilot"}, os.Args[1:]...))) },
	})
}

func program(name string, args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return cli.Program{
		Name: name, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Env: os.LookupEnv, ReadFile: os.ReadFile, Version: "test",
		Exists: func(path string) bool { _, err := os.Stat(path); return err == nil },
	}.Run(ctx, args)
}

// Every command, with good and bad input. A script starts in an empty folder with the shipped
// configuration under site/, and keeps its data in data/. Beside the commands of testscript there are
//
//	exits N COMMAND…        runs it and checks its exit code
//	capture NAME REGEXP     puts the first group, found in stdout or stderr, into a variable
//	replace FILE OLD NEW    changes the one place where OLD stands
//	expire ID               makes an approval as old as if its time had passed
//	upstream start|…        an upstream MCP server; see there
//	ports BUSY FREE         names two ports of loopback: one in use, one not
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("ATLAS_DATA_DIR", filepath.Join(env.WorkDir, "data"))
			env.Values[upstreamKey{}] = &upstreamBox{}
			return os.CopyFS(filepath.Join(env.WorkDir, "site"), os.DirFS(filepath.Join("..", "..", "config")))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "capture": capture, "replace": replace, "ports": ports, "expire": expire, "upstream": upstream,
		},
	})
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits N COMMAND…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	for _, stream := range []string{"stdout", "stderr"} {
		if text := ts.ReadFile(stream); strings.Contains(text, "goroutine ") || strings.Contains(text, "panic") {
			ts.Fatalf("%s holds a stack trace", stream)
		}
	}
}

func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: capture NAME REGEXP")
	}
	re, err := regexp.Compile(args[1])
	ts.Check(err)
	m := re.FindStringSubmatch(ts.ReadFile("stdout") + "\n" + ts.ReadFile("stderr"))
	if len(m) != 2 {
		ts.Fatalf("%s is not there", args[1])
	}
	ts.Setenv(args[0], m[1])
}

func replace(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: replace FILE OLD NEW")
	}
	text := ts.ReadFile(args[0])
	if n := strings.Count(text, args[1]); n != 1 {
		ts.Fatalf("%q stands %d times in %s", args[1], n, args[0])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Replace(text, args[1], args[2], 1)), 0o600))
}

func expire(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: expire ID")
	}
	db, err := sql.Open("sqlite", ts.MkAbs(filepath.Join("data", "state.db")))
	ts.Check(err)
	defer db.Close() //nolint:errcheck // the statement below is committed or has failed
	res, err := db.ExecContext(context.Background(), `UPDATE approval SET expires = created + 1 WHERE id = ?`, args[0])
	ts.Check(err)
	if n, err := res.RowsAffected(); err != nil || n != 1 {
		ts.Fatalf("%d approvals changed, %v", n, err)
	}
}

func ports(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: ports BUSY FREE")
	}
	var open [2]net.Listener
	for i := range open {
		ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		ts.Check(err)
		open[i] = ln
		_, port, err := net.SplitHostPort(ln.Addr().String())
		ts.Check(err)
		ts.Setenv(args[i], port)
	}
	ts.Defer(func() { _ = open[0].Close() })
	ts.Check(open[1].Close())
}
