package issuer

import (
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
)

// proofAge is how old or early a proof may be (RFC 9449 section 11.1).
const proofAge = 5 * time.Minute

// proof returns the thumbprint of the key that the request proves to have (RFC 9449 section 5), or
// "" if it proves none and the client need not.
func (s *Server) proof(r *http.Request, c *client) (string, *oauthError) {
	proofs := r.Header.Values("DPoP")
	if len(proofs) == 0 && !c.DPoP {
		return "", nil
	}
	bad := func(err error) (string, *oauthError) {
		return "", &oauthError{code: "invalid_dpop_proof", desc: "the DPoP proof is missing or not valid for this request", err: err}
	}
	if len(proofs) != 1 || len(proofs[0]) > maxAssertion {
		return bad(errors.New("there must be one DPoP header"))
	}
	jkt, jti, issued, err := s.checkProof(proofs[0])
	if err != nil {
		return bad(err)
	}
	// Anybody can make proofs, so they lie in 64 spaces by key: who fills one is in few people's way.
	first, err := s.once(r.Context(), "dpop "+jkt[:1], jkt+" "+jti, issued.Add(2*proofAge))
	if err != nil {
		return "", failed(err)
	}
	if !first {
		return bad(errors.New("the proof was used before"))
	}
	return jkt, nil
}

// checkProof checks a proof for the token endpoint (RFC 9449 section 4.3).
func (s *Server) checkProof(proof string) (jkt, jti string, issued time.Time, err error) {
	claims := jwt.MapClaims{}
	t, err := jwt.NewParser(jwt.WithValidMethods(assertionAlgorithms), jwt.WithStrictDecoding(), jwt.WithoutClaimsValidation()).
		ParseWithClaims(proof, claims, func(t *jwt.Token) (any, error) {
			if _, ok := t.Header["crit"]; ok {
				return nil, errors.New("crit names extensions that are not understood")
			}
			raw, err := json.Marshal(t.Header["jwk"])
			if err != nil {
				return nil, err
			}
			var m jwkset.JWKMarshal
			if err := json.Unmarshal(raw, &m); err != nil {
				return nil, errors.New("jwk is no key")
			}
			if m.D != "" || m.K != "" || m.P != "" {
				return nil, errors.New("jwk holds a secret key")
			}
			if jkt, err = jwkThumbprint(m); err != nil {
				return nil, err
			}
			return importKey(m)
		})
	if err != nil {
		return "", "", time.Time{}, err
	}
	jti = str(claims, "jti")
	at, err := claims.GetIssuedAt()
	switch {
	case !hasType(t, typeDPoP):
		err = errors.New("typ is not " + typeDPoP)
	case str(claims, "htm") != http.MethodPost:
		err = errors.New("htm is not the method")
	case str(claims, "htu") != s.iss.cfg.Issuer+pathToken:
		err = errors.New("htu is not the token endpoint")
	case jti == "" || len(jti) > 256:
		err = errors.New("no jti")
	case err != nil || at == nil || time.Since(at.Time).Abs() > proofAge:
		err = errors.New("iat is too far from now")
	}
	if err != nil {
		return "", "", time.Time{}, err
	}
	return jkt, jti, at.Time, nil
}
