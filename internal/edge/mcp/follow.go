package mcp

import (
	"bytes"
	"context"
	"io"
	"net/http"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/listen"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/tasks"
)

// follow reads from r, whose body is in memory, which tasks it wants to follow.
func follow(id *identity, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the SDK finds that out, too
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	ids := listen.TaskIDsIn(body)
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
