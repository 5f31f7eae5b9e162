package issuer

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
)

// The spaces of the store. Those of people's things have the tenant behind them, so that no tenant
// fills or reaches another's.
const (
	spaceCode     = "oauth.code."
	spaceSession  = "oauth.login."
	spaceConsent  = "oauth.consent."
	spaceGrant    = "oauth.grant."
	spaceUsed     = "oauth.used." // and a digest of the client or identity provider: ids of assertions and proofs
	spaceClients  = "oauth.clients"
	spaceRevoked  = "oauth.revoked"
	spaceRevokedN = "oauth.revoked.head"
)

// get reads the record under the key; version 0 means that there is none.
func get[T any](ctx context.Context, s Store, space, key string) (v T, version int64, err error) {
	data, version, err := s.Get(ctx, space, key)
	if err != nil || version == 0 {
		return v, 0, err
	}
	err = json.Unmarshal(data, &v)
	return v, version, err
}

// put writes the record if its version still is version, and reports whether it did.
func put(ctx context.Context, s Store, space, key string, version int64, v any, expires time.Time) (bool, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return false, err
	}
	next, err := s.CompareAndSet(ctx, space, key, version, data, expires)
	return next != 0, err
}

// update changes the record under the key, trying again when another was faster. change gets the
// zero record if there is none, and returns false to leave it as it is.
func update[T any](ctx context.Context, s Store, space, key string, change func(v *T, found bool) (expires time.Time, ok bool)) error {
	for range 16 {
		v, version, err := get[T](ctx, s, space, key)
		if err != nil {
			return err
		}
		expires, ok := change(&v, version != 0)
		if !ok {
			return nil
		}
		if done, err := put(ctx, s, space, key, version, v, expires); done || err != nil {
			return err
		}
	}
	return errors.New("the record changes all the time")
}

// once reports whether the id is used for the first time, and remembers it until it expires.
func (s *Server) once(ctx context.Context, party, id string, expires time.Time) (bool, error) {
	next, err := s.deps.Store.CompareAndSet(ctx, spaceUsed+digest(party)[:32], digest(id), 0, []byte("1"), expires)
	return next != 0, err
}

func digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// A handle is a secret name of a record: the tenant, which says where to look, and 130 random bits,
// of which the store holds a digest only.
func newHandle(tenant atlas.TenantID) (handle, key string) {
	random := rand.Text()
	return string(tenant) + "." + random, digest(random)
}

// parseHandle returns where the record of the handle lies; ok is false for what is no handle.
func parseHandle(handle string) (tenant atlas.TenantID, key string, ok bool) {
	name, random, ok := strings.Cut(handle, ".")
	if !ok || len(random) != 26 {
		return "", "", false
	}
	tenant, err := atlas.ParseTenantID(name)
	return tenant, digest(random), err == nil
}

// seal returns a code that only this server can make for the parts, of which none holds a NUL.
func (s *Server) seal(parts ...string) string {
	m := hmac.New(sha256.New, s.secret)
	m.Write([]byte(strings.Join(parts, "\x00")))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

func (s *Server) sealed(code string, parts ...string) bool {
	return hmac.Equal([]byte(code), []byte(s.seal(parts...)))
}
