package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/atlas-mcp/atlas/internal/app"
)

// What is got from Maven: Keycloak as one package, and the plugin that unpacks it.
const (
	keycloakVersion  = "26.4.0"
	keycloakArtifact = "org.keycloak:keycloak-quarkus-dist:" + keycloakVersion + ":zip"
	unpackPlugin     = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:unpack"
)

//go:embed providers/keycloak-realm.json
var keycloakRealm string

// keycloak is a Keycloak with its database in memory.
type keycloak struct {
	base  string
	admin string // its password
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has ended
	err   error         // of its end; read after ended
	log   *os.File
}

// installKeycloak unpacks Keycloak and builds it for the database in memory, unless that was done before.
func (l *lab) installKeycloak(ctx context.Context, cache string) (string, error) {
	home := filepath.Join(cache, "keycloak-"+keycloakVersion)
	server := filepath.Join(home, "keycloak-"+keycloakVersion)
	if _, err := os.Stat(filepath.Join(home, "built")); err == nil {
		return server, nil
	}
	for name, remedy := range map[string]string{"mvn": "install Maven", "java": "install a JDK, 17 or newer"} {
		if _, err := exec.LookPath(name); err != nil {
			return "", fmt.Errorf("%s is not on the PATH; %s", name, remedy)
		}
	}
	if err := os.MkdirAll(home, 0o750); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"mvn", "-B", "-q", unpackPlugin, "-Dartifact=" + keycloakArtifact, "-DoutputDirectory=" + home},
		{"sh", filepath.Join(server, "bin", "kc.sh"), "build", "--db=dev-mem"},
	} {
		cmd := exec.CommandContext(ctx, args[0], args[1:]...) //nolint:gosec // fixed
		cmd.Dir, cmd.Env = home, l.env                        // the plugin leaves marks where it runs
		cmd.WaitDelay = 3 * time.Second
		if said, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("install Keycloak: %s: %w\n%s", args[0], err, said)
		}
	}
	return server, os.WriteFile(filepath.Join(home, "built"), nil, 0o600)
}

func startKeycloak(ctx context.Context, l *lab, audience string) (_ provider, err error) {
	home, err := l.keycloak()
	if err != nil {
		return nil, err
	}
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	k := &keycloak{base: "http://127.0.0.1:" + port, admin: "interop", ended: make(chan struct{})}
	if k.log, err = os.Create(filepath.Join(l.out, "keycloak.log")); err != nil {
		return nil, err
	}
	// What bin/kc.sh runs, without the shell in between, which would not pass a signal on.
	k.cmd = exec.CommandContext(ctx, "java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", //nolint:gosec // fixed
		"--add-opens=java.base/java.util=ALL-UNNAMED", "--add-opens=java.base/java.util.concurrent=ALL-UNNAMED", "--add-opens=java.base/java.security=ALL-UNNAMED",
		"-Djava.util.concurrent.ForkJoinPool.common.threadFactory=io.quarkus.bootstrap.forkjoin.QuarkusForkJoinWorkerThreadFactory",
		"-Djava.util.logging.manager=org.jboss.logmanager.LogManager",
		"-Dkc.home.dir="+home, "-Djboss.server.config.dir="+filepath.Join(home, "conf"), "-Dkc.config.built=true",
		"-cp", filepath.Join(home, "lib", "quarkus-run.jar"), "io.quarkus.bootstrap.runner.QuarkusEntryPoint",
		"start", "--optimized", "--http-enabled=true", "--hostname-strict=false", "--http-host=127.0.0.1", "--http-port="+port)
	k.cmd.Dir = l.dir
	k.cmd.Env = append(append([]string{}, l.env...), "KC_BOOTSTRAP_ADMIN_USERNAME=admin", "KC_BOOTSTRAP_ADMIN_PASSWORD="+k.admin)
	k.cmd.Stdout, k.cmd.Stderr = k.log, k.log
	k.cmd.Cancel = func() error { return k.cmd.Process.Signal(syscall.SIGTERM) }
	k.cmd.WaitDelay = 10 * time.Second
	if err := k.cmd.Start(); err != nil {
		return nil, errors.Join(err, k.log.Close())
	}
	go func() { k.err = k.cmd.Wait(); close(k.ended) }()
	defer func() {
		if err != nil {
			err = errors.Join(err, k.stop())
		}
	}()
	if err := k.ready(ctx); err != nil {
		return nil, err
	}
	return k, k.manage(ctx, http.MethodPost, "/admin/realms", strings.ReplaceAll(keycloakRealm, "{{audience}}", audience), nil)
}

func (k *keycloak) ready(ctx context.Context) error {
	const patience = 2 * time.Minute
	var ended error
	err := poll(ctx, patience, func() bool {
		select {
		case <-k.ended:
			ended = fmt.Errorf("keycloak ended: %w; see %s", k.err, k.log.Name())
			return true
		default:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.base+"/realms/master/.well-known/openid-configuration", nil)
		if err != nil {
			return false
		}
		status, _, err := fetch(req)
		return err == nil && status == http.StatusOK
	})
	if err != nil {
		return fmt.Errorf("keycloak was not ready after %s; see %s", patience, k.log.Name())
	}
	return ended
}

func (k *keycloak) issuer(audience string) string {
	return fmt.Sprintf(`{issuer: %q, audience: [%q], types: [JWT], require: {typ: Bearer}, `+
		`claims: {tenant: org.key, roles: [realm_access.roles]}, `+
		`role_map: {support: [support_copilot], reporting: [analyst]}, scopes_from_roles: true}`, k.base+"/realms/atlas", audience)
}

func (k *keycloak) token(ctx context.Context, name, audience string) (string, error) {
	client := "agent"
	if audience == elsewhere {
		client = "stranger"
	}
	return tokenFrom(ctx, k.base+"/realms/atlas/protocol/openid-connect/token", client, client+"-secret",
		url.Values{"grant_type": {"password"}, "username": {name}, "password": {name}})
}

// manage calls the admin API with a token of the administrator.
func (k *keycloak) manage(ctx context.Context, method, path, body string, into any) error {
	token, err := tokenFrom(ctx, k.base+"/realms/master/protocol/openid-connect/token", "", "",
		url.Values{"client_id": {"admin-cli"}, "grant_type": {"password"}, "username": {"admin"}, "password": {k.admin}})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, k.base+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = http.Header{"Authorization": {"Bearer " + token}, "Content-Type": {"application/json"}}
	status, data, err := fetch(req)
	if err != nil {
		return err
	}
	if status >= 300 {
		return fmt.Errorf("keycloak: %s %s: status %d: %.300s", method, path, status, data)
	}
	if into == nil {
		return nil
	}
	return json.NewDecoder(bytes.NewReader(data)).Decode(into)
}

// keys of the realm come from components; the one of the highest priority signs.
type component struct {
	ID         string              `json:"id,omitempty"`
	Name       string              `json:"name"`
	ProviderID string              `json:"providerId"`
	Type       string              `json:"providerType"`
	Config     map[string][]string `json:"config"`
}

const keyType = "org.keycloak.keys.KeyProvider"

func (k *keycloak) rotate(ctx context.Context) error {
	body, err := json.Marshal(component{
		Name: "rotated", ProviderID: "rsa-generated", Type: keyType,
		Config: map[string][]string{"priority": {"1000"}, "algorithm": {"RS256"}, "keySize": {"2048"}},
	})
	if err != nil {
		return err
	}
	return k.manage(ctx, http.MethodPost, "/admin/realms/atlas/components", string(body), nil)
}

func (k *keycloak) withdraw(ctx context.Context) error {
	var all []component
	if err := k.manage(ctx, http.MethodGet, "/admin/realms/atlas/components?type="+keyType, "", &all); err != nil {
		return err
	}
	gone := 0
	for _, c := range all {
		if c.ProviderID == "rsa-generated" && c.Name != "rotated" {
			if err := k.manage(ctx, http.MethodDelete, "/admin/realms/atlas/components/"+c.ID, "", nil); err != nil {
				return err
			}
			gone++
		}
	}
	if gone == 0 {
		return errors.New("keycloak has no old key")
	}
	return nil
}

func (k *keycloak) stop() error {
	_ = k.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-k.ended:
	case <-time.After(20 * time.Second):
		_ = k.cmd.Process.Kill()
		<-k.ended
	}
	return k.log.Close()
}

// freePort returns a port that was free a moment ago, for a program that cannot be given a listener.
func freePort(ctx context.Context) (string, error) {
	ln, err := app.ListenLoopback(ctx)
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(ln.Addr().String())
	return port, errors.Join(err, ln.Close())
}
