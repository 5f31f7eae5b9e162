package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/atlas-mcp/atlas"
)

// taskTools are followed as tasks (SEP-2663) by a client that can, except greet.
func (f *fixtures) taskTools() []*atlas.Tool {
	const taskTime = 2 * time.Minute
	sometimes := atlas.TaskSpec{After: 100 * time.Millisecond, Timeout: taskTime}
	always := atlas.TaskSpec{Timeout: taskTime, Required: true}
	return []*atlas.Tool{
		{
			Name: "greet", Description: "Greets at once.",
			Input: json.RawMessage(`{"type":"object","properties":{"name":{"type":"string"}},"required":["name"],"additionalProperties":false}`),
			Run: func(_ context.Context, call atlas.Call) (atlas.Result, error) {
				return say("Hello, %s!", call.Args.Values["name"])
			},
		},
		{
			Name: "slow_compute", Description: "Answers after some seconds.", Task: sometimes,
			Input: json.RawMessage(`{"type":"object","properties":{"seconds":{"type":"number","minimum":0,"maximum":120},"label":{"type":"string"}},"required":["seconds"],"additionalProperties":false}`),
			Run: func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
				d, err := time.ParseDuration(fmt.Sprintf("%vs", call.Args.Values["seconds"]))
				if err == nil {
					err = pause(ctx, d)
				}
				if err != nil {
					return atlas.Result{}, err
				}
				return say("%v computed for %v", call.Args.Values["label"], d)
			},
		},
		{
			Name: "failing_job", Source: "broken", Description: "Fails after a second.", Task: always,
			Run: func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
				if err := pause(ctx, time.Second); err != nil {
					return atlas.Result{}, err
				}
				return atlas.Result{}, atlas.Errorf(atlas.CodeInvalidQuery, nil, "this job always fails")
			},
		},
		{
			Name: "protocol_error_job", Source: "broken", Description: "Breaks.", Task: always,
			Run: func(context.Context, atlas.Call) (atlas.Result, error) { panic("this job always breaks") },
		},
		{
			Name: "confirm_delete", Description: "Asks a person before it pretends to delete.", Task: always,
			Input: json.RawMessage(`{"type":"object","properties":{"filename":{"type":"string"}},"required":["filename"],"additionalProperties":false}`),
			Run: func(_ context.Context, call atlas.Call) (atlas.Result, error) {
				if e, ok := replied(call, "confirm"); ok {
					return say("%s: %s", call.Args.Values["filename"], written(e))
				}
				return ask("", requests{"confirm": form("Delete the file?", "confirm", "boolean")})
			},
		},
		{
			Name: "multi_input", Description: "Asks a person for two things at once.", Task: always,
			Run: func(_ context.Context, call atlas.Call) (atlas.Result, error) {
				name, named := replied(call, "name")
				sure, confirmed := replied(call, "confirm")
				if named && confirmed {
					return say("%s; %s", written(name), written(sure))
				}
				return ask("", requests{
					"name":    form("What is your name?", "name", "string"),
					"confirm": form("Are you sure?", "confirm", "boolean"),
				})
			},
		},
		{
			Name: "test_tool_with_task", Description: "Asks for a name, then takes its time.", Task: sometimes,
			Run: func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
				name, ok := accepted(call, "user_name", "name")
				if !ok {
					return ask("", requests{"user_name": form("What is your name?", "name", "string")})
				}
				if err := pause(ctx, 500*time.Millisecond); err != nil {
					return atlas.Result{}, err
				}
				return say("Done for %s.", name)
			},
		},
	}
}
