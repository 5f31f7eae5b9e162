package atlas

import "time"

// ApprovalState is where an approval stands. The only moves are pending to approved, denied or
// expired, approved to used or expired, and used back to approved when nothing was done.
type ApprovalState string

// The states of an approval.
const (
	ApprovalPending  ApprovalState = "pending"
	ApprovalApproved ApprovalState = "approved"
	ApprovalDenied   ApprovalState = "denied"
	ApprovalUsed     ApprovalState = "used"
	ApprovalExpired  ApprovalState = "expired"
)

// An Approval is a person's permission for one destructive call. It is bound to the tenant, the
// asker, the tool and its version, the version of the policy and the digest of the canonical
// arguments; it expires, and is used once. The asker is a subject of an issuer and of a home
// tenant: a subject alone may be another person elsewhere (RFC 7519 section 4.1.2).
type Approval struct {
	ID         string        `json:"id"` // unguessable
	Tenant     TenantID      `json:"tenant"`
	HomeTenant TenantID      `json:"home_tenant"` // the asker's own; another than Tenant when impersonating
	Issuer     string        `json:"issuer"`      // of the asker's token
	Subject    string        `json:"subject"`     // who asked; may not decide
	Delegator  string        `json:"delegator,omitempty"`
	Tool       string        `json:"tool"`
	Version    string        `json:"tool_version"`
	PolicyHash string        `json:"policy_version"`
	ArgsDigest string        `json:"args_digest"` // hex SHA-256
	Preview    string        `json:"preview"`     // the effect, for the person who decides
	State      ApprovalState `json:"state"`
	Approver   string        `json:"approver,omitempty"`
	Reason     string        `json:"reason,omitempty"`
	Created    time.Time     `json:"created"`
	Expires    time.Time     `json:"expires"`
	Decided    time.Time     `json:"decided,omitzero"`
}
