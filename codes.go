package atlas

import "net/http"

// A Code names one reason for failure.
type Code string

// The codes. Each has a row in [Codes].
const (
	CodeMissingToken       Code = "missing_token"
	CodeInvalidToken       Code = "invalid_token"
	CodeTokenExpired       Code = "token_expired"
	CodeNoTenant           Code = "no_tenant"
	CodeTenantMismatch     Code = "tenant_mismatch"
	CodeToolNotFound       Code = "tool_not_found"
	CodeInvalidArguments   Code = "invalid_arguments"
	CodeInvalidCursor      Code = "invalid_cursor"
	CodeInvalidQuery       Code = "invalid_query"
	CodeTooLarge           Code = "too_large"
	CodeDeniedByPolicy     Code = "denied_by_policy"
	CodeNotAuthorized      Code = "not_authorized"
	CodeInsufficientScope  Code = "insufficient_scope"
	CodeMissingCapability  Code = "missing_client_capability"
	CodeInvalidState       Code = "invalid_request_state"
	CodeRateLimited        Code = "rate_limited"
	CodeApprovalRequired   Code = "approval_required"
	CodeApprovalDenied     Code = "approval_denied"
	CodeApprovalNotFound   Code = "approval_not_found"
	CodeApprovalDecided    Code = "approval_decided"
	CodeSelfApproval       Code = "self_approval"
	CodeIdempotencyReused  Code = "idempotency_key_reused"
	CodeIdempotencyRunning Code = "idempotency_in_progress"
	CodeBudgetExhausted    Code = "budget_exhausted"
	CodeTimeout            Code = "timeout"
	CodeCanceled           Code = "canceled"
	CodeCircuitOpen        Code = "circuit_open"
	CodeOverloaded         Code = "overloaded"
	CodeNotFound           Code = "not_found"
	CodeSourceError        Code = "source_error"
	CodeSourceUnavailable  Code = "source_unavailable"
	CodeSourceMisused      Code = "source_misconfigured"
	CodeHostNotAllowed     Code = "host_not_allowlisted"
	CodeDefinitionChanged  Code = "definition_changed"
	CodeAuditUnavailable   Code = "audit_unavailable"
	CodeStateUnavailable   Code = "state_unavailable"
	CodeShuttingDown       Code = "shutting_down"
	CodeInternal           Code = "internal_error"
)

// A CodeInfo is what is fixed about a code.
type CodeInfo struct {
	Category  Category
	Retryable bool     // the same call may succeed later
	HTTP      int      // status where the failure is an HTTP answer of its own
	Hint      string   // default hint, for the caller
	Actions   []string // suggested actions, in order
	Doc       string   // one sentence for docs/errors.md
}

// Codes is the one table of failures; docs/errors.md is made from it. It is read-only.
var Codes = map[Code]CodeInfo{
	CodeMissingToken:       {PermissionDenied, false, http.StatusUnauthorized, "send a bearer token in the Authorization header", []string{"authenticate"}, "The request carried no bearer token."},
	CodeInvalidToken:       {PermissionDenied, false, http.StatusUnauthorized, "the token was not accepted; get a new one for this server", []string{"authenticate"}, "The token's signature, issuer, audience or form was not accepted."},
	CodeTokenExpired:       {PermissionDenied, false, http.StatusUnauthorized, "the token has expired; get a new one", []string{"authenticate"}, "The token is past its expiry."},
	CodeNoTenant:           {PermissionDenied, false, http.StatusForbidden, "the token names no tenant; ask your administrator for a tenant claim", []string{"ask_administrator"}, "The token carries no tenant claim; there is no default tenant."},
	CodeTenantMismatch:     {PermissionDenied, false, http.StatusForbidden, "X-Tenant-Id must equal the tenant of the token", []string{"correct_request"}, "X-Tenant-Id names another tenant than the token does."},
	CodeToolNotFound:       {ResourceNotFound, false, http.StatusNotFound, "no such tool; list the tools", []string{"list_tools"}, "There is no such tool for this caller."},
	CodeInvalidArguments:   {InvalidInput, false, http.StatusBadRequest, "the arguments do not fit the tool's input schema", []string{"correct_arguments"}, "The arguments break the tool's input schema; context.errors lists every fault."},
	CodeInvalidCursor:      {InvalidInput, false, http.StatusBadRequest, "the cursor does not belong to this call; start again without one", []string{"restart_without_cursor"}, "The cursor was altered, has expired, or belongs to another caller or call."},
	CodeInvalidQuery:       {InvalidInput, false, http.StatusBadRequest, "the query was not accepted; correct it", []string{"correct_arguments"}, "The source does not accept the query: wrong syntax, unknown names, or something that is not allowed."},
	CodeTooLarge:           {InvalidInput, false, http.StatusRequestEntityTooLarge, "ask for less", []string{"narrow_request"}, "The request, or a single item of the answer, is larger than the limit."},
	CodeDeniedByPolicy:     {PermissionDenied, false, http.StatusForbidden, "a policy rule forbids this call", []string{"ask_administrator"}, "A deny rule matched; context.rule names it."},
	CodeNotAuthorized:      {PermissionDenied, false, http.StatusForbidden, "no policy rule allows this call", []string{"ask_administrator"}, "No allow rule matched (deny by default)."},
	CodeInsufficientScope:  {PermissionDenied, false, http.StatusForbidden, "the token lacks scopes that this tool needs and that you may have; authorize again with the scopes in context.scopes", []string{"authenticate"}, "The caller's roles may have the tool, but the token was issued without its scopes; context.scopes lists all that the tool needs (step-up, RFC 6750 section 3.1)."},
	CodeMissingCapability:  {InvalidInput, false, http.StatusBadRequest, "the tool must ask something that this client cannot answer; use a client with the capabilities in context.required", []string{"use_another_tool"}, "The tool asks its client for input (SEP-2322) or runs as a task only, and the client did not declare that it can; context.required names the capability."},
	CodeInvalidState:       {InvalidInput, false, http.StatusBadRequest, "requestState does not belong to this call; start again without it", []string{"correct_request"}, "The requestState was altered, has expired, or belongs to another caller, tool or arguments (SEP-2322)."},
	CodeRateLimited:        {ResourceExhausted, true, http.StatusTooManyRequests, "wait, then try again", []string{"wait_and_retry"}, "A rate limit of the tenant, the tool or the caller is used up."},
	CodeApprovalRequired:   {PermissionDenied, false, http.StatusForbidden, "a person must approve this call; repeat the identical call once it is approved", []string{"request_approval", "repeat_identical_call"}, "The tool is destructive and waits for a person; context.approval_id names the approval."},
	CodeApprovalDenied:     {PermissionDenied, false, http.StatusForbidden, "the call was refused by the person asked", []string{"stop"}, "A person refused this call."},
	CodeApprovalNotFound:   {ResourceNotFound, false, http.StatusNotFound, "no such approval", []string{"correct_request"}, "There is no such approval for this tenant."},
	CodeApprovalDecided:    {InvalidInput, false, http.StatusConflict, "the approval is already decided, used or expired", []string{"stop"}, "The approval is no longer pending."},
	CodeSelfApproval:       {PermissionDenied, false, http.StatusForbidden, "another person must decide", []string{"ask_administrator"}, "Who asked for an approval may not decide it."},
	CodeIdempotencyReused:  {InvalidInput, false, http.StatusUnprocessableEntity, "the idempotency key was used with other arguments; use a new key", []string{"correct_request"}, "The idempotency key belongs to a call with other arguments."},
	CodeIdempotencyRunning: {ResourceExhausted, true, http.StatusConflict, "the first call with this key is still running; try again", []string{"wait_and_retry"}, "The first call with this idempotency key has not ended."},
	CodeBudgetExhausted:    {ResourceExhausted, false, http.StatusGatewayTimeout, "too little time is left of this turn for the call; answer with what is known or start a new turn", []string{"answer_with_what_is_known"}, "The turn's remaining time is below what the tool usually needs."},
	CodeTimeout:            {UpstreamFailure, true, http.StatusGatewayTimeout, "the call took too long; narrow it or try again", []string{"narrow_request", "wait_and_retry"}, "The call did not end before its deadline."},
	CodeCanceled:           {InternalError, false, 499, "the call was cancelled", nil, "The caller cancelled the call."},
	CodeCircuitOpen:        {UpstreamFailure, true, http.StatusServiceUnavailable, "the source is failing and is being left alone; wait, then try again", []string{"wait_and_retry", "use_another_tool"}, "The circuit breaker of the source is open."},
	CodeOverloaded:         {ResourceExhausted, true, http.StatusServiceUnavailable, "too many calls are running; wait, then try again", []string{"wait_and_retry"}, "The bulkhead of the source is full."},
	CodeNotFound:           {ResourceNotFound, false, http.StatusNotFound, "there is nothing by this name", []string{"correct_arguments"}, "The source has no such thing for this tenant."},
	CodeSourceError:        {UpstreamFailure, false, http.StatusBadGateway, "the source refused the request", []string{"use_another_tool"}, "The source failed in a way that trying again does not mend."},
	CodeSourceUnavailable:  {UpstreamFailure, true, http.StatusServiceUnavailable, "the source cannot be reached; wait, then try again", []string{"wait_and_retry", "use_another_tool"}, "The source cannot be reached or is too busy."},
	CodeSourceMisused:      {InternalError, false, http.StatusInternalServerError, "the tool is not set up correctly; tell your administrator", []string{"ask_administrator"}, "The source's configuration does not fit what is there."},
	CodeHostNotAllowed:     {PermissionDenied, false, http.StatusForbidden, "this host is not on the tenant's outbound allowlist", []string{"ask_administrator"}, "The outbound allowlist does not hold the host, or it resolves to an address that is never allowed."},
	CodeDefinitionChanged:  {PermissionDenied, false, http.StatusForbidden, "the upstream server changed this tool's definition, and nobody has approved the new one; tell your administrator", []string{"ask_administrator", "use_another_tool"}, "An upstream MCP server's tool is not, or no longer, defined as it was approved (pinned by hash of name, description and schemas)."},
	CodeAuditUnavailable:   {InternalError, true, http.StatusServiceUnavailable, "the call cannot be recorded and was therefore refused", []string{"wait_and_retry"}, "A write whose audit record cannot be stored is refused."},
	CodeStateUnavailable:   {InternalError, true, http.StatusServiceUnavailable, "Atlas cannot reach its own state; wait, then try again", []string{"wait_and_retry"}, "Atlas's own durable state cannot be read or written."},
	CodeShuttingDown:       {InternalError, true, http.StatusServiceUnavailable, "the server is stopping; try again", []string{"wait_and_retry"}, "The server no longer takes new calls."},
	CodeInternal:           {InternalError, false, http.StatusInternalServerError, "something went wrong inside Atlas; quote the request id", []string{"ask_administrator"}, "A fault of Atlas itself; the log has the cause under the request id."},
}
