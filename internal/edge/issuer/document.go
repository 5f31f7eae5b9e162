package issuer

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

const (
	maxDocument      = 16 << 10
	documentFresh    = 10 * time.Minute // when the answer does not say
	documentLongest  = 24 * time.Hour
	documentShortest = 30 * time.Second // also when it must not be kept: a sign-in reads it three times
	documentFailed   = time.Minute
	maxFetches       = 8
)

// isDocumentURL reports whether a client id is the URL of a client ID metadata document
// (draft-ietf-oauth-client-id-metadata-document section 3): https, with a path, in one spelling only.
func isDocumentURL(id string) bool {
	if !strings.HasPrefix(id, "https://") || len(id) > maxURI {
		return false
	}
	u, err := parseRedirect(id)
	return err == nil && u.Hostname() != "" && len(u.Path) > 1 && u.RawQuery == "" && !strings.HasSuffix(id, "?") &&
		path.Clean(u.Path) == strings.TrimSuffix(u.Path, "/") && u.Host == strings.ToLower(u.Host)
}

// documents are clients that describe themselves where their id points to (SEP-991). What was read is
// kept for as long as the answer allows; what failed is not tried again for a minute.
type documents struct {
	fetch   func(ctx context.Context, url string) ([]byte, http.Header, error)
	max     int
	group   singleflight.Group
	running chan struct{} // slots for fetches

	mu    sync.Mutex // guards cache
	cache map[string]document
}

type document struct {
	client *client // nil: there is no usable document
	until  time.Time
}

func newDocuments(fetch func(context.Context, string) ([]byte, http.Header, error), most int) *documents {
	return &documents{fetch: fetch, max: most, running: make(chan struct{}, maxFetches), cache: map[string]document{}}
}

// mayFetch counts a request for the client if it makes the server fetch a document of somebody's
// choice, and returns how long that must wait.
func (s *Server) mayFetch(r *http.Request, id string) time.Duration {
	if s.documents == nil || !isDocumentURL(id) || s.documents.known(id) {
		return 0
	}
	if wait := s.limits.documents.wait(s.peer(r)); wait > 0 {
		return wait
	}
	s.limits.documents.take(s.peer(r))
	return 0
}

// known reports whether the client can be had without a fetch.
func (d *documents) known(id string) bool {
	_, ok := d.cached(id)
	return ok
}

func (d *documents) cached(id string) (document, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	doc, ok := d.cache[id]
	return doc, ok && time.Now().Before(doc.until)
}

// client returns the client that the document at the URL describes, or errNoClient.
func (d *documents) client(ctx context.Context, id string) (*client, error) {
	doc, ok := d.cached(id)
	if !ok {
		// One fetch for all who wait, which does not end when the first of them goes away.
		wait := d.group.DoChan(id, func() (any, error) {
			doc := d.read(context.WithoutCancel(ctx), id)
			d.keep(id, doc)
			return doc, nil
		})
		select {
		case res := <-wait:
			doc, _ = res.Val.(document)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if doc.client == nil {
		return nil, errNoClient
	}
	return doc.client, nil
}

func (d *documents) keep(id string, doc document) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if len(d.cache) >= d.max {
		for k, old := range d.cache {
			if !now.Before(old.until) {
				delete(d.cache, k)
			}
		}
		for k := range d.cache { // any: it only costs a fetch
			if len(d.cache) < d.max {
				break
			}
			delete(d.cache, k)
		}
	}
	d.cache[id] = doc
}

// read fetches and checks a document. Why it cannot be used is not told apart: it would say what can
// be reached from here.
func (d *documents) read(ctx context.Context, id string) document {
	bad := document{until: time.Now().Add(documentFailed)}
	select {
	case d.running <- struct{}{}:
		defer func() { <-d.running }()
	default:
		return document{} // too many at once; not kept
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	body, header, err := d.fetch(ctx, id)
	if err != nil || !isJSON(header.Get("Content-Type")) {
		return bad
	}
	c, err := parseDocument(id, body)
	if err != nil {
		return bad
	}
	return document{client: c, until: time.Now().Add(freshness(header))}
}

// parseDocument makes a client of a document, which must be the id's own.
func parseDocument(id string, body []byte) (*client, error) {
	if len(body) > maxDocument {
		return nil, errors.New("the document is too large")
	}
	var m clientMetadata
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, errors.New("the document is no JSON object of client metadata")
	}
	if m.ClientID != id {
		return nil, errors.New("the document is of another client")
	}
	if m.Secret != "" || m.SecretExpires != nil { // section 4.1: everybody can read it
		return nil, errors.New("the document holds a secret")
	}
	if m.AuthMethod == "" {
		m.AuthMethod = authNone
	}
	if !slices.Contains([]string{authNone, authKeyJWT}, m.AuthMethod) {
		return nil, errors.New("the document's way to authenticate needs a secret")
	}
	m.Scope = "" // what it usually asks for, not a bound
	c, err := m.client()
	if err != nil {
		return nil, err
	}
	if c.Auth == authKeyJWT {
		switch {
		case len(m.JWKS) > 0 && m.JWKSURI == "":
			if c.keys, err = parseKeys(m.JWKS); err != nil {
				return nil, err
			}
		case len(m.JWKS) == 0 && sameHost(m.JWKSURI, id):
			c.keysURL = m.JWKSURI
		default:
			return nil, errors.New("the document needs one of jwks and, at its own host, jwks_uri")
		}
	}
	return c, nil
}

func sameHost(a, b string) bool {
	u, err := url.Parse(a)
	v, err2 := url.Parse(b)
	return err == nil && err2 == nil && u.Scheme == "https" && u.User == nil && u.Host == v.Host
}

// freshness returns for how long an answer may be kept (RFC 9111 section 5.2.2), within bounds.
func freshness(h http.Header) time.Duration {
	for directive := range strings.SplitSeq(strings.ToLower(strings.Join(h.Values("Cache-Control"), ",")), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch name {
		case "no-store", "no-cache":
			return documentShortest
		case "max-age":
			seconds, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 32)
			if err != nil || seconds < 0 {
				return documentShortest
			}
			return min(max(time.Duration(seconds)*time.Second, documentShortest), documentLongest)
		}
	}
	return documentFresh
}
