package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/app"
)

// Profiles of the server under test.
const (
	fixture = "fixture" // the suite's own test tools, through the same edge and pipeline as production
	product = "product" // the default configuration with the demo company
)

//go:embed profile/*.yaml
var profileFiles embed.FS

// A server is Atlas with a proxy before it that adds the bearer token, because the suite has no way
// to send one. Everything else reaches Atlas as the suite sent it, Host and Origin too.
type server struct {
	url   string
	app   *app.App
	log   *os.File
	stop  context.CancelFunc
	done  chan error
	proxy *http.Server
}

// open starts a server of the profile with its data in dir.
func open(ctx context.Context, profile, dir, logFile string) (_ *server, err error) {
	s := &server{done: make(chan error, 2)}
	ctx, s.stop = context.WithCancel(ctx)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	for _, d := range []string{dir, filepath.Dir(logFile)} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			return nil, err
		}
	}
	if s.log, err = os.Create(logFile); err != nil { //nolint:gosec // the folder is the user's choice
		return nil, err
	}
	front, err := app.ListenLoopback(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, front.Close())
		}
	}()
	back, err := app.ListenLoopback(ctx)
	if err != nil {
		return nil, err
	}
	// The suite wants the name localhost, which it then varies.
	public := "http://localhost:" + strconv.Itoa(front.Addr().(*net.TCPAddr).Port) //nolint:forcetypeassert // a TCP listener
	token, err := s.openApp(ctx, profile, dir, public)
	if err != nil {
		return nil, errors.Join(err, back.Close())
	}
	s.url = public + "/mcp"
	s.proxy = &http.Server{Handler: withToken(back.Addr().String(), token), ReadHeaderTimeout: 10 * time.Second}
	go func() { s.done <- s.app.Serve(ctx, back) }()
	go func() { s.done <- ignoreClosed(s.proxy.Serve(front)) }()
	return s, nil
}

// openApp opens Atlas and returns a token for the suite.
func (s *server) openApp(ctx context.Context, profile, dir, public string) (string, error) {
	o := app.Options{DataDir: filepath.Join(dir, "data"), PublicURL: public, Version: "conformance", LogLevel: "info", LogTo: s.log}
	who := app.TokenRequest{Tenant: "acme", Subject: "copilot@acme", Roles: []string{"support_copilot"}, TTL: time.Hour}
	if profile == fixture {
		for _, name := range []string{"atlas.yaml", "policy.yaml"} {
			data, err := profileFiles.ReadFile("profile/" + name)
			if err != nil {
				return "", err
			}
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				return "", err
			}
		}
		o.ConfigFile = filepath.Join(dir, "atlas.yaml")
		f := &fixtures{reload: func(ctx context.Context) error { return s.app.Reload(ctx) }}
		o.ExtraTools = func(atlas.Handler) []*atlas.Tool { return f.tools() }
		who = app.TokenRequest{Tenant: "conformance", Subject: "suite", Roles: []string{"conformance"}, TTL: time.Hour}
	}
	var err error
	if s.app, err = app.Open(ctx, o); err != nil {
		return "", err
	}
	return s.app.Token(who)
}

func (s *server) close() error {
	s.stop()
	var errs []error
	if s.proxy != nil {
		errs = append(errs, s.proxy.Close(), <-s.done, <-s.done)
	}
	if s.app != nil {
		errs = append(errs, s.app.Close())
	}
	if s.log != nil {
		errs = append(errs, s.log.Close())
	}
	return errors.Join(errs...)
}

func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// withToken forwards to the server at addr and adds the token.
func withToken(addr, token string) http.Handler {
	target := &url.URL{Scheme: "http", Host: addr}
	proxy := &httputil.ReverseProxy{
		FlushInterval: -1,                                                      // events at once
		ErrorLog:      slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // the suite leaves streams in the middle
		Transport:     &http.Transport{MaxIdleConnsPerHost: 64},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			w.WriteHeader(http.StatusBadGateway)
			_, _ = io.WriteString(w, fmt.Sprintf("the proxy could not reach Atlas: %v\n", err))
		},
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
			if r.In.URL.Path == "/mcp" {
				r.Out.Header.Set("Authorization", "Bearer "+token)
			}
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The body as a whole first: Atlas may begin to answer before the proxy has seen the body's end,
		// and then net/http closes the body under the proxy, which breaks the answer off.
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 8<<20))
		if err != nil {
			http.Error(w, "read the request", http.StatusBadRequest)
			return
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		proxy.ServeHTTP(w, r)
	})
}
