package tasks

import (
	"encoding/json"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

// Names of the protocol.
const (
	Extension    = message.TasksExtension // in the capabilities of both sides
	Notification = "notifications/tasks"  // its params are a [Task]

	MethodGet    = "tasks/get"
	MethodUpdate = "tasks/update"
	MethodCancel = "tasks/cancel"
)

// capability is what a client lacks that did not declare the extension.
var capability = []string{message.CanTasks}

// A Status says where a task stands (SEP-2663 "Task Status").
type Status string

// The statuses. The last three are final.
const (
	Working       Status = "working"
	InputRequired Status = "input_required"
	Completed     Status = "completed" // the call has an answer, which may be a tool's failure
	Failed        Status = "failed"    // the call has no answer
	Cancelled     Status = "cancelled"
)

// Final reports whether a task of the status stays as it is.
func (s Status) Final() bool { return s == Completed || s == Failed || s == Cancelled }

// A Task is one task as its caller sees it: the DetailedTask of SEP-2663, in its wire form. What
// answers tools/call is the same with resultType "task"; what answers tasks/get, with "complete".
type Task struct {
	ID             string                  `json:"taskId"`
	Status         Status                  `json:"status"`
	StatusMessage  string                  `json:"statusMessage,omitempty"` // ours; never of a tool or a source
	CreatedAt      time.Time               `json:"createdAt"`
	LastUpdatedAt  time.Time               `json:"lastUpdatedAt"`
	TTLMs          int64                   `json:"ttlMs"`                   // from CreatedAt, in milliseconds
	PollIntervalMs int64                   `json:"pollIntervalMs"`          // milliseconds
	InputRequests  map[string]InputRequest `json:"inputRequests,omitempty"` // of InputRequired: what is not answered yet
	Result         json.RawMessage         `json:"result,omitempty"`        // of Completed: a CallToolResult
	Error          json.RawMessage         `json:"error,omitempty"`         // of Failed: a JSON-RPC error
}

// An InputRequest is one thing that the client is asked for while its task waits.
type InputRequest struct {
	Method string          `json:"method"`
	Params json.RawMessage `json:"params,omitempty"`
}

// An Answer is what [Manager.Call] answers a call with: a task if Task is not nil, else a result.
type Answer struct {
	Result atlas.Result
	Task   *Task // a handle: without what only tasks/get shows
}
