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
		_ = http.NewResponseController(rw).SetReadDeadline(time.Now().Add(s.cfg.ReadTimeout)) // not all writers can
		h := w.Header()
		h["X-Content-Type-Options"], h["Content-Security-Policy"] = noSniff, noContent
		h["Referrer-Policy"], h["Cache-Control"] = noReferrer, noStore

		if !hostAllowed(r, hosts, s.cfg.AllowedHosts != nil) {
			s.refuseForeign(w, r, "the Host header does not name this server")
			return
		}
		if origin := r.Header["Origin"]; len(origin) > 0 && !public(r) {
			if len(origin) > 1 || !slices.Contains(origins, origin[0]) {
				s.refuseForeign(w, r, "requests from this web origin are not accepted")
				return
			}
			h.Set("Access-Control-Allow-Origin", origin[0])
			h.Set("Access-Control-Expose-Headers", "WWW-Authenticate, Retry-After, Mcp-Session-Id, DPoP-Nonce")
			h.Add("Vary", "Origin")
			if r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "" {
				h.Set("Access-Control-Allow-Methods", "GET, POST, DELETE")
				h.Set("Access-Control-Allow-Headers", "Authorization, DPoP, Content-Type, Accept, MCP-Protocol-Version, Mcp-Session-Id, Mcp-Method, Mcp-Name, X-Tenant-Id"+mirrored(r))
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

// Values of header fields that do not change. They are shared: nobody may append to them.
var (
	noSniff    = []string{"nosniff"}
	noContent  = []string{"default-src 'none'; frame-ancestors 'none'"}
	noReferrer = []string{"no-referrer"}
	noStore    = []string{"no-store"}
)

// refuseForeign refuses a request for another host or from a foreign web page, and reports it.
func (s *Server) refuseForeign(w http.ResponseWriter, r *http.Request, hint string) {
	leaveBody(w, r)
	s.deps.Challenge.Report(r, atlas.CodeHostNotAllowed, "")
	edge.WriteFailureStatus(w, atlas.Errorf(atlas.CodeHostNotAllowed, nil, hint), http.StatusForbidden)
}

// mirrored returns those fields that a page asks to send in which arguments are mirrored (SEP-2243):
// their names are the tools' to choose.
func mirrored(r *http.Request) string {
	var b strings.Builder
	for field := range strings.SplitSeq(r.Header.Get("Access-Control-Request-Headers"), ",") {
		field = strings.TrimSpace(field)
		if len(field) > len(paramPrefix) && strings.EqualFold(field[:len(paramPrefix)], paramPrefix) && b.Len() < 1024 {
			b.WriteString(", ")
			b.WriteString(field)
		}
	}
	return b.String()
}

const paramPrefix = "Mcp-Param-"

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

// crossOrigin are the endpoints of the authorization server that programs in browsers call from their own
// origins. They take no cookies and answer CORS themselves.
var crossOrigin = map[string]bool{"/oauth/token": true, "/oauth/register": true, "/oauth/revoke": true}

// public reports whether r reads a document that is meant for everybody, web pages too, or is for an
// endpoint that is.
func public(r *http.Request) bool {
	if crossOrigin[r.URL.Path] {
		return true
	}
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
		if ct := w.Header()["Content-Type"]; len(ct) > 0 && strings.HasPrefix(ct[0], "text/event-stream") {
			deadline = time.Time{} // whoever writes the events sets one for each
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
