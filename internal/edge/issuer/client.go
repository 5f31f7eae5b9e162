package issuer

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/url"
	"slices"
	"strings"
	"unicode"

	"github.com/atlas-mcp/atlas"
)

// A client is an application, wherever its description comes from.
type client struct {
	ID        string   `json:"id"`
	Name      string   `json:"name"`
	Redirects []string `json:"redirects"`
	Grants    []string `json:"grants"`
	Auth      string   `json:"auth"`   // none, client_secret_basic, client_secret_post or private_key_jwt
	Secret    string   `json:"secret"` // hex SHA-256
	Scopes    []string `json:"scopes"` // at most; empty: whatever the person has
	DPoP      bool     `json:"dpop"`   // its tokens are bound to a key

	keys       []publicKey // for private_key_jwt
	keysURL    string
	tenant     atlas.TenantID // the only one whose tokens it gets; empty: any person's own
	roles      []string
	introspect bool
	trusted    bool // the operator has registered it
}

var errNoClient = errors.New("no such client")

// client returns the client of that id: configured, described by a document, or registered. The
// error is errNoClient if there is none.
func (s *Server) client(ctx context.Context, id string) (*client, error) {
	if c := s.clients[id]; c != nil {
		return c, nil
	}
	if !isClientID(id) {
		return nil, errNoClient
	}
	if isDocumentURL(id) {
		if s.documents == nil {
			return nil, errNoClient
		}
		return s.documents.client(ctx, id)
	}
	if slot := parseSlot(id); slot >= 0 && !s.cfg.Registration.Disabled {
		return s.registered(ctx, id, slot)
	}
	return nil, errNoClient
}

func configured(c Client) (*client, error) {
	out := &client{
		ID: c.ID, Name: c.Name, Redirects: c.RedirectURIs, Grants: c.grants(), Auth: authNone, Secret: strings.ToLower(c.SecretSHA256),
		Scopes: c.Scopes, DPoP: c.DPoP, tenant: atlas.TenantID(c.Tenant), roles: c.Roles, introspect: c.Introspect, trusted: true,
	}
	switch {
	case c.SecretSHA256 != "":
		out.Auth = authBasic
	case c.JWKS != "":
		out.Auth = authKeyJWT
		var err error
		if out.keys, err = parseKeys([]byte(c.JWKS)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// isClientID reports whether s has the form of a client id (RFC 6749 appendix A.1) or of a URL.
func isClientID(s string) bool {
	if s == "" || len(s) > maxURI {
		return false
	}
	for i := range len(s) {
		if s[i] <= 0x20 || s[i] >= 0x7f {
			return false
		}
	}
	return len(s) <= 256 || isDocumentURL(s)
}

func (c *client) public() bool { return c.Auth == authNone }

func (c *client) may(grant string) bool { return slices.Contains(c.Grants, grant) }

// allowed returns the scopes that the client may have of those given.
func (c *client) allowed(scopes []string) []string {
	if len(c.Scopes) == 0 {
		return scopes
	}
	return intersect(scopes, c.Scopes)
}

// rightSecret compares digests, which takes the same time for every wrong secret.
func (c *client) rightSecret(secret string) bool {
	want, err := hex.DecodeString(c.Secret)
	sum := sha256.Sum256([]byte(secret))
	return err == nil && len(want) == len(sum) && subtle.ConstantTimeCompare(sum[:], want) == 1
}

// host returns the host that vouches for the client: that of its document, or none.
func (c *client) host() string {
	if !isDocumentURL(c.ID) {
		return ""
	}
	u, err := url.Parse(c.ID)
	if err != nil {
		return ""
	}
	return u.Host
}

// label returns a name for people: printable, short and never empty. Whoever registers chooses it,
// so it never stands alone on a page.
func (c *client) label() string {
	clean := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || isInvisible(r) {
			return -1
		}
		return r
	}, c.Name)
	if r := []rune(clean); len(r) > 80 {
		clean = string(r[:80]) + "…"
	}
	switch clean = strings.TrimSpace(clean); {
	case clean != "":
		return clean
	case c.trusted:
		return c.ID
	}
	return "an application without a name"
}

// isInvisible reports whether r counts as printable and shows nothing: joiners, fillers, variation selectors.
func isInvisible(r rune) bool {
	return unicode.In(r, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point) || r == 0x2800
}

// intersect returns the elements of a that b has too, in a's order, each once.
func intersect(a, b []string) []string {
	var out []string
	for _, s := range a {
		if slices.Contains(b, s) && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
