// Package deploytest checks what operators start Atlas with: the compose files, the Dockerfile, the alerts
// and the dashboards. What an engine would have to run is checked by `make compose-check`.
package deploytest

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/atlas-mcp/atlas/internal/app"
	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

const root = "../.."

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(name)))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// A service is what is looked at of one.
type service struct {
	Image       string            `yaml:"image"`
	Build       any               `yaml:"build"`
	User        string            `yaml:"user"`
	Restart     string            `yaml:"restart"`
	ReadOnly    *bool             `yaml:"read_only"`
	Privileged  bool              `yaml:"privileged"`
	CapDrop     []string          `yaml:"cap_drop"`
	CapAdd      []string          `yaml:"cap_add"`
	Security    []string          `yaml:"security_opt"`
	Environment map[string]string `yaml:"environment"`
	EnvFile     any               `yaml:"env_file"`
	Ports       []string          `yaml:"ports"`
	Networks    []string          `yaml:"networks"`
	NetworkMode string            `yaml:"network_mode"`
	Volumes     []string          `yaml:"volumes"`
	DependsOn   map[string]struct {
		Condition string `yaml:"condition"`
	} `yaml:"depends_on"`
	Healthcheck struct {
		Test []string `yaml:"test"`
	} `yaml:"healthcheck"`
	Deploy struct {
		Resources struct {
			Limits struct {
				CPUs   string `yaml:"cpus"`
				Memory string `yaml:"memory"`
				PIDs   int    `yaml:"pids"`
			} `yaml:"limits"`
		} `yaml:"resources"`
	} `yaml:"deploy"`
}

type project struct {
	Services map[string]service `yaml:"services"`
	Networks map[string]struct {
		Internal bool `yaml:"internal"`
	} `yaml:"networks"`
	Volumes map[string]any `yaml:"volumes"`
}

func compose(t *testing.T, name string) project {
	t.Helper()
	text := strings.ReplaceAll(read(t, name), "!override", "") // what compose does with it, it does by itself
	var p project
	// A key beside a merge goes before the merged one, which the library takes for a duplicate.
	if err := yaml.UnmarshalWithOptions([]byte(text), &p, yaml.AllowDuplicateMapKey()); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if len(p.Services) == 0 {
		t.Fatalf("%s has no services", name)
	}
	return p
}

const composeFile = "docker-compose.yml"

var overlays = []string{"deploy/compose/ports.yaml", "deploy/compose/elasticsearch.yaml", "deploy/compose/production.yaml"}

// The exceptions, each with its reason. What is not here holds for every service.
var (
	writesItsRoot  = map[string]string{"search": "writes a keystore beside its configuration at the start"}
	usersOfImage   = map[string]string{"search": "1000, by its image", "jaeger": "10001, by its image"}
	withoutHealth  = map[string]string{"otel-collector": "its image has nothing to ask it with; Prometheus scrapes it"}
	runOnce        = []string{"seed", "s3-setup", "copilot"}
	published      = map[string]string{"atlas": "8080", "s3": "9000 9001", "jaeger": "16686", "prometheus": "9090", "grafana": "3000"}
	mayReachStores = map[string]string{
		"sql": "atlas postgres seed", "shared": "atlas redis seed", "search": "atlas search seed", "objects": "atlas s3 s3-setup seed", "vectors": "qdrant",
	}
)

func TestEveryServiceIsConfined(t *testing.T) {
	for name, s := range compose(t, composeFile).Services {
		if s.Privileged || len(s.CapAdd) > 0 || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.Security, "no-new-privileges:true") {
			t.Errorf("%s: capabilities are not all dropped, or new ones are possible", name)
		}
		if why := writesItsRoot[name]; (s.ReadOnly == nil || !*s.ReadOnly) != (why != "") {
			t.Errorf("%s: read_only does not agree with the exceptions (%q)", name, why)
		}
		if why := usersOfImage[name]; (s.User == "") != (why != "") {
			t.Errorf("%s: user does not agree with the exceptions (%q)", name, why)
		}
		l := s.Deploy.Resources.Limits
		if l.CPUs == "" || l.Memory == "" || l.PIDs == 0 {
			t.Errorf("%s: has no limits of cpus, memory and pids", name)
		}
		once := slices.Contains(runOnce, name)
		if once != (s.Restart == "no") {
			t.Errorf("%s: restart is %q", name, s.Restart)
		}
		if why := withoutHealth[name]; (len(s.Healthcheck.Test) == 0) != (why != "" || once) {
			t.Errorf("%s: healthcheck does not agree with the exceptions (%q)", name, why)
		}
		if s.EnvFile != nil {
			t.Errorf("%s: env_file gives a container more than it needs", name)
		}
		for _, v := range s.Volumes {
			host, _, _ := strings.Cut(v, ":")
			if strings.Contains(v, "docker.sock") || strings.HasPrefix(host, "/") {
				t.Errorf("%s: mounts %s of the host", name, host)
			}
			if !strings.HasPrefix(host, ".") {
				continue
			}
			if !strings.HasSuffix(v, ":ro") {
				t.Errorf("%s: %s can be written", name, v)
			}
			if _, err := os.Stat(filepath.Join(root, host)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

var version = regexp.MustCompile(`:v?\d+\.\d+(\.\d+)?(-[a-z0-9.]+)?$`)

func TestImagesArePinned(t *testing.T) {
	for _, file := range append([]string{composeFile}, overlays...) {
		for name, s := range compose(t, file).Services {
			if s.Image != "" && s.Build == nil && !version.MatchString(s.Image) && !strings.HasPrefix(s.Image, "atlas-mcp:${ATLAS_VERSION:?") {
				t.Errorf("%s: %s: the image %q is not pinned to a version", file, name, s.Image)
			}
		}
	}
	// The S3 server is the one that tests run against.
	image := compose(t, composeFile).Services["s3"].Image
	if _, tag, _ := strings.Cut(image, ":"); !strings.HasSuffix(servers.S3().About, tag) {
		t.Errorf("compose runs %s, tests run against %s", image, servers.S3().About)
	}
}

func TestOnlyLoopbackIsPublished(t *testing.T) {
	for _, file := range append([]string{composeFile}, overlays...) {
		for name, s := range compose(t, file).Services {
			var ports []string
			for _, p := range s.Ports {
				if !strings.HasPrefix(p, "127.0.0.1:") {
					t.Errorf("%s: %s: %s is published beyond this machine", file, name, p)
				}
				ports = append(ports, p[strings.LastIndex(p, ":")+1:])
			}
			slices.Sort(ports)
			if file == composeFile && strings.Join(ports, " ") != published[name] {
				t.Errorf("%s publishes %v, want %q", name, ports, published[name])
			}
		}
	}
}

// A store shares its network with Atlas and nobody else, and the network has no way out.
func TestStoresAreApart(t *testing.T) {
	p := compose(t, composeFile)
	members := map[string][]string{}
	for name, s := range p.Services {
		for _, n := range s.Networks {
			members[n] = append(members[n], name)
		}
		if s.NetworkMode != "" && (name != "copilot" || s.NetworkMode != "service:atlas") {
			t.Errorf("%s: network_mode %s", name, s.NetworkMode)
		}
	}
	for n, want := range mayReachStores {
		slices.Sort(members[n])
		if got := strings.Join(members[n], " "); got != want {
			t.Errorf("network %s has %q, want %q", n, got, want)
		}
	}
	for n := range members {
		if outside := n == "front" || n == "consoles"; p.Networks[n].Internal == outside {
			t.Errorf("network %s: internal is %v", n, p.Networks[n].Internal)
		}
	}
	if got := members["front"]; !slices.Equal(got, []string{"atlas"}) {
		t.Errorf("on the network front are %v", got)
	}
}

func TestDependenciesAreWaitedFor(t *testing.T) {
	p := compose(t, composeFile)
	for name, s := range p.Services {
		for on, d := range s.DependsOn {
			want := "service_healthy"
			if slices.Contains(runOnce, on) {
				want = "service_completed_successfully"
			}
			if _, there := p.Services[on]; !there || d.Condition != want {
				t.Errorf("%s waits for %s: %q, want %q", name, on, d.Condition, want)
			}
		}
	}
	if p.Services["atlas"].DependsOn["seed"].Condition == "" {
		t.Error("atlas does not wait for the seed")
	}
}

// The server never holds what belongs to the owners of the stores.
func TestTheServerHoldsNoOwnersCredentials(t *testing.T) {
	for _, file := range []string{composeFile, "deploy/compose/production.yaml"} {
		p := compose(t, file)
		for _, name := range []string{"atlas", "copilot"} {
			for key, value := range p.Services[name].Environment {
				if strings.Contains(key, "LOAD") || strings.Contains(strings.ToLower(value), "owner") ||
					strings.Contains(value, "S3_ROOT") || strings.Contains(value, "POSTGRES_PASSWORD") {
					t.Errorf("%s: %s has %s=%s", file, name, key, value)
				}
			}
		}
		for _, key := range []string{"ATLAS_STATE_LOAD_DSN", "ATLAS_POSTGRES_LOAD_DSN"} {
			if p.Services["seed"].Environment[key] == "" {
				t.Errorf("%s: seed lacks %s", file, key)
			}
		}
	}
}

var (
	ofEnvironment = regexp.MustCompile(`\$\{env:([A-Z0-9_]+)(:-[^}]*)?\}`)
	interpolated  = regexp.MustCompile(`\$\{([A-Z0-9_]+)(:-|:\?)?([^}]*)\}`)
)

// Compose gives what the configuration asks for, and nothing that nobody reads.
func TestComposeGivesWhatTheConfigurationAsksFor(t *testing.T) {
	asked := map[string]bool{} // by name; true if it must be given
	for _, m := range ofEnvironment.FindAllStringSubmatch(read(t, "config/stack.yaml"), -1) {
		asked[m[1]] = asked[m[1]] || m[2] == ""
	}
	p := compose(t, composeFile)
	for _, name := range []string{"atlas", "seed"} {
		env := p.Services[name].Environment
		for _, key := range slices.Sorted(maps.Keys(asked)) {
			if asked[key] && env[key] == "" {
				t.Errorf("%s lacks %s", name, key)
			}
		}
		for key := range env {
			_, known := asked[key]
			known = known || key == "ATLAS_CONFIG" || key == "GOMEMLIMIT"
			for _, v := range app.Variables {
				known = known || v.Name == key
			}
			if !known {
				t.Errorf("%s: nobody reads %s", name, key)
			}
		}
	}
}

func TestProductionHasNoDefaults(t *testing.T) {
	text := read(t, "deploy/compose/production.yaml")
	for _, m := range interpolated.FindAllStringSubmatch(text, -1) {
		if m[2] != ":?" {
			t.Errorf("%s has a default", m[0])
		}
	}
	// Each secret of the development file is one that production must be given.
	for _, m := range interpolated.FindAllStringSubmatch(read(t, composeFile), -1) {
		if (strings.Contains(m[3], "dev-only") || strings.HasSuffix(m[1], "PASSWORD")) && !strings.HasPrefix(m[1], "QDRANT") && !strings.Contains(text, "${"+m[1]+":?") {
			t.Errorf("production does not ask for %s", m[1])
		}
	}
	if strings.Contains(text, "dev-only") || strings.Contains(text, "dev-token") {
		t.Error("production knows a development secret")
	}
	script := read(t, "deploy/compose/make-env.sh")
	for _, m := range interpolated.FindAllStringSubmatch(text, -1) {
		if strings.Contains(m[3], "make-env.sh") && !strings.Contains(script, m[1]) {
			t.Errorf("make-env.sh does not make %s", m[1])
		}
	}
}

func TestDockerfile(t *testing.T) {
	text := read(t, "Dockerfile")
	stages := strings.Split(text, "\nFROM ")[1:]
	if len(stages) != 3 || !strings.HasPrefix(stages[0], "--platform=$BUILDPLATFORM ${GO_IMAGE} AS build") {
		t.Fatalf("%d stages", len(stages))
	}
	var mod struct{ Go string }
	for line := range strings.Lines(read(t, "go.mod")) {
		if v, ok := strings.CutPrefix(line, "go "); ok {
			mod.Go = strings.Join(strings.Split(strings.TrimSpace(v), ".")[:2], ".")
		}
	}
	if !strings.Contains(text, "golang:"+mod.Go+".") {
		t.Errorf("the image is not built with Go %s of go.mod", mod.Go)
	}
	for _, s := range stages[1:] {
		name, _, _ := strings.Cut(s, "\n")
		if !strings.HasPrefix(s, "scratch AS ") || !strings.Contains(s, "\nUSER 10001:10001\n") || !strings.Contains(s, "\nHEALTHCHECK ") ||
			strings.Contains(s, "\nRUN ") || strings.Contains(s, "\nADD ") || !strings.Contains(s, "org.opencontainers.image.licenses=\"MIT\"") {
			t.Errorf("stage %s is not what it must be", name)
		}
	}
	if !strings.Contains(stages[2], `HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["/usr/local/bin/atlas", "health"]`) ||
		!strings.Contains(stages[2], "ATLAS_MODE=production") {
		t.Error("the server's image asks for its health by another program, or is not made for production")
	}
	for _, flag := range []string{"CGO_ENABLED=0", "-trimpath", "-X main.version=$VERSION", "GOTOOLCHAIN=local"} {
		if !strings.Contains(stages[0], flag) {
			t.Errorf("it is built without %s", flag)
		}
	}
	ignore := strings.Split(strings.TrimSpace(read(t, ".dockerignore")), "\n")
	if !slices.Contains(ignore, "*") || !slices.Contains(ignore, "**/.env*") || !slices.Contains(ignore, "**/*.key") {
		t.Error(".dockerignore lets in more than it must")
	}
}

// The compose file's programs are given by path: a script that is not executable would not start.
func TestScriptsCanBeRun(t *testing.T) {
	scripts, err := filepath.Glob(filepath.Join(root, "deploy", "compose", "*.sh"))
	if err != nil || len(scripts) < 4 {
		t.Fatal(scripts, err)
	}
	for _, s := range scripts {
		info, err := os.Stat(s)
		if err != nil || info.Mode().Perm()&0o111 != 0o111 {
			t.Errorf("%s is not executable, %v", s, err)
		}
		if text := read(t, strings.TrimPrefix(filepath.ToSlash(s), root+"/")); !strings.HasPrefix(text, "#!/bin/sh\n") || !strings.Contains(text, "\nset -eu\n") {
			t.Errorf("%s does not stop at the first fault", s)
		}
	}
}

func jsonFile(t *testing.T, name string, v any) {
	t.Helper()
	if err := json.Unmarshal([]byte(read(t, name)), v); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}
