package auth

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

// proofAlgorithms may sign a proof; the challenge lists them.
var proofAlgorithms = []string{"ES256", "ES384", "EdDSA", "PS256", "RS256"}

const maxProof = 8 << 10 // bytes

var errBoundAsBearer = errors.New("the token is bound to a key and was sent as a bearer token")

// proofs checks proofs of possession (RFC 9449 section 4.3). It is safe for concurrent use. What it
// remembers lasts as long as the process: in that time no proof is taken twice.
type proofs struct {
	cfg     DPoP
	base    string // public URL, normalised, without a slash at its end
	nonces  *nonces
	replays *replays
}

func newProofs(cfg DPoP, publicURL string, nonceKey []byte) (*proofs, error) {
	p := &proofs{cfg: cfg, replays: newReplays(cfg.MaxAge+cfg.MaxAhead, cfg.Replays)}
	if publicURL != "" {
		base, err := normalURL(publicURL)
		if err != nil {
			return nil, fmt.Errorf("public URL: %w", err)
		}
		p.base = strings.TrimSuffix(base, "/")
	}
	if cfg.Nonces {
		p.nonces = &nonces{key: nonceKey, half: max(1, int64(cfg.NonceTTL/time.Second)/2)}
		if len(nonceKey) == 0 {
			p.nonces.key = make([]byte, 32)
			_, _ = rand.Read(p.nonces.key) // never fails
		}
	}
	return p, nil
}

// refused is the refusal of a proof: the request is as good as one without a token. Whoever made the
// proof may know why: it is about his own request.
func refused(code, why string, cause error) *atlas.Error {
	return atlas.Errorf(atlas.CodeInvalidToken, &edge.ProofError{Code: code, Err: cmp.Or(cause, errors.New(why))}, "the DPoP proof was not accepted: "+why)
}

func badProof(why string, cause error) *atlas.Error { return refused(edge.InvalidProof, why, cause) }

// check checks the one proof that r carries for token, which is bound to the key jkt and is the tenant's.
// It is called for every request: a proof is good once.
func (p *proofs) check(r *http.Request, token, jkt string, tenant atlas.TenantID, now time.Time) *atlas.Error {
	headers := r.Header["Dpop"]
	if len(headers) != 1 {
		return badProof("send exactly one DPoP header", nil)
	}
	if len(headers[0]) > maxProof {
		return badProof("it is too long", nil)
	}
	proof, err := parseJWS(headers[0])
	if err != nil {
		return badProof("it is no signed JWT", err)
	}
	if proof.header["typ"] != "dpop+jwt" {
		return badProof("typ must be dpop+jwt", nil)
	}
	if !slices.Contains(proofAlgorithms, proof.alg) {
		return badProof("alg must be one of "+strings.Join(proofAlgorithms, ", "), nil)
	}
	if _, ok := proof.header["crit"]; ok {
		return badProof("crit names unknown extensions", nil)
	}
	jwk, _ := proof.header["jwk"].(map[string]any)
	key, thumb, err := publicKey(jwk)
	if err != nil {
		return badProof("jwk must be a public key", err)
	}
	if thumb != jkt {
		return badProof("the token is bound to another key", nil)
	}
	if err := proof.verify(key); err != nil {
		return badProof("the signature is not good", err)
	}
	if e := p.claims(r, proof.claims, token, now); e != nil {
		return e
	}
	jti, _ := proof.claims["jti"].(string)
	if jti == "" || len(jti) > 256 {
		return badProof("jti must have 1 to 256 bytes", nil)
	}
	// Last, so that only proofs that are good otherwise take up room.
	switch verdict, wait := p.replays.first(tenant, sha256.Sum256([]byte(jkt+"\x00"+jti)), now); verdict {
	case replayed:
		return badProof("it was used before; make a new one, with its own jti, for each request", nil)
	case noRoom:
		return &atlas.Error{
			Code: atlas.CodeRateLimited, RetryAfter: wait,
			Err: errors.New("too many DPoP proofs of the tenant are remembered"), Hint: "too many requests with DPoP proofs; wait, then try again",
		}
	default:
		return nil
	}
}

func (p *proofs) claims(r *http.Request, claims map[string]any, token string, now time.Time) *atlas.Error {
	if claims["htm"] != r.Method {
		return badProof("htm must be the request's method", nil)
	}
	htu, _ := claims["htu"].(string)
	if want := p.base + r.URL.EscapedPath(); !sameURL(htu, want) {
		return badProof("htu must be the request's URL, as the server is known to clients", fmt.Errorf("htu is %.200q, want %.200q", htu, want))
	}
	iat, ok, err := numericDate(claims["iat"])
	switch {
	case !ok || err != nil:
		return badProof("iat must be a time", nil)
	case now.Sub(iat) > p.cfg.MaxAge:
		return badProof(fmt.Sprintf("iat is more than %s ago; look at the clock", p.cfg.MaxAge), nil)
	case iat.Sub(now) > p.cfg.MaxAhead:
		return badProof(fmt.Sprintf("iat is more than %s ahead; look at the clock", p.cfg.MaxAhead), nil)
	}
	sum := digest(token)
	if claims["ath"] != base64url.EncodeToString(sum[:]) {
		return badProof("ath must be the SHA-256 of the token", nil)
	}
	if p.nonces == nil {
		return nil // a nonce that nobody asked for is of no use, and does no harm
	}
	if nonce, _ := claims["nonce"].(string); !p.nonces.good(nonce, now) {
		return refused(edge.UseNonce, "use the nonce of the DPoP-Nonce header", nil)
	}
	return nil
}

// sameURL reports whether htu names the URL want, without query and fragment (RFC 9449 section 4.3).
func sameURL(htu, want string) bool {
	if i := strings.IndexAny(htu, "?#"); i >= 0 {
		htu = htu[:i]
	}
	if htu == want {
		return true
	}
	a, errA := normalURL(htu)
	b, errB := normalURL(want)
	return errA == nil && errB == nil && a == b
}

var defaultPorts = map[string]string{"http": ":80", "https": ":443"}

// normalURL returns an http or https URL in the form in which equal ones have equal text (RFC 3986
// section 6.2.2 and 6.2.3). Paths with dot segments are refused: servers in front resolve them, or do not.
func normalURL(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || u.Opaque != "" {
		return "", errors.New("is not an absolute URL")
	}
	port, ok := defaultPorts[u.Scheme] // Parse has made it lower case
	if !ok {
		return "", errors.New("is neither http nor https")
	}
	path := normalPath(u.EscapedPath())
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "." || segment == ".." {
			return "", errors.New("has dot segments")
		}
	}
	return u.Scheme + "://" + strings.TrimSuffix(strings.ToLower(u.Host), port) + cmp.Or(path, "/"), nil
}

// normalPath writes percent escapes in capitals, and unreserved characters without them.
func normalPath(escaped string) string {
	if !strings.Contains(escaped, "%") {
		return escaped
	}
	var b strings.Builder
	for i := 0; i < len(escaped); i++ {
		if escaped[i] != '%' || i+2 >= len(escaped) {
			b.WriteByte(escaped[i])
			continue
		}
		hex := strings.ToUpper(escaped[i+1 : i+3])
		c := unhex(hex[0])<<4 | unhex(hex[1])
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-._~", c) >= 0 {
			b.WriteByte(c)
		} else {
			b.WriteString("%" + hex)
		}
		i += 2
	}
	return b.String()
}

func unhex(c byte) byte {
	if c >= 'A' {
		return c - 'A' + 10
	}
	return c - '0'
}

// nonces makes and checks nonces without remembering them (RFC 9449 section 8): a nonce is its time, in
// halves of its life, and a MAC. It says nothing of who got it.
type nonces struct {
	key  []byte
	half int64 // seconds
}

func (n *nonces) at(period int64) string {
	raw := binary.BigEndian.AppendUint64(nil, uint64(period)) //nolint:gosec // a time since 1970
	mac := hmac.New(sha256.New, n.key)
	mac.Write([]byte("dpop-nonce\x00"))
	mac.Write(raw)
	return base64url.EncodeToString(append(raw, mac.Sum(nil)[:16]...))
}

// now returns the nonce to use from now on.
func (n *nonces) now(now time.Time) string { return n.at(now.Unix() / n.half) }

// good reports whether a nonce is ours and not too old: of this half of its life or the one before.
func (n *nonces) good(nonce string, now time.Time) bool {
	period := now.Unix() / n.half
	return hmac.Equal([]byte(nonce), []byte(n.at(period))) || hmac.Equal([]byte(nonce), []byte(n.at(period-1)))
}
