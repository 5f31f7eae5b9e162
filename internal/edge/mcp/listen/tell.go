package listen

import (
	"bytes"
	"context"
	"encoding/json"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
)

// metaSubscription names the subscription that a notification belongs to, in its _meta (2026-07-28).
const metaSubscription = "io.modelcontextprotocol/subscriptionId"

// A Teller writes one JSON-RPC message to a client, at a moment when nothing else is being written.
//
// Notifications go past the SDK. It can send only those that it knows, to whom it thinks listens.
type Teller func(message []byte) error

// notify tells of method. Subscription is the id of the subscription that the notification belongs to,
// or nil; params may be nil.
func (tell Teller) notify(method string, subscription any, params map[string]any) error {
	if subscription != nil {
		if params == nil {
			params = make(map[string]any, 1)
		}
		params["_meta"] = map[string]any{metaSubscription: subscription}
	}
	raw := []byte("{}")
	if params != nil {
		var err error
		if raw, err = json.Marshal(params); err != nil {
			return err
		}
	}
	return tell(message.AppendNotification(nil, method, raw))
}

// listChanged are the notifications of the lists, by kind.
var listChanged = [kinds]string{
	atlas.KindTool:     "notifications/tools/list_changed",
	atlas.KindPrompt:   "notifications/prompts/list_changed",
	atlas.KindResource: "notifications/resources/list_changed",
}

const (
	resourceUpdated = "notifications/resources/updated"
	taskChanged     = "notifications/tasks" // SEP-2663
)

// TaskIDsIn returns the tasks that a request for a subscription wants to follow. The SDK's params have
// no place for them.
func TaskIDsIn(request []byte) []string {
	var m struct {
		Params struct {
			Notifications struct {
				TaskIDs []string `json:"taskIds"`
			} `json:"notifications"`
		} `json:"params"`
	}
	if json.Unmarshal(request, &m) != nil {
		return nil // the SDK refuses what is not of the form
	}
	return m.Params.Notifications.TaskIDs
}

// tellTasks tells of the tasks until ctx ends, or the client cannot be told any more.
func tellTasks(ctx context.Context, followed *tasks.Subscription, tell Teller, subscription any) {
	for {
		task, err := followed.Next(ctx)
		if err != nil {
			return
		}
		raw, err := json.Marshal(task)
		if err != nil {
			continue // strings, times and JSON only
		}
		var params map[string]any
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber() // a result may have numbers that are not to be changed
		if dec.Decode(&params) != nil || tell.notify(taskChanged, subscription, params) != nil {
			return
		}
	}
}
