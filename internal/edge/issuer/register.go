package issuer

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	unusedTTL    = time.Hour // of a registration that nobody has signed in for
	maxRedirects = 10
	slotPrefix   = "dyn-"
	slotTries    = 8
)

// clientMetadata is how a client describes itself, when it registers (RFC 7591 section 2) and in its
// own document.
type clientMetadata struct {
	ClientID        string          `json:"client_id,omitempty"`
	Secret          string          `json:"client_secret,omitempty"`
	IssuedAt        int64           `json:"client_id_issued_at,omitempty"`
	SecretExpires   *int64          `json:"client_secret_expires_at,omitempty"`
	Name            string          `json:"client_name,omitempty"`
	RedirectURIs    []string        `json:"redirect_uris"`
	GrantTypes      []string        `json:"grant_types,omitempty"`
	ResponseTypes   []string        `json:"response_types,omitempty"`
	AuthMethod      string          `json:"token_endpoint_auth_method,omitempty"`
	ApplicationType string          `json:"application_type,omitempty"`
	Scope           string          `json:"scope,omitempty"`
	DPoP            bool            `json:"dpop_bound_access_tokens,omitempty"`
	JWKS            json.RawMessage `json:"jwks,omitempty"`
	JWKSURI         string          `json:"jwks_uri,omitempty"`
}

var errMetadata = errors.New("invalid_client_metadata")

// client checks the description and makes a client of it. Who describes itself may act for people
// only, and only after they have consented.
func (m *clientMetadata) client() (*client, error) {
	if len(m.RedirectURIs) == 0 || len(m.RedirectURIs) > maxRedirects {
		return nil, errors.New("redirect_uris must have 1 to 10 URIs")
	}
	if !slices.Contains([]string{"", applicationWeb, applicationNative}, m.ApplicationType) {
		return nil, errMetadata
	}
	for _, r := range m.RedirectURIs {
		if err := checkRedirect(r, m.ApplicationType); err != nil {
			return nil, err
		}
	}
	if len(m.GrantTypes) == 0 {
		m.GrantTypes = []string{grantCode}
	}
	if len(m.ResponseTypes) == 0 {
		m.ResponseTypes = []string{"code"}
	}
	m.GrantTypes = intersect(m.GrantTypes, []string{grantCode, grantRefresh}) // others are for the operator to give
	if !slices.Contains(m.GrantTypes, grantCode) || !slices.Contains(m.ResponseTypes, "code") {
		return nil, errMetadata
	}
	m.ResponseTypes = []string{"code"}
	if m.ApplicationType == "" { // OpenID Connect's default, web, would refuse most clients that forget it
		m.ApplicationType = applicationWeb
		if slices.ContainsFunc(m.RedirectURIs, private) {
			m.ApplicationType = applicationNative
		}
	}
	if len(m.Name) > 200 {
		return nil, errMetadata
	}
	scopes, ok := parseScopes(m.Scope)
	if !ok {
		return nil, errMetadata
	}
	return &client{ID: m.ClientID, Name: m.Name, Redirects: m.RedirectURIs, Grants: m.GrantTypes, Auth: m.AuthMethod, Scopes: scopes, DPoP: m.DPoP}, nil
}

// serveRegister registers a client that asks (RFC 7591), for clients that have no document. Anybody
// may; so there is room for a bounded number, and what nobody uses goes after an hour.
func (s *Server) serveRegister(w http.ResponseWriter, r *http.Request) *oauthError {
	key := s.peer(r)
	if wait := s.limits.registers.wait(key); wait > 0 {
		return tooOften(wait)
	}
	s.limits.registers.take(key)
	if !isJSON(r.Header.Get("Content-Type")) {
		return refuse("invalid_client_metadata", "the body must be application/json")
	}
	body, rerr := io.ReadAll(http.MaxBytesReader(w, r.Body, 16<<10))
	var m clientMetadata
	if rerr != nil || json.Unmarshal(body, &m) != nil {
		return refuse("invalid_client_metadata", "the body is no JSON object of client metadata, or is too large")
	}
	m.ClientID, m.Secret, m.JWKS, m.JWKSURI = "", "", nil, "" // ours to give; keys belong into a document
	if m.AuthMethod == "" {
		m.AuthMethod = authBasic // RFC 7591 section 2
	}
	if !slices.Contains([]string{authNone, authBasic, authPost}, m.AuthMethod) {
		return refuse("invalid_client_metadata", "token_endpoint_auth_method must be none, client_secret_basic or client_secret_post")
	}
	c, merr := m.client()
	if errors.Is(merr, errMetadata) {
		return refuse("invalid_client_metadata", "the client metadata has a value that this server does not accept")
	}
	if merr != nil {
		return refuse("invalid_redirect_uri", merr.Error())
	}
	now := time.Now()
	m.IssuedAt = now.Unix()
	if c.Auth != authNone {
		m.Secret = rand.Text() + rand.Text()
		c.Secret = digest(m.Secret)
		never := int64(0)
		m.SecretExpires = &never // it ends with the registration
	}
	id, err := s.enroll(r.Context(), c, now)
	if err != nil {
		return err
	}
	m.ClientID = id
	s.record(r.Context(), Event{Action: EventRegister, Client: id})
	return writeJSON(w, http.StatusCreated, m)
}

// A registration is a registered client as the store holds it.
type registration struct {
	Client client `json:"client"`
}

// enroll finds room for the client. Room is a number of slots, so that it is bounded without being
// counted; the id names the slot, and a random part that nobody else has had.
func (s *Server) enroll(ctx context.Context, c *client, now time.Time) (string, *oauthError) {
	for range slotTries {
		var b [4]byte
		_, _ = rand.Read(b[:]) // never fails
		n := (int(b[0])<<24 | int(b[1])<<16 | int(b[2])<<8 | int(b[3])) % s.cfg.Registration.Max
		slot := strconv.Itoa(n)
		c.ID = slotPrefix + slot + "-" + strings.ToLower(rand.Text())
		done, err := put(ctx, s.deps.Store, spaceClients, slot, 0, registration{*c}, now.Add(unusedTTL))
		if err != nil {
			return "", failed(err)
		}
		if done {
			return c.ID, nil
		}
	}
	return "", &oauthError{
		code: "temporarily_unavailable", desc: "there are too many registrations; try again later, or use a client ID metadata document",
		status: http.StatusServiceUnavailable, retry: unusedTTL / 4,
	}
}

// parseSlot returns the slot of a registered client's id, or -1 if it is none.
func parseSlot(id string) int {
	rest, ok := strings.CutPrefix(id, slotPrefix)
	slot, random, found := strings.Cut(rest, "-")
	n, err := strconv.Atoi(slot)
	if !ok || !found || err != nil || n < 0 || strconv.Itoa(n) != slot || len(random) != 26 {
		return -1
	}
	return n
}

// registered returns the registered client of that id.
func (s *Server) registered(ctx context.Context, id string, slot int) (*client, error) {
	r, version, err := get[registration](ctx, s.deps.Store, spaceClients, strconv.Itoa(slot))
	if err != nil {
		return nil, err
	}
	if version == 0 || r.Client.ID != id {
		return nil, errNoClient
	}
	return &r.Client, nil
}

// keepRegistered keeps a registration for which somebody has signed in.
func (s *Server) keepRegistered(ctx context.Context, id string) error {
	slot := parseSlot(id)
	if slot < 0 {
		return nil
	}
	return update(ctx, s.deps.Store, spaceClients, strconv.Itoa(slot), func(r *registration, found bool) (time.Time, bool) {
		return time.Now().Add(s.cfg.Registration.TTL), found && r.Client.ID == id
	})
}
