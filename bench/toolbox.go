package main

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/atlas-mcp/atlas/interop/npm"
)

// Google's MCP Toolbox for Databases, as its package brings it.
//
//go:embed toolbox/package.json toolbox/package-lock.json
var toolboxFiles embed.FS

// patience is how long a server may take to start, and to end.
const patience = 30 * time.Second

// fetchToolbox returns the program, which npm fetches once.
func fetchToolbox(ctx context.Context, dir string) (string, error) {
	cache, err := npm.Open(ctx, dir, os.Environ())
	if err != nil {
		return "", err
	}
	files, err := fs.Sub(toolboxFiles, "toolbox")
	if err != nil {
		return "", err
	}
	home, err := cache.Install(ctx, "toolbox", files)
	if err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(home, "node_modules", "@toolbox-sdk", "server-*", "bin", "toolbox"))
	if err != nil || len(found) != 1 {
		return "", errors.Join(fmt.Errorf("there is no package of MCP Toolbox for %s on %s", runtime.GOOS, runtime.GOARCH), err)
	}
	return found[0], nil
}

// toolboxConfig is the same tool for MCP Toolbox. It binds no tenant to a query, so that one stands in the
// statement: it finds the same row by the same index.
func toolboxConfig(db database) ([]byte, error) {
	u, err := url.Parse(db.dsn(db.Free))
	if err != nil {
		return nil, err
	}
	params := map[string]string{"pool_max_conns": strconv.Itoa(sqlConns)}
	for k, v := range u.Query() {
		params[k] = v[0]
	}
	password, _ := u.User.Password()
	if password == "" {
		password = "none" // one must be given
	}
	return json.Marshal(map[string]any{ // which is YAML, too
		"sources": map[string]any{"pg": map[string]any{
			"kind": "postgres", "host": u.Hostname(), "port": u.Port(), "database": db.Name, "user": db.Free, "password": password, "queryParams": params,
		}},
		"tools": map[string]any{toolName: map[string]any{
			"kind": "postgres-sql", "source": "pg", "description": toolDescription,
			"statement":  strings.Replace(sqlOrder, "WHERE ", "WHERE tenant_id = '"+sqlTenant+"' AND ", 1) + "$1",
			"parameters": []map[string]any{{"name": "order_id", "type": "string", "description": "order id, for example o_9002"}},
		}},
	})
}

// serveToolbox runs MCP Toolbox as it comes, without telemetry, and looks after it.
func serveToolbox(ctx context.Context, ln net.Listener, db database, program string) (_ serving, err error) {
	dir, err := os.MkdirTemp("", "atlas-bench-")
	if err != nil {
		return serving{}, err
	}
	clean := func() error { return os.RemoveAll(dir) }
	defer func() {
		if err != nil {
			err = errors.Join(err, clean())
		}
	}()
	config, err := toolboxConfig(db)
	if err != nil {
		return serving{}, err
	}
	file := filepath.Join(dir, "tools.yaml")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return serving{}, err
	}
	// It listens by itself, on the port that was found free for us.
	addr := ln.Addr().String()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return serving{}, err
	}
	if err := ln.Close(); err != nil {
		return serving{}, err
	}
	cmd := exec.CommandContext(ctx, program, "--config", file, "--address", host, "--port", port, //nolint:gosec // what npm has fetched
		"--disable-version-check", "--disable-reload", "--log-level", "ERROR")
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "OTEL_") }), "DO_NOT_TRACK=1")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr // our output is the answers to the run
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = patience
	tie(cmd)
	if err := cmd.Start(); err != nil {
		return serving{}, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if err := listens(ctx, addr, ended); err != nil {
		return serving{}, err
	}
	return serving{
		hello: hello{Addr: addr, Path: "/mcp", Token: "none", MCP: true},
		serve: func() error {
			if err := <-ended; ctx.Err() == nil {
				return errors.Join(errors.New("MCP Toolbox has ended"), err)
			}
			return nil
		},
		counters: func() stats { return processStats(cmd.Process.Pid) },
		close:    clean,
	}, nil
}

// listens waits until somebody listens at the address, or the process ended that should.
func listens(ctx context.Context, addr string, ended <-chan error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case err := <-ended:
			return errors.Join(errors.New("MCP Toolbox has ended"), err)
		case <-ctx.Done():
			return errors.Join(errors.New("MCP Toolbox does not listen"), context.Cause(ctx))
		case <-again.C:
		}
	}
}
