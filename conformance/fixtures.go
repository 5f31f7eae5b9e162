package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/atlas-mcp/atlas"
)

// fixtures makes the tools, prompts and resources that the suite names. They come anew with each
// generation of the configuration.
type fixtures struct {
	reload     func(context.Context) error
	generation atomic.Int64
}

// tools returns all fixtures. One tool and one prompt have the generation in their names, so that the
// lists change with each.
func (f *fixtures) tools() []*atlas.Tool {
	n := f.generation.Add(1)
	// The suite also calls the first tool of the list, whatever it is.
	all := concat([]*atlas.Tool{simple("any_tool", "Answers at once.", text("ok"))}, f.contentTools(), f.roundTools(), f.taskTools(), prompts(), resources(), []*atlas.Tool{
		simple(fmt.Sprintf("test_generation_%d", n), "Is another tool after each reload of the configuration.", text("ok")),
		{
			Name: fmt.Sprintf("test_prompt_generation_%d", n), Kind: atlas.KindPrompt,
			Description: "Is another prompt after each reload of the configuration.",
			Run:         answer(message("ok")),
		},
	})
	for _, t := range all {
		t.Level, t.Version, t.Source = atlas.Atomic, "1", cmp.Or(t.Source, "fixture")
		t.ReadOnly, t.Idempotent, t.Reads = true, true, atlas.ReadsPrivate
		t.Scopes = []string{"tool:fixture:read"}
		t.Timeout = cmp.Or(t.Timeout, 5*time.Second)
		if t.Input == nil {
			t.Input = json.RawMessage(`{"type":"object","properties":{},"additionalProperties":false}`)
		}
		t.Resource = func(atlas.Call) string { return "fixture/" + t.Name }
	}
	return all
}

func concat(lists ...[]*atlas.Tool) (all []*atlas.Tool) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// simple is a tool without arguments that always gives the same answer.
func simple(name, about string, content ...atlas.Content) *atlas.Tool {
	return &atlas.Tool{Name: name, Description: about, Run: answer(content...)}
}

func answer(content ...atlas.Content) atlas.Handler {
	return func(context.Context, atlas.Call) (atlas.Result, error) {
		return atlas.Result{Content: content}, nil
	}
}

func say(format string, args ...any) (atlas.Result, error) {
	return atlas.Result{Content: []atlas.Content{text(fmt.Sprintf(format, args...))}}, nil
}

func text(s string) atlas.Content { return atlas.Content{Type: atlas.ContentText, Text: s} }

func message(s string) atlas.Content {
	return atlas.Content{Type: atlas.ContentText, Role: "user", Text: s}
}

func (f *fixtures) trigger(name, about string) *atlas.Tool {
	return &atlas.Tool{Name: name, Description: about, Run: func(ctx context.Context, _ atlas.Call) (atlas.Result, error) {
		if err := f.reload(ctx); err != nil {
			return atlas.Result{}, err
		}
		return say("reloaded")
	}}
}

// pause waits for d or until the call ends.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
