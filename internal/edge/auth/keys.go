package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/big"

	"github.com/golang-jwt/jwt/v5"
)

// Bounds of RSA keys: below, RFC 7518 section 3.3 forbids; above, one signature of a stranger's own
// key would cost too much.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

var curves = map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}

// fits reports whether key is one for the method: of its kind, its curve and a fit size.
func fits(m jwt.SigningMethod, key any) error {
	switch m := m.(type) {
	case *jwt.SigningMethodECDSA:
		if k, ok := key.(*ecdsa.PublicKey); ok && k.Curve.Params().BitSize == m.CurveBits {
			return nil
		}
	case *jwt.SigningMethodRSA, *jwt.SigningMethodRSAPSS:
		if k, ok := key.(*rsa.PublicKey); ok && k.N.BitLen() >= minRSABits && k.N.BitLen() <= maxRSABits {
			return nil
		}
	case *jwt.SigningMethodEd25519:
		if _, ok := key.(ed25519.PublicKey); ok {
			return nil
		}
	}
	return fmt.Errorf("the key is not one for %s", m.Alg())
}

// privateMembers are the names that only a private or a shared key has (RFC 7518 section 6).
var privateMembers = []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"}

// publicKey reads the JSON Web Key of a DPoP proof's header, and returns it with its thumbprint
// (RFC 7638, RFC 8037 appendix A.3) in base64url. A key with a private member is refused: who shows
// it around has lost it.
func publicKey(jwk map[string]any) (crypto.PublicKey, string, error) {
	for _, name := range privateMembers {
		if _, ok := jwk[name]; ok {
			return nil, "", errors.New("jwk holds a private key")
		}
	}
	text := func(name string) string { s, _ := jwk[name].(string); return s }
	number := func(name string) ([]byte, error) {
		b, err := base64url.DecodeString(text(name))
		if err != nil || len(b) == 0 || len(b) > maxRSABits/8+1 {
			return nil, fmt.Errorf("jwk.%s is no number", name)
		}
		return b, nil
	}
	switch kty := text("kty"); kty {
	case "EC":
		curve := curves[text("crv")]
		x, errX := number("x")
		y, errY := number("y")
		if err := errors.Join(errX, errY); err != nil || curve == nil {
			return nil, "", errors.New("jwk is no point of a known curve")
		}
		size := (curve.Params().BitSize + 7) / 8
		if len(x) != size || len(y) != size { // RFC 7518 section 6.2.1.2: the full size
			return nil, "", errors.New("jwk is no point of its curve")
		}
		key, err := ecdsa.ParseUncompressedPublicKey(curve, append(append([]byte{4}, x...), y...))
		if err != nil {
			return nil, "", errors.New("jwk is no point of its curve")
		}
		return key, thumbprint(`{"crv":"` + text("crv") + `","kty":"EC","x":"` + text("x") + `","y":"` + text("y") + `"}`), nil
	case "OKP":
		x, err := number("x")
		if err != nil || text("crv") != "Ed25519" || len(x) != ed25519.PublicKeySize {
			return nil, "", errors.New("jwk is no Ed25519 key")
		}
		return ed25519.PublicKey(x), thumbprint(`{"crv":"Ed25519","kty":"OKP","x":"` + text("x") + `"}`), nil
	case "RSA":
		n, errN := number("n")
		e, errE := number("e")
		if err := errors.Join(errN, errE); err != nil || n[0] == 0 || e[0] == 0 || len(e) > 4 {
			return nil, "", errors.New("jwk is no RSA key")
		}
		key := &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}
		if key.E < 3 || key.E%2 == 0 || key.N.BitLen() < minRSABits || key.N.BitLen() > maxRSABits {
			return nil, "", errors.New("jwk is no RSA key of 2048 to 8192 bits")
		}
		return key, thumbprint(`{"e":"` + text("e") + `","kty":"RSA","n":"` + text("n") + `"}`), nil
	default:
		return nil, "", errors.New("jwk is no asymmetric key")
	}
}

func thumbprint(canonical string) string {
	sum := sha256.Sum256([]byte(canonical))
	return base64url.EncodeToString(sum[:])
}
