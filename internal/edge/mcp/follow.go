package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
)

const taskChanged = "notifications/tasks" // SEP-2663

// taskIDsIn returns the tasks that a request for a subscription wants to follow. The SDK's params have
// no place for them.
func taskIDsIn(request []byte) []string {
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

// follow reads from r, whose body is in memory, which tasks it wants to follow.
func follow(id *identity, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the SDK finds that out, too
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	ids := taskIDsIn(body)
	id.taskIDs = func(any) []string { return ids }
}

// followTasks subscribes to the tasks that the subscription wants to follow, and returns the ids of
// those that are the caller's. There may be none.
func (s *Server) followTasks(ctx context.Context, id *identity, x exchange, subscription any) (*tasks.Subscription, []string, error) {
	if s.deps.Tasks == nil || id.taskIDs == nil {
		return nil, nil, nil
	}
	ids := id.taskIDs(subscription)
	if len(ids) == 0 {
		return nil, nil, nil
	}
	call := id.call(atlas.OpCall)
	call.Client = x.client
	followed, agreed, err := s.deps.Tasks.Subscribe(ctx, call, ids)
	if err != nil {
		return nil, nil, taskFailure(atlas.ErrorOf(err), &call)
	}
	return followed, agreed, nil
}

// tellTasks tells of the tasks until ctx ends, or the client cannot be told any more.
func tellTasks(ctx context.Context, followed *tasks.Subscription, tell teller, subscription any) {
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
