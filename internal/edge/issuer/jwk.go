package issuer

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

const (
	maxKeySet    = 64 << 10
	maxSetKeys   = 32
	maxRemote    = 200              // key sets that are kept
	keysFresh    = 15 * time.Minute // a key set is read again after
	keysCooldown = 10 * time.Second // at most one read of a set in
	fetchTime    = 5 * time.Second
)

// A publicKey is somebody else's, by which a signature of theirs is checked.
type publicKey struct {
	kid, alg string // may be empty
	key      any
}

// parseKeys parses a JSON Web Key Set (RFC 7517 section 5). Keys of unknown kinds are passed over;
// secret ones are an error: whoever can read them can sign.
func parseKeys(data []byte) ([]publicKey, error) {
	if len(data) > maxKeySet {
		return nil, errors.New("the key set is too large")
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(data, &set); err != nil {
		return nil, errors.New("is no JSON Web Key Set")
	}
	if len(set.Keys) > maxSetKeys {
		return nil, errors.New("the key set has too many keys")
	}
	var keys []publicKey
	for _, raw := range set.Keys {
		var m jwkset.JWKMarshal
		if err := json.Unmarshal(raw, &m); err != nil {
			return nil, errors.New("is no JSON Web Key Set")
		}
		if m.D != "" || m.K != "" || m.P != "" {
			return nil, errors.New("the key set holds a secret key")
		}
		if m.USE != "" && m.USE != jwkset.UseSig {
			continue
		}
		key, err := importKey(m)
		if err != nil {
			continue
		}
		keys = append(keys, publicKey{m.KID, m.ALG.String(), key})
	}
	if len(keys) == 0 {
		return nil, errors.New("the key set holds no key that signatures can be checked with")
	}
	return keys, nil
}

// importKey returns the public key of m: on a curve, or of RSA with 2048 bits or more.
func importKey(m jwkset.JWKMarshal) (any, error) {
	m.X5U, m.X5C, m.X5T, m.X5TS256 = "", nil, "", "" // nothing is fetched, no certificate is asked
	m.KEYOPS = nil
	jwk, err := jwkset.NewJWKFromMarshal(m, jwkset.JWKMarshalOptions{}, jwkset.JWKValidateOptions{SkipUse: true})
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	switch k := jwk.Key().(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return k, nil
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 || k.N.BitLen() > 8192 {
			return nil, errors.New("key: RSA needs 2048 to 8192 bits")
		}
		return k, nil
	}
	return nil, errors.New("key: is of another kind")
}

// jwkThumbprint returns the RFC 7638 thumbprint of m.
func jwkThumbprint(m jwkset.JWKMarshal) (string, error) {
	var members any // in the order of the RFC, which is that of the alphabet
	switch m.KTY {
	case jwkset.KtyEC:
		members = struct {
			CRV string `json:"crv"`
			KTY string `json:"kty"`
			X   string `json:"x"`
			Y   string `json:"y"`
		}{m.CRV.String(), m.KTY.String(), m.X, m.Y}
	case jwkset.KtyRSA:
		members = struct {
			E   string `json:"e"`
			KTY string `json:"kty"`
			N   string `json:"n"`
		}{m.E, m.KTY.String(), m.N}
	case jwkset.KtyOKP:
		members = struct {
			CRV string `json:"crv"`
			KTY string `json:"kty"`
			X   string `json:"x"`
		}{m.CRV.String(), m.KTY.String(), m.X}
	default:
		return "", errors.New("key: is of another kind")
	}
	data, err := json.Marshal(members)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// keyFor chooses the key for a token's header: that of its kid, or the only one there is.
func keyFor(keys []publicKey) jwt.Keyfunc {
	return func(t *jwt.Token) (any, error) {
		if _, ok := t.Header["crit"]; ok {
			return nil, errors.New("crit names extensions that are not understood") // RFC 7515 section 4.1.11
		}
		kid, named := t.Header["kid"].(string)
		var found []publicKey
		for _, k := range keys {
			if (!named || k.kid == kid) && (k.alg == "" || k.alg == t.Method.Alg()) {
				found = append(found, k)
			}
		}
		if len(found) != 1 {
			return nil, errors.New("no key for the token")
		}
		return found[0].key, nil
	}
}

// hasType reports whether the token's typ is want (RFC 7515 section 4.1.9: "application/" may be
// there, and media types have no case).
func hasType(t *jwt.Token, want string) bool {
	typ, _ := t.Header["typ"].(string)
	return strings.TrimPrefix(strings.ToLower(typ), "application/") == want
}

// remoteKeys are key sets that are fetched. Each is read when it is first needed, when it is old, and
// when a token names a key that it has not, but never more often than once in ten seconds.
type remoteKeys struct {
	fetch func(ctx context.Context, url string) ([]byte, http.Header, error)

	mu   sync.Mutex // guards sets
	sets map[string]*remoteSet
}

type remoteSet struct {
	mu    sync.Mutex // held while the set is read; guards what follows
	keys  []publicKey
	tried time.Time
	read  time.Time
}

func newRemoteKeys(fetch func(context.Context, string) ([]byte, http.Header, error)) *remoteKeys {
	return &remoteKeys{fetch: fetch, sets: map[string]*remoteSet{}}
}

// keys returns the keys at the URL; fresh asks for keys that are newer than the last ones.
func (r *remoteKeys) keys(ctx context.Context, url string, fresh bool) ([]publicKey, error) {
	r.mu.Lock()
	set := r.sets[url]
	if set == nil {
		if len(r.sets) >= maxRemote {
			for u := range r.sets { // any: it only costs a fetch
				delete(r.sets, u)
				break
			}
		}
		set = &remoteSet{}
		r.sets[url] = set
	}
	r.mu.Unlock()

	set.mu.Lock()
	defer set.mu.Unlock()
	now := time.Now()
	old := fresh || now.Sub(set.read) > keysFresh
	if old && now.Sub(set.tried) > keysCooldown {
		set.tried = now
		ctx, cancel := context.WithTimeout(ctx, fetchTime)
		defer cancel()
		if body, _, err := r.fetch(ctx, url); err == nil {
			if keys, err := parseKeys(body); err == nil {
				set.keys, set.read = keys, now
			}
		}
	}
	if len(set.keys) == 0 || now.Sub(set.read) > 24*time.Hour {
		return nil, errors.New("the keys cannot be read")
	}
	return set.keys, nil
}

// parse checks a token of somebody else: its signature by the keys given or at the URL, its
// algorithm, its times, and its typ if typ is not empty. It returns its claims.
func (s *Server) parse(ctx context.Context, token, typ string, keys []publicKey, keysURL string) (jwt.MapClaims, error) {
	parser := jwt.NewParser(jwt.WithValidMethods(assertionAlgorithms), jwt.WithExpirationRequired(), jwt.WithIssuedAt(),
		jwt.WithLeeway(clockSkew), jwt.WithStrictDecoding())
	try := func(keys []publicKey) (jwt.MapClaims, error) {
		claims := jwt.MapClaims{}
		t, err := parser.ParseWithClaims(token, claims, keyFor(keys))
		if err != nil {
			return nil, err
		}
		if typ != "" && !hasType(t, typ) {
			return nil, errors.New("typ is not " + typ)
		}
		return claims, nil
	}
	if keysURL == "" {
		return try(keys)
	}
	if s.remote == nil {
		return nil, errors.New("keys cannot be fetched")
	}
	keys, err := s.remote.keys(ctx, keysURL, false)
	if err != nil {
		return nil, err
	}
	claims, err := try(keys)
	if err != nil && errors.Is(err, jwt.ErrTokenUnverifiable) { // perhaps of a new key
		if keys, err := s.remote.keys(ctx, keysURL, true); err == nil {
			return try(keys)
		}
	}
	return claims, err
}

// clockSkew is how far another's clock may be off.
const clockSkew = 30 * time.Second
