// Package npm installs npm packages that lock files pin, for programs that drive Atlas with other
// people's clients: the conformance suite and the interop run. Nothing of it is part of the product.
//
// Packages are kept in a cache folder by the hash of their lock file, so a second run installs
// nothing and needs no network. Install scripts are never run.
package npm

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// A Cache is a folder of installed packages, with the Node.js that they run on.
type Cache struct {
	dir  string
	node string // folder of the node binary
	env  []string
}

//go:embed node/package.json node/package-lock.json
var nodeFiles embed.FS

// Open returns the cache in dir, which it makes if need be, with Node.js installed in it. Env is the
// environment that npm and the packages are run with.
func Open(ctx context.Context, dir string, env []string) (*Cache, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	c := &Cache{dir: dir, env: env}
	files, err := fs.Sub(nodeFiles, "node")
	if err != nil {
		return nil, err
	}
	home, err := c.Install(ctx, "node", files)
	if err != nil {
		return nil, err
	}
	found, err := filepath.Glob(filepath.Join(home, "node_modules", "node-*", "bin", "node"))
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("there is no Node.js 22 package for %s on %s; use Linux or macOS", runtime.GOOS, runtime.GOARCH)
	}
	c.node = filepath.Dir(found[0])
	return c, nil
}

// Install installs the packages that package.json and package-lock.json in files pin, unless that was
// done before, and returns the folder that has them in node_modules.
func (c *Cache) Install(ctx context.Context, name string, files fs.FS) (string, error) {
	var pins []byte
	manifest := map[string][]byte{}
	for _, file := range []string{"package.json", "package-lock.json"} {
		data, err := fs.ReadFile(files, file)
		if err != nil {
			return "", err
		}
		manifest[file] = data
		pins = append(pins, data...)
	}
	home := filepath.Join(c.dir, name+"-"+Hash(pins))
	if _, err := os.Stat(filepath.Join(home, "node_modules")); err == nil {
		return home, nil
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", errors.New("npm is not on the PATH; it comes with Node.js, of any version from 18 (the Node.js that is needed here is installed by it)")
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil { //nolint:gosec // packages from a public registry
		return "", err
	}
	// Installed beside and renamed, so that what stands under the name is whole.
	tmp, err := os.MkdirTemp(c.dir, ".installing-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // what is left is found by the next clean
	for file, data := range manifest {
		if err := os.WriteFile(filepath.Join(tmp, file), data, 0o600); err != nil {
			return "", err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-progress", "--loglevel=error") //nolint:gosec // found on the PATH
	cmd.Dir = tmp
	cmd.Env = c.Env()
	cmd.WaitDelay = 5 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("install the npm packages of %s: %w%s", name, cmp.Or(ctx.Err(), err), explain(out.String()))
	}
	if err := os.Rename(tmp, home); err != nil {
		if _, there := os.Stat(filepath.Join(home, "node_modules")); there == nil {
			return home, nil // another run was faster
		}
		return "", err
	}
	return home, nil
}

// Dir returns the cache's folder, for packages of other kinds.
func (c *Cache) Dir() string { return c.dir }

// Hash names a set of pins in the cache.
func Hash(pins []byte) string {
	sum := sha256.Sum256(pins)
	return hex.EncodeToString(sum[:])[:12]
}

// explain adds what npm said, and a remedy where the reason is known.
func explain(out string) string {
	said := "\n" + strings.TrimSpace(out)
	for _, sign := range []string{"ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ECONNRESET", "network request"} {
		if strings.Contains(out, sign) {
			return "\nThe package registry cannot be reached. Packages are fetched once and kept; run this again with a network." + said
		}
	}
	return said
}

// Env returns the environment for the packages: the given one, with the cache's Node.js first on the
// PATH.
func (c *Cache) Env() []string {
	if c.node == "" {
		return c.env
	}
	env := make([]string, 0, len(c.env)+1)
	path := []string{c.node}
	for _, e := range c.env {
		if old, ok := strings.CutPrefix(e, "PATH="); ok {
			path = append(path, old)
			continue
		}
		env = append(env, e)
	}
	return append(env, "PATH="+strings.Join(path, string(os.PathListSeparator)))
}

// Node returns a command that runs a script of Node.js in dir. It is asked to stop when ctx ends, and
// made to a moment later.
func (c *Cache) Node(ctx context.Context, dir, script string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.node, "node"), append([]string{script}, args...)...) //nolint:gosec // our own
	cmd.Dir, cmd.Env = dir, c.Env()
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 3 * time.Second
	return cmd
}
