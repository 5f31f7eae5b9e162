package issuer

import "encoding/json"

// The paths of the endpoints, below the issuer's URL.
const (
	pathAuthorize  = "/oauth/authorize"
	pathLogin      = "/oauth/login"
	pathLogout     = "/oauth/logout"
	pathConsent    = "/oauth/consent"
	pathToken      = "/oauth/token" //nolint:gosec // a path, no credential
	pathRevoke     = "/oauth/revoke"
	pathIntrospect = "/oauth/introspect"
	pathRegister   = "/oauth/register"
	pathMetadata   = "/.well-known/oauth-authorization-server"
	pathKeys       = "/.well-known/jwks.json"
)

// The grant types.
const (
	grantCode        = "authorization_code"
	grantRefresh     = "refresh_token"
	grantCredentials = "client_credentials"
	grantExchange    = "urn:ietf:params:oauth:grant-type:token-exchange" // RFC 8693
	grantAssertion   = "urn:ietf:params:oauth:grant-type:jwt-bearer"     // RFC 7523, for ID-JAG only
)

// The ways in which a client shows who it is.
const (
	authNone   = "none"
	authBasic  = "client_secret_basic"
	authPost   = "client_secret_post"
	authKeyJWT = "private_key_jwt"
)

// The kinds of JSON Web Token, by their typ header.
const (
	typeAccessToken = "at+jwt"           // RFC 9068
	typeIDJAG       = "oauth-id-jag+jwt" // draft-ietf-oauth-identity-assertion-authz-grant
	typeDPoP        = "dpop+jwt"         // RFC 9449
)

// assertionAlgorithms are those that others may sign with: clients, identity providers and DPoP
// proofs. None has a shared secret.
var assertionAlgorithms = []string{"ES256", "ES384", "RS256", "PS256", "EdDSA"}

// metadata is the authorization server's self-description (RFC 8414 section 2).
type metadata struct {
	Issuer                string   `json:"issuer"`
	JWKSURI               string   `json:"jwks_uri"`
	AuthorizationEndpoint string   `json:"authorization_endpoint,omitempty"`
	TokenEndpoint         string   `json:"token_endpoint,omitempty"`
	RevocationEndpoint    string   `json:"revocation_endpoint,omitempty"`
	IntrospectionEndpoint string   `json:"introspection_endpoint,omitempty"`
	RegistrationEndpoint  string   `json:"registration_endpoint,omitempty"` // RFC 7591
	ScopesSupported       []string `json:"scopes_supported,omitempty"`
	ResponseTypes         []string `json:"response_types_supported,omitempty"`
	ResponseModes         []string `json:"response_modes_supported,omitempty"`
	GrantTypes            []string `json:"grant_types_supported,omitempty"`
	GrantProfiles         []string `json:"authorization_grant_profiles_supported,omitempty"` // ID-JAG
	TokenAuth             []string `json:"token_endpoint_auth_methods_supported,omitempty"`
	TokenAuthAlgs         []string `json:"token_endpoint_auth_signing_alg_values_supported,omitempty"`
	RevocationAuth        []string `json:"revocation_endpoint_auth_methods_supported,omitempty"`
	RevocationAuthAlgs    []string `json:"revocation_endpoint_auth_signing_alg_values_supported,omitempty"`
	IntrospectionAuth     []string `json:"introspection_endpoint_auth_methods_supported,omitempty"`
	IntrospectionAuthAlgs []string `json:"introspection_endpoint_auth_signing_alg_values_supported,omitempty"`
	ChallengeMethods      []string `json:"code_challenge_methods_supported,omitempty"`
	DPoPAlgs              []string `json:"dpop_signing_alg_values_supported,omitempty"`              // RFC 9449 section 5.1
	IssParameter          bool     `json:"authorization_response_iss_parameter_supported,omitempty"` // RFC 9207
	ClientDocuments       bool     `json:"client_id_metadata_document_supported,omitempty"`          // CIMD
	Resources             []string `json:"protected_resources,omitempty"`                            // RFC 9728 section 4
}

// signerMetadata describes an issuer that only signs.
func signerMetadata(issuer string) ([]byte, error) {
	return json.Marshal(metadata{Issuer: issuer, JWKSURI: issuer + pathKeys})
}

// metadata describes the server as it is configured; nothing is named that does not answer.
func (s *Server) metadata() ([]byte, error) {
	base := s.iss.cfg.Issuer
	methods := []string{authNone, authBasic, authPost, authKeyJWT}
	m := metadata{
		Issuer: base, JWKSURI: base + pathKeys,
		AuthorizationEndpoint: base + pathAuthorize, TokenEndpoint: base + pathToken,
		RevocationEndpoint: base + pathRevoke, IntrospectionEndpoint: base + pathIntrospect,
		ScopesSupported: s.cfg.Scopes,
		ResponseTypes:   []string{"code"}, ResponseModes: []string{"query"},
		GrantTypes: []string{grantCode, grantRefresh, grantCredentials, grantExchange},
		TokenAuth:  methods, TokenAuthAlgs: assertionAlgorithms,
		RevocationAuth: methods, RevocationAuthAlgs: assertionAlgorithms,
		IntrospectionAuth: methods[1:], IntrospectionAuthAlgs: assertionAlgorithms,
		ChallengeMethods: []string{"S256"}, DPoPAlgs: assertionAlgorithms,
		IssParameter: true, ClientDocuments: s.documents != nil, Resources: s.resources,
	}
	if !s.cfg.Registration.Disabled {
		m.RegistrationEndpoint = base + pathRegister
	}
	if len(s.providers) > 0 {
		m.GrantTypes = append(m.GrantTypes, grantAssertion)
		m.GrantProfiles = []string{"urn:ietf:params:oauth:grant-profile:id-jag"}
	}
	return json.Marshal(m)
}
