//go:build unix

package servers

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// A Package is what a kind of server is made of and how it is got.
type Package struct {
	name    string // of the folder in the cache, with the version
	version string
	pins    func() string // what the folder's content depends on, besides
	size    string        // what is fetched, about, for a person
	// installed returns the folder of one that the system has already, or nothing. May be nil.
	installed func() string
	// needs are what fetching it takes; running it takes those that are marked.
	needs []need
	// fetch puts the files into the folder. It runs the programs through the fetcher.
	fetch func(context.Context, *fetcher) error
}

// A need is a program that must be there.
type need struct {
	name   string
	check  func(context.Context) error // nil: it is on the PATH
	remedy string
	toRun  bool // not only to fetch, but to run
}

// missing returns what is wrong, or nothing.
func (n need) missing(ctx context.Context) string {
	if n.check == nil {
		if _, err := exec.LookPath(n.name); err != nil {
			return fmt.Sprintf("%s is not on the PATH; %s", n.name, n.remedy)
		}
		return ""
	}
	if err := n.check(ctx); err != nil {
		return fmt.Sprintf("%s: %s; %s", n.name, err, n.remedy)
	}
	return ""
}

// A Cache is a folder with the files of servers, by version.
type Cache struct {
	dir string
	env []string
}

// OpenCache returns the cache in the folder, which need not exist. Env is the environment of the programs
// that fetch: proxies and mirrors are configured there.
func OpenCache(dir string, env []string) (*Cache, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	return &Cache{dir: dir, env: env}, nil
}

// Dir returns the cache's folder, as an absolute path.
func (c *Cache) Dir() string { return c.dir }

// Find returns the folder of the kind's files, and an error if they have not been fetched.
func (c *Cache) Find(kind Kind) (string, error) {
	p := kind.Files
	if p.fetch == nil {
		return "", nil
	}
	if p.installed != nil {
		if dir := p.installed(); dir != "" {
			return dir, nil
		}
	}
	home := c.home(p)
	if _, err := os.Stat(home); err != nil {
		return "", fmt.Errorf("%s is not in the cache; go run ./stack fetch gets it", kind.Name)
	}
	return home, nil
}

func (c *Cache) home(p Package) string {
	sum := sha256.Sum256([]byte(p.pins()))
	return filepath.Join(c.dir, fmt.Sprintf("%s-%s-%s", p.name, p.version, hex.EncodeToString(sum[:])[:12]))
}

// Fetch gets the files of the kinds, of all at once, and returns when they are in the cache. What is
// there already is not fetched again. It tells say what it fetches. If programs are missing, the error
// lists all of them, with what to do.
func (c *Cache) Fetch(ctx context.Context, kinds []Kind, say io.Writer) error {
	var wanted []Kind
	var lacking []string
	for _, k := range kinds {
		_, err := c.Find(k)
		if err != nil {
			wanted = append(wanted, k)
		}
		for _, n := range k.Files.needs {
			if err == nil && !n.toRun {
				continue
			}
			if m := n.missing(ctx); m != "" && !slices.Contains(lacking, "  "+m) {
				lacking = append(lacking, "  "+m)
			}
		}
	}
	if len(lacking) > 0 {
		return fmt.Errorf("the servers need what is not here:\n%s", strings.Join(lacking, "\n"))
	}
	if len(wanted) == 0 {
		return nil
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil { //nolint:gosec // public packages, which another user runs
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	for _, k := range wanted {
		group.Go(func() error {
			if err := c.fetch(ctx, k, say); err != nil {
				return fmt.Errorf("fetch %s: %w", k.Name, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// fetch gets the files of one kind.
func (c *Cache) fetch(ctx context.Context, k Kind, say io.Writer) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Minute)
	defer cancel()
	home := c.home(k.Files)
	unlock, err := Lock(ctx, filepath.Join(c.dir, "."+k.Files.name+".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(home); err == nil {
		return nil // another run has fetched it meanwhile
	}
	fmt.Fprintf(say, "fetch %s %s (%s)\n", k.Name, k.Files.version, k.Files.size)
	start := time.Now()
	// Beside, and renamed, so that what stands under the name is whole.
	tmp, err := os.MkdirTemp(c.dir, ".installing-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // what is left is found by the next clean
	files := filepath.Join(tmp, "files")
	if err := os.Mkdir(files, 0o755); err != nil { //nolint:gosec // as above
		return err
	}
	if err := k.Files.fetch(ctx, &fetcher{files: files, tmp: tmp, env: c.env, version: k.Files.version}); err != nil {
		return err
	}
	if err := os.Rename(files, home); err != nil {
		return err
	}
	fmt.Fprintf(say, "fetched %s in %.1f s\n", k.Name, time.Since(start).Seconds())
	return nil
}

// A fetcher is what one fetch works with.
type fetcher struct {
	files   string // the folder that is kept
	tmp     string // the folder that is not
	env     []string
	version string
}

// run runs a program in the temporary folder, with the environment laid over.
func (f *fetcher) run(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...) //nolint:gosec // from the table of kinds
	cmd.Dir, cmd.Env = f.tmp, append(slices.Clone(f.env), env...)
	// With all that it has started; what it has written so far is not kept.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w%s", filepath.Base(name), cmp.Or(context.Cause(ctx), err), explain(string(bytes.TrimSpace(out))))
	}
	return nil
}

// explain adds what a program said, and a remedy where the reason is known.
func explain(out string) string {
	for _, sign := range []string{
		"no such host", "Temporary failure", "Connection refused", "connection refused", "Could not resolve",
		"Unknown host", "Network is unreachable", "network is unreachable", "timed out",
	} {
		if strings.Contains(out, sign) {
			return "\nThe package registry cannot be reached. Packages are fetched once and kept; run this again with a network.\n" + out
		}
	}
	return "\n" + out
}

// Lock waits until no other process holds the file's lock, takes it, and returns what gives it back. The
// system gives it back, too, when this process ends.
func Lock(ctx context.Context, file string) (unlock func(), err error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the caller's choice
	if err != nil {
		return nil, err
	}
	var refused error
	err = until(ctx, func() bool {
		refused = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		return refused == nil || !errors.Is(refused, syscall.EWOULDBLOCK)
	})
	if err = cmp.Or(err, refused); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", file, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // which gives the lock back
}
