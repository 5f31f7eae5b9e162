package atlas

import "time"

// An AuditRecord is one line of the audit log: a call, a list, or an administrative act.
type AuditRecord struct {
	Seq       uint64    `json:"seq"` // 1 for the first record of the log
	Time      time.Time `json:"ts"`
	Kind      string    `json:"kind"` // "call", "intent" (before a write), "list" or "admin"
	RequestID string    `json:"request_id"`
	ParentID  string    `json:"parent_id,omitempty"`
	TraceID   string    `json:"trace_id,omitempty"`

	Tenant      TenantID `json:"tenant"`
	HomeTenant  TenantID `json:"home_tenant,omitempty"` // the caller's own, when impersonating
	Caller      string   `json:"caller"`
	CallerRoles []string `json:"caller_roles,omitempty"`
	Delegator   string   `json:"delegator,omitempty"`
	TokenID     string   `json:"token_id,omitempty"`
	Transport   string   `json:"transport,omitempty"`

	Tool       string `json:"tool,omitempty"`
	Action     string `json:"action,omitempty"`    // of an administrative act, such as "approval.approve"
	Target     string `json:"target,omitempty"`    // of an administrative act, such as an approval's id
	ArgsHash   string `json:"args_hash,omitempty"` // "hmac-sha256:" + hex, keyed, so that low-entropy arguments cannot be guessed
	Status     string `json:"status"`              // "ok", "error", "denied" or "asked" (the client must answer first)
	ErrorCode  Code   `json:"error_code,omitempty"`
	Decision   string `json:"decision,omitempty"`
	Rule       string `json:"rule,omitempty"`
	Policy     string `json:"policy_version,omitempty"`
	Cache      string `json:"cache,omitempty"`
	ApprovalID string `json:"approval_id,omitempty"`
	Replayed   bool   `json:"replayed,omitempty"`
	Attempts   int    `json:"attempts,omitempty"`
	Redacted   int    `json:"redacted,omitempty"`
	Bytes      int    `json:"result_bytes,omitempty"`
	DurationUS int64  `json:"duration_us"` // microseconds

	Prev string `json:"prev"` // hex SHA-256 of the record before; 64 zeros for the first
	Hash string `json:"hash"` // hex SHA-256 over the canonical JSON (RFC 8785) of this record without hash
}
