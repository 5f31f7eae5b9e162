package mcp

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

// guard does what every route needs before anything else: it survives panics, sets headers that
// limit what a browser does with an answer, limits size and time, and checks for which host and
// from which web page a request comes.
func (s *Server) guard(next http.Handler) http.Handler {
	self, err := url.Parse(s.cfg.PublicURL)
	if err != nil { // Validate has parsed it
		self = &url.URL{}
	}
	hosts := append([]string{self.Hostname()}, s.cfg.AllowedHosts...)
	origins := append([]string{s.cfg.PublicURL}, s.cfg.AllowedOrigins...)
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w := &writer{ResponseWriter: rw, timeout: s.cfg.WriteTimeout}
		defer func() {
			if p := recover(); p != nil {
				if p == http.ErrAbortHandler { //nolint:errorlint // a sentinel to be passed on as it is
					panic(p)
				}
				s.deps.Log.ErrorContext(r.Context(), "panic while serving", "path", r.URL.Path, "panic", p)
				if !w.wrote {
					edge.WriteFailure(w, atlas.Errorf(atlas.CodeInternal, nil, ""))
				}
			}
		}()
		// Before any refusal: net/http reads what is left of the body of a refused request too.
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.cfg.ReadTimeout)) // not all writers can
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")

		if !hostAllowed(r, hosts, s.cfg.AllowedHosts != nil) {
			leaveBody(w, r)
			edge.WriteFailureStatus(w, atlas.Errorf(atlas.CodeHostNotAllowed, nil, "the Host header does not name this server"), http.StatusForbidden)
			return
		}
		if origin := r.Header.Values("Origin"); len(origin) > 0 && !public(r) {
			if len(origin) > 1 || !slices.Contains(origins, origin[0]) {
				leaveBody(w, r)
				edge.WriteFailureStatus(w, atlas.Errorf(atlas.CodeHostNotAllowed, nil, "requests from this web origin are not accepted"), http.StatusForbidden)
				return
			}
			h.Set("Access-Control-Allow-Origin", origin[0])
			h.Set("Access-Control-Expose-Headers", "WWW-Authenticate, Retry-After")
			h.Add("Vary", "Origin")
			if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
				h.Set("Access-Control-Allow-Methods", "GET, POST")
				h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type, Accept, MCP-Protocol-Version, Mcp-Method, Mcp-Name, X-Tenant-Id")
				h.Set("Access-Control-Max-Age", "600")
				w.WriteHeader(http.StatusNoContent)
				return
			}
		}
		if r.ContentLength > s.cfg.MaxBody {
			refuseSize(w, s.cfg.MaxBody)
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, s.cfg.MaxBody)
		next.ServeHTTP(w, r)
	})
}

// leaveBody has net/http answer before it reads what is left of the body, if there is one.
func leaveBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
}

func refuseSize(w http.ResponseWriter, limit int64) {
	w.Header().Set("Connection", "close") // rather than read the rest
	edge.WriteFailure(w, atlas.Errorf(atlas.CodeTooLarge, nil, fmt.Sprintf("a request may have %d bytes", limit)))
}

func notAllowed(w http.ResponseWriter, allowed ...string) {
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	edge.WriteFailureStatus(w, atlas.Errorf(atlas.CodeInvalidArguments, nil, "use "+strings.Join(allowed, " or ")), http.StatusMethodNotAllowed)
}

// hostAllowed keeps web pages from reaching the server under a name of theirs that they have pointed
// at it (DNS rebinding). On a loopback address only names of this machine and the listed ones are
// accepted. Elsewhere any is, unless names are listed. Probes, which call a container by its address
// and read nothing of value, are let through.
func hostAllowed(r *http.Request, hosts []string, listed bool) bool {
	if r.URL.Path == "/healthz" || r.URL.Path == "/readyz" {
		return true
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if slices.ContainsFunc(hosts, func(h string) bool { return strings.EqualFold(h, host) }) {
		return true
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if local != nil && edge.IsLoopback(local.String()) {
		if host == "localhost" {
			return true
		}
		ip, err := netip.ParseAddr(host)
		return err == nil && ip.Unmap().IsLoopback()
	}
	return !listed
}

// public reports whether r reads a document that is meant for everybody, web pages too.
func public(r *http.Request) bool {
	return r.Method == http.MethodGet && (strings.HasPrefix(r.URL.Path, "/.well-known/") || r.URL.Path == CardPath)
}

// writer limits how long a client may take to read an answer, unless it is a stream of events,
// which also is kept from being held back by proxies.
type writer struct {
	http.ResponseWriter
	timeout time.Duration
	wrote   bool
}

// Unwrap lets http.ResponseController reach the connection.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *writer) WriteHeader(status int) {
	if !w.wrote {
		w.wrote = true
		deadline := time.Now().Add(w.timeout)
		if strings.HasPrefix(w.Header().Get("Content-Type"), "text/event-stream") {
			deadline = time.Time{}
			w.Header().Set("X-Accel-Buffering", "no")
		}
		_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(deadline) // not all writers can
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *writer) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}
