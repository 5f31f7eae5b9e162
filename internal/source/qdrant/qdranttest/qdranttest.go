// Package qdranttest is a Qdrant server for tests: the part of its REST API that package qdrant
// uses, in memory, built from the published OpenAPI document. It is stricter than the real one: it
// refuses fields, parameters and types that are not in the document, and filters on fields without
// an index (as a real one in strict mode). Filters and cosine are evaluated exactly. What it was
// compared with is edge.py beside it, which serves the same API on Qdrant's own engine; the tests
// of package qdrant run on both.
package qdranttest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Version is what the server says that it is.
const Version = "1.17.0"

// A Server is an http.Handler. Its zero value is an empty server without a key.
type Server struct {
	APIKey     string // asked for in the header api-key, if not empty
	ReadAPIKey string // may be used for everything that changes nothing, if not empty

	mu          sync.RWMutex
	collections map[string]*collection
}

// A refusal is an error as Qdrant answers it.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

func refuse(status int, format string, args ...any) error {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// A call is a request, taken apart.
type call struct {
	collection string
	query      url.Values
	body       []byte
}

type route struct {
	method, path string
	params       []string // of the query
	writes       bool
	serve        func(s *Server, c call) (any, error)
}

var routes = []route{
	{"GET", "", []string{}, false, (*Server).info},
	{"GET", "/exists", []string{}, false, (*Server).exists},
	{"PUT", "", []string{"timeout"}, true, (*Server).create},
	{"DELETE", "", []string{"timeout"}, true, (*Server).drop},
	{"PUT", "/index", []string{"wait", "ordering", "timeout"}, true, (*Server).index},
	{"PUT", "/points", []string{"wait", "ordering", "timeout"}, true, (*Server).upsert},
	{"POST", "/points/delete", []string{"wait", "ordering", "timeout"}, true, (*Server).remove},
	{"POST", "/points/scroll", []string{"consistency", "timeout"}, false, (*Server).scroll},
	{"POST", "/points/query", []string{"consistency", "timeout"}, false, (*Server).query},
	{"POST", "/points/query/batch", []string{"consistency", "timeout"}, false, (*Server).batch},
}

var collectionPath = regexp.MustCompile(`^/collections/([^/]+)(/.*)?$`)

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/", "/healthz", "/readyz", "/livez":
		answer(w, http.StatusOK, map[string]string{"title": "qdrant - vector search engine", "version": Version})
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 32<<20))
	if err != nil {
		return
	}
	m := collectionPath.FindStringSubmatch(r.URL.Path)
	for _, route := range routes {
		if m == nil || route.method != r.Method || route.path != m[2] {
			continue
		}
		if s.APIKey != "" && r.Header.Get("api-key") != s.APIKey {
			if route.writes && r.Header.Get("api-key") == s.ReadAPIKey && s.ReadAPIKey != "" {
				answer(w, http.StatusForbidden, map[string]any{"status": map[string]string{"error": "Forbidden: Global manage access is required"}, "time": 0})
				return
			}
			if s.ReadAPIKey == "" || r.Header.Get("api-key") != s.ReadAPIKey {
				w.WriteHeader(http.StatusUnauthorized)
				_, _ = io.WriteString(w, "Must provide an API key or an Authorization bearer token") // the client is gone, or not
				return
			}
		}
		result, err := s.serve(route, r, call{m[1], r.URL.Query(), body})
		if err != nil {
			status := http.StatusInternalServerError
			if e, ok := err.(*refusal); ok { //nolint:errorlint // made above, never wrapped
				status = e.status
			}
			answer(w, status, map[string]any{"status": map[string]string{"error": err.Error()}, "time": 0.001})
			return
		}
		answer(w, http.StatusOK, map[string]any{"result": result, "status": "ok", "time": 0.001})
		return
	}
	w.WriteHeader(http.StatusNotFound)
}

func answer(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		status, data = http.StatusInternalServerError, []byte(err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(data) // the client is gone, or not
}

func (s *Server) serve(route route, r *http.Request, c call) (any, error) {
	for name, values := range c.query {
		if !slices.Contains(route.params, name) || len(values) != 1 {
			return nil, refuse(http.StatusBadRequest, "Format error in query: unknown parameter %s", name)
		}
		ok := true
		switch v := values[0]; name {
		case "timeout":
			n, err := strconv.Atoi(v)
			ok = err == nil && n >= 1
		case "wait":
			ok = v == "true" || v == "false"
		case "ordering":
			ok = slices.Contains([]string{"weak", "medium", "strong"}, v)
		case "consistency":
			n, err := strconv.Atoi(v)
			ok = err == nil && n >= 1 || slices.Contains([]string{"majority", "quorum", "all"}, v)
		}
		if !ok {
			return nil, refuse(http.StatusBadRequest, "Format error in query: invalid value of %s", name)
		}
	}
	if len(c.body) > 0 && !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		return nil, refuse(http.StatusBadRequest, "Format error in JSON body: content type error")
	}
	if route.writes {
		s.mu.Lock()
		defer s.mu.Unlock()
	} else {
		s.mu.RLock()
		defer s.mu.RUnlock()
	}
	return route.serve(s, c)
}

// decode reads a body strictly.
func decode(body []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	dec.UseNumber()
	if err := dec.Decode(v); err != nil {
		return refuse(http.StatusBadRequest, "Format error in JSON body: %v", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return refuse(http.StatusBadRequest, "Format error in JSON body: trailing characters")
	}
	return nil
}

func (s *Server) named(name string) (*collection, error) {
	if c, ok := s.collections[name]; ok {
		return c, nil
	}
	return nil, refuse(http.StatusNotFound, "Not found: Collection `%s` doesn't exist!", name)
}

func (s *Server) exists(c call) (any, error) {
	_, ok := s.collections[c.collection]
	return map[string]bool{"exists": ok}, nil
}

func (s *Server) drop(c call) (any, error) {
	_, ok := s.collections[c.collection]
	delete(s.collections, c.collection)
	return ok, nil
}
