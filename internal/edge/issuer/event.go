package issuer

import (
	"context"
	"strings"

	"github.com/atlas-mcp/atlas"
)

// The values of [Event].Action.
const (
	EventLogin    = "oauth.login"
	EventLogout   = "oauth.logout"
	EventConsent  = "oauth.consent"  // to a client; Denied if the person said no
	EventRegister = "oauth.register" // of a client, by itself
	EventRevoke   = "oauth.revoke"   // of a token, or of all of a grant
	EventReuse    = "oauth.reuse"    // of a code or a refresh token; its grant has been revoked
	EventRefuse   = "oauth.refuse"   // of a request for tokens
)

// An Event is what somebody did, or tried, that decides who may act for whom. It is for the program's audit
// log: it holds no token, code or secret. Strangers cause events too, as many as they like.
type Event struct {
	Action string
	Denied bool
	// Tenant and Subject are those of the person or client that it is about; empty where nobody known is.
	Tenant  atlas.TenantID
	Subject string
	Client  string // id of the client; empty where it is not known to be it
	Detail  string // the scopes, the grant, the token's id, or the OAuth error code; may be empty
}

// Target returns client and detail as one text.
func (e Event) Target() string { return strings.TrimSpace(e.Client + " " + e.Detail) }

// record tells the program. What happened stays true when the caller hangs up.
func (s *Server) record(ctx context.Context, e Event) {
	if s.deps.Recorded != nil {
		s.deps.Recorded(context.WithoutCancel(ctx), e)
	}
}
