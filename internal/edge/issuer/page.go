package issuer

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
)

//go:embed pages
var pageFiles embed.FS

// A pageView is what every page shows and sends back.
type pageView struct {
	Title    string
	Style    template.CSS
	Request  string // the authorization request that the page is about
	redirect string
}

type clientView struct {
	Name         string
	Host         string // that vouches for the name; empty if nobody does
	Registered   bool   // by the operator
	RedirectHost string
	Local        bool // the answer goes to a program on the user's machine
}

type loginView struct {
	pageView
	Notice    string
	Client    clientView
	Action    string
	Token     string
	Personas  []Persona
	Passwords bool
}

type consentView struct {
	pageView
	Client         clientView
	Who            Persona
	Resource       string
	Scopes         []scopeView
	Action, Logout string
	Token          string
	Lasting        bool
	Days           int
}

type errorView struct {
	pageView
	Code, Message string
}

// A scopeView is a scope for people.
type scopeView struct {
	Text  string
	Name  string // as the token has it
	Grave bool
}

// actions are what a tool's scope allows, by its last part.
var actions = map[string]string{
	"read": "Read from %s", "write": "Change data in %s", "fetch": "Fetch web pages through %s",
	"delete": "Delete data in %s", "admin": "Use %s without restriction",
}

var wholeScopes = map[string]string{
	atlas.ScopeAdmin:       "Use every tool without restriction",
	atlas.ScopeImpersonate: "Act for other tenants",
	atlas.ScopeApprove:     "Decide in your name which waiting calls may run",
	atlas.ScopeAudit:       "Read the audit log of your tenant",
}

// describe says in words what a scope allows.
func describe(scope string) scopeView {
	v := scopeView{Name: scope, Grave: slices.Contains(privileged, scope) || strings.HasSuffix(scope, ":admin") || strings.HasSuffix(scope, ":write") || strings.HasSuffix(scope, ":delete")}
	if text, ok := wholeScopes[scope]; ok {
		v.Text = text
		return v
	}
	parts := strings.Split(scope, ":")
	if len(parts) == 3 && parts[0] == "tool" {
		tool := "“" + parts[1] + "”"
		if parts[1] == "*" {
			tool = "every tool"
		}
		if text, ok := actions[parts[2]]; ok {
			v.Text = fmt.Sprintf(text, tool)
			return v
		}
		v.Text = fmt.Sprintf("Use %s: %s", tool, parts[2])
		return v
	}
	v.Text = "Use the permission “" + scope + "”"
	return v
}

func parsePages() (*template.Template, string, error) {
	css, err := pageFiles.ReadFile("pages/style.css")
	if err != nil {
		return nil, "", err
	}
	t, err := template.New("pages").Funcs(template.FuncMap{
		"style": func() template.CSS { return template.CSS(css) }, //nolint:gosec // our own file
	}).ParseFS(pageFiles, "pages/*.html")
	if err != nil {
		return nil, "", err
	}
	sum := sha256.Sum256(css)
	return t, "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'", nil
}

// page wraps an endpoint that a browser shows. Forms must come from our own pages: the browser says
// where a request comes from, and each form carries a token besides.
func (s *Server) page(serve http.HandlerFunc, methods ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		// Not no-referrer: with it, browsers send our own forms with the origin null.
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
		if !slices.Contains(methods, r.Method) {
			h.Set("Allow", strings.Join(methods, ", "))
			s.showError(w, r, &oauthError{code: "invalid_request", desc: "This page cannot be used in this way.", status: http.StatusMethodNotAllowed})
			return
		}
		if r.Method == http.MethodPost {
			if err := s.origin.Check(r); err != nil {
				s.showError(w, r, &oauthError{code: "invalid_request", desc: "The form comes from another site.", status: http.StatusForbidden})
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, maxForm)
			if err := r.ParseForm(); err != nil {
				s.showError(w, r, refuse("invalid_request", "The form cannot be read."))
				return
			}
		}
		serve(w, r)
	})
}

// path returns one of our paths as a browser asks for it.
func (s *Server) path(p string) string { return strings.TrimSuffix(s.self.EscapedPath(), "/") + p }

func (s *Server) view(title string, req *authRequest) pageView {
	v := pageView{Title: title}
	if req != nil {
		v.Request, v.redirect = req.raw, req.redirect
	}
	return v
}

func (s *Server) clientView(req *authRequest) clientView {
	v := clientView{Name: req.client.label(), Host: req.client.host(), Registered: req.client.trusted, Local: private(req.redirect)}
	if u, err := url.Parse(req.redirect); err == nil {
		if v.RedirectHost = u.Host; u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			v.RedirectHost = u.Scheme + ":"
		}
	}
	return v
}

func (s *Server) showError(w http.ResponseWriter, r *http.Request, err *oauthError) {
	if err.retry > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(int64((err.retry+time.Second-1)/time.Second), 10))
	}
	status := err.status
	if status == 0 {
		status = http.StatusBadRequest
	}
	s.show(w, r, status, "error", "", errorView{pageView: s.view("This does not work", nil), Code: err.code, Message: err.desc})
}

// show writes a page. Its forms may lead to us and, by redirection, to the client that waits.
func (s *Server) show(w http.ResponseWriter, r *http.Request, status int, name, redirect string, data any) {
	var b bytes.Buffer
	if err := s.pages.ExecuteTemplate(&b, name+".html", data); err != nil {
		s.log.ErrorContext(r.Context(), "page not shown", "page", name, "error", err)
		http.Error(w, "something went wrong", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src "+s.style+"; form-action 'self'"+formTarget(redirect)+"; frame-ancestors 'none'; base-uri 'none'")
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // the browser may have gone
}

// formTarget returns the redirect URI as a CSP source: browsers hold redirections after a form to
// form-action too. IPv6 hosts and schemes of applications have no host source.
func formTarget(redirect string) string {
	u, err := parseRedirect(redirect)
	if err != nil {
		return ""
	}
	host := u.Hostname()
	plain := host != "" && !strings.ContainsFunc(host, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '.')
	})
	if (u.Scheme == "https" || u.Scheme == "http") && plain {
		return " " + u.Scheme + "://" + u.Host
	}
	return " " + u.Scheme + ":"
}
