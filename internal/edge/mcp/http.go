package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

// routes returns all routes behind the guard.
func (s *Server) routes(endpoint http.Handler) http.Handler {
	mux := http.NewServeMux()
	// authenticated is the way of everything that belongs to a tenant. A server without
	// authentication (stdio only) refuses it all: there is no caller.
	authenticated := func(h http.Handler) http.Handler {
		if s.deps.Tenant != nil {
			h = s.deps.Tenant(h)
		}
		if s.deps.Authenticate != nil {
			h = s.deps.Authenticate(h)
		}
		return h
	}
	mcp := authenticated(endpoint)
	mux.Handle(Path, mcp)
	if s.deps.Admin != nil {
		mux.Handle("/admin/v1/", authenticated(s.deps.Admin))
	}
	metadata := document(s.resourceMetadata)
	mux.Handle(MetadataPath, metadata)
	mux.Handle(MetadataPath+Path, metadata)
	mux.Handle("/.well-known/mcp-server", document(s.discovery))
	mux.Handle(CardPath, constant(cardType, s.card()))
	mux.Handle(CatalogPath, constant("application/json", s.aiCatalog()))
	for path, h := range s.deps.Routes {
		mux.Handle(path, h)
	}
	if s.deps.Metrics != nil && s.cfg.Metrics != metricsNone {
		mux.Handle("/metrics", s.metrics())
	}
	mux.Handle("/healthz", document(func() any { return map[string]string{"status": "ok"} }))
	mux.HandleFunc("/readyz", s.serveReady)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		edge.WriteFailure(w, atlas.Errorf(atlas.CodeNotFound, nil, "there is nothing at this path"))
	})
	return s.guard(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == Path { // nearly all; the mux takes a while to come to the same
			mcp.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	}))
}

// metrics names tools in its labels, so by default it is for this machine only.
func (s *Server) metrics() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.cfg.Metrics == metricsLoopback && !edge.FromLoopback(r) {
			edge.WriteFailure(w, atlas.Errorf(atlas.CodeNotFound, nil, "there is nothing at this path"))
			return
		}
		s.deps.Metrics.ServeHTTP(w, r)
	})
}

// document serves JSON that is for everybody.
func document(make func() any) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			notAllowed(w, http.MethodGet, http.MethodHead)
			return
		}
		w.Header().Set("Access-Control-Allow-Origin", "*")
		writeJSON(w, http.StatusOK, make())
	})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		edge.WriteFailure(w, atlas.Errorf(atlas.CodeInternal, err, ""))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may have gone
}

// resourceMetadata is the protected resource metadata (RFC 9728 section 2).
func (s *Server) resourceMetadata() any {
	return struct {
		Resource string   `json:"resource"`
		Servers  []string `json:"authorization_servers,omitempty"`
		Scopes   []string `json:"scopes_supported,omitempty"`
		Methods  []string `json:"bearer_methods_supported"`
		Name     string   `json:"resource_name"`
		DPoPAlgs []string `json:"dpop_signing_alg_values_supported,omitempty"`
		DPoPOnly bool     `json:"dpop_bound_access_tokens_required,omitempty"`
	}{
		Resource: ResourceURL(s.cfg.PublicURL), Servers: s.deps.AuthServers, Scopes: s.deps.Scopes,
		Methods: []string{"header"}, Name: "Atlas", DPoPAlgs: s.deps.Challenge.DPoPAlgs, DPoPOnly: s.deps.Challenge.DPoPOnly,
	}
}

type authServer struct {
	Issuer      string `json:"issuer"`
	MetadataURL string `json:"metadata_url"`
}

// discovery is the document at /.well-known/mcp-server, for people and clients that look for a
// server before they have a token. Everybody may read it, so it says how to connect and nothing of
// what a tenant has: no tools, not even how many.
func (s *Server) discovery() any {
	servers := make([]authServer, len(s.deps.AuthServers))
	for i, iss := range s.deps.AuthServers {
		servers[i] = authServer{iss, iss + "/.well-known/oauth-authorization-server"}
	}
	versions := sdk.SupportedProtocolVersions()
	return map[string]any{
		"protocol_version":         versions[0],
		"protocol_versions":        versions,
		"server":                   map[string]string{"name": serverName, "title": serverTitle, "version": s.deps.Version},
		"capabilities":             capabilities(true),
		"endpoint":                 ResourceURL(s.cfg.PublicURL),
		"transport":                "streamable-http",
		"authorization_servers":    servers,
		"resource_metadata_url":    MetadataURL(s.cfg.PublicURL),
		"tools_need_authorization": true,
	}
}

// readiness asks the checks, at most once a second however often it is asked: the route is open to
// everybody and the checks reach for databases.
type readiness struct {
	checks map[string]func(context.Context) error

	mu      sync.Mutex // guards the rest, and is held while checks run
	at      time.Time
	failing []string
}

const (
	readyFor     = time.Second
	checkTimeout = 2 * time.Second
)

// ask returns the names of the checks that fail, sorted.
func (rd *readiness) ask(log *slog.Logger) []string {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	if !rd.at.IsZero() && time.Since(rd.at) < readyFor {
		return rd.failing
	}
	ctx, cancel := context.WithTimeout(context.Background(), checkTimeout) // whoever asked first may go
	defer cancel()
	var (
		wg      sync.WaitGroup
		mu      sync.Mutex
		failing = make(map[string]bool)
	)
	for name, check := range rd.checks {
		wg.Go(func() {
			if err := check(ctx); err != nil {
				log.WarnContext(ctx, "readiness check failed", "check", name, "err", err)
				mu.Lock()
				failing[name] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	rd.at, rd.failing = time.Now(), slices.Sorted(maps.Keys(failing))
	return rd.failing
}

func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		notAllowed(w, http.MethodGet, http.MethodHead)
		return
	}
	if s.draining.Err() != nil {
		writeJSON(w, http.StatusServiceUnavailable, map[string]any{"status": "stopping"})
		return
	}
	if failing := s.ready.ask(s.deps.Log); len(failing) > 0 {
		writeJSON(w, http.StatusServiceUnavailable, map[string]any{"status": "not ready", "failing": failing})
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"status": "ready"})
}

// Run serves on ln until ctx ends. Then it is not ready any more, waits for the drain delay, takes
// no new connection, ends subscriptions, and lets running calls and tasks finish within the drain
// timeout; what still runs then is cut off. It closes ln, and is called once.
func (s *Server) Run(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: min(s.cfg.ReadTimeout, 10*time.Second),
		IdleTimeout:       s.cfg.IdleTimeout,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(quiet{s.deps.Log.Handler()}, slog.LevelInfo),
		// No WriteTimeout: it would end streams. The guard sets a deadline for each answer.
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	select {
	case err := <-failed:
		s.stopDrain()
		return err
	case <-ctx.Done():
	}
	s.stopDrain() // not ready; streams end
	if s.cfg.DrainDelay > 0 {
		t := time.NewTimer(s.cfg.DrainDelay)
		select {
		case <-t.C:
		case err := <-failed:
			t.Stop()
			return err
		}
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainTimeout)
	defer cancel()
	err := srv.Shutdown(stop)
	if err != nil {
		s.deps.Log.WarnContext(ctx, "calls still running at the end of the drain timeout are cut off")
		err = srv.Close()
	}
	if s.deps.Tasks != nil {
		s.deps.Tasks.Drain(stop) // with what is left of the time
	}
	if served := <-failed; err == nil && !errors.Is(served, http.ErrServerClosed) {
		err = served
	}
	return err
}
