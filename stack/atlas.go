//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

// atlasName is the name of Atlas among the servers of a standing stack.
const atlasName = "atlas"

// atlas is Atlas itself, on the servers of the stack. Its arguments are those of the program, which
// come from the record when it is started again.
func (s *standing) atlas() servers.Kind {
	return servers.Kind{
		Name: atlasName, About: "Atlas on them, with the demo company", Env: "ATLAS_MCP_URL",
		Command: func(p servers.Place) servers.Command {
			c := servers.Command{Path: p.Args[0], Args: append(p.Args[1:len(p.Args):len(p.Args)], "--listen", fmt.Sprintf("127.0.0.1:%d", p.Port))}
			for _, v := range s.variables() {
				c.Env = append(c.Env, v.name+"="+v.value)
			}
			return c
		},
		URL: func(port int) string { return fmt.Sprintf("http://127.0.0.1:%d", port) },
		Ready: func(ctx context.Context, p servers.Place) error {
			return answers(ctx, fmt.Sprintf("http://127.0.0.1:%d/readyz", p.Port))
		},
	}
}

// answers asks a URL once.
func answers(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 1000))
	if err := errors.Join(err, res.Body.Close()); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(body)))
	}
	return nil
}

// A variable is one of the environment of Atlas.
type variable struct{ name, value string }

// The roles that Atlas has in Postgres: they own nothing, and migrating makes them.
const (
	readerRole = "atlas_app"
	stateRole  = "atlas_state"
)

// variables are what config/stack.yaml is filled in with, and what clients of Atlas need. They are empty
// unless all servers are there that it names.
func (s *standing) variables() []variable {
	at := map[string]*url.URL{}
	for _, r := range s.records {
		u, err := url.Parse(r.URL)
		if err != nil {
			return nil
		}
		at[r.Name] = u
	}
	pg, redis, search, objects := at["postgres"], at["redis"], at["opensearch"], at["s3"]
	if pg == nil || redis == nil || search == nil || objects == nil {
		return nil
	}
	as := func(role string) string {
		u := *pg
		u.User = url.User(role)
		return u.String()
	}
	secret, _ := objects.User.Password()
	endpoint := *objects
	endpoint.User = nil
	all := []variable{
		{"ATLAS_POSTGRES_DSN", as(readerRole)},
		{"ATLAS_POSTGRES_LOAD_DSN", pg.String()},
		{"ATLAS_STATE_DSN", as(stateRole)},
		{"ATLAS_STATE_LOAD_DSN", pg.String()},
		{"ATLAS_REDIS_URL", redis.String()},
		{"ATLAS_REDIS_BUS_KEY", s.busKey()},
		{"ATLAS_ELASTICSEARCH_URL", search.String()},
		{"ATLAS_S3_ENDPOINT", endpoint.String()},
		{"ATLAS_S3_ACCESS_KEY", objects.User.Username()},
		{"ATLAS_S3_SECRET_KEY", secret},
		{"ATLAS_DATA_DIR", filepath.Join(s.dir, "data")},
	}
	if own := at[atlasName]; own != nil {
		all = append(all, variable{"ATLAS_MCP_URL", own.String()}, variable{"ATLAS_MCP_TOKEN", "dev-token"}, variable{"ATLAS_TENANT", "acme"},
			variable{"ATLAS_HTTP_LISTEN", own.Host}) // for the doctor, and for tokens that `atlas token` signs
	}
	return all
}

// busKey is what replicas authenticate their news with. It is empty until addAtlas has made one.
func (s *standing) busKey() string {
	key, err := os.ReadFile(filepath.Join(s.dir, "data", "bus.key"))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(key))
}

func (s *standing) makeBusKey() error {
	var key [32]byte
	if _, err := rand.Read(key[:]); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(s.dir, "data"), 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.dir, "data", "bus.key"), []byte(hex.EncodeToString(key[:])+"\n"), 0o600)
}

// addAtlas loads the demo company into the servers and starts Atlas, if they are all there and it is not.
func (s *standing) addAtlas(ctx context.Context, p *program, cache *servers.Cache) error {
	for _, r := range s.records {
		if r.Name == atlasName {
			return nil
		}
	}
	if s.variables() == nil {
		return nil // only some servers were asked for
	}
	if err := s.makeBusKey(); err != nil {
		return err
	}
	vars := s.variables()
	binary, err := filepath.Abs(p.atlas)
	if err != nil {
		return err
	}
	if _, err := os.Stat(binary); err != nil {
		return fmt.Errorf("%s is not there: run make build, or make stack, which does", p.atlas)
	}
	config, err := filepath.Abs(p.config)
	if err != nil {
		return err
	}
	seed := exec.CommandContext(ctx, binary, "--config", config, "seed") //nolint:gosec // the program that was built
	seed.Env, seed.Stdout, seed.Stderr = p.env, p.err, p.err
	for _, v := range vars {
		seed.Env = append(seed.Env, v.name+"="+v.value)
	}
	if err := seed.Run(); err != nil {
		return fmt.Errorf("atlas seed: %w", err)
	}
	_, err = servers.Start(ctx, cache, s.atlas(), servers.Options{
		Stay: true, Log: s.log(atlasName), Note: s.note, Args: []string{binary, "--config", config, "serve"},
	})
	return err
}
