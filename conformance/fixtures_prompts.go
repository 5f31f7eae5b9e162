package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/atlas-mcp/atlas"
)

func prompts() []*atlas.Tool {
	prompt := func(name, about, input string, run atlas.Handler) *atlas.Tool {
		t := &atlas.Tool{Name: name, Kind: atlas.KindPrompt, Description: about, Run: run}
		if input != "" {
			t.Input = json.RawMessage(input)
		}
		return t
	}
	withArguments := prompt("test_prompt_with_arguments", "A prompt with two arguments.", `{"type":"object","properties":{
		"arg1":{"type":"string","description":"First test argument"},
		"arg2":{"type":"string","description":"Second test argument"}},"required":["arg1","arg2"],"additionalProperties":false}`,
		func(_ context.Context, call atlas.Call) (atlas.Result, error) {
			return atlas.Result{Content: []atlas.Content{
				message(fmt.Sprintf("Prompt with arguments: arg1='%s', arg2='%s'", call.Args.Values["arg1"], call.Args.Values["arg2"])),
			}}, nil
		})
	withArguments.Complete = func(_ context.Context, _ atlas.Call, _, prefix string, _ map[string]string) ([]string, error) {
		var out []string
		for _, word := range []string{"testValue1", "testValue2", "paris", "park", "party"} {
			if strings.HasPrefix(word, prefix) {
				out = append(out, word)
			}
		}
		return out, nil
	}
	return []*atlas.Tool{
		prompt("test_simple_prompt", "A prompt without arguments.", "", answer(message("This is a simple prompt for testing."))),
		withArguments,
		prompt("test_prompt_with_embedded_resource", "A prompt with a resource in it.", `{"type":"object","properties":{
			"resourceUri":{"type":"string","description":"URI of the resource to embed"}},"required":["resourceUri"],"additionalProperties":false}`,
			func(_ context.Context, call atlas.Call) (atlas.Result, error) {
				uri, _ := call.Args.Values["resourceUri"].(string) // validated
				return atlas.Result{Content: []atlas.Content{
					{Type: atlas.ContentResource, Role: "user", URI: uri, MIME: "text/plain", Text: "Embedded resource content for testing."},
					message("Please process the embedded resource above."),
				}}, nil
			}),
		prompt("test_prompt_with_image", "A prompt with a picture in it.", "", answer(
			atlas.Content{Type: atlas.ContentImage, Role: "user", Data: redPixel(), MIME: "image/png"},
			message("Please analyze the image above."),
		)),
		prompt("test_input_required_result_prompt", "A prompt that asks for its context first.", "",
			func(_ context.Context, call atlas.Call) (atlas.Result, error) {
				if about, ok := accepted(call, "user_context", "context"); ok {
					return atlas.Result{Content: []atlas.Content{message("Use this context: " + about)}}, nil
				}
				return ask("", requests{"user_context": form("What context should the prompt use?", "context", "string")})
			}),
	}
}

func resources() []*atlas.Tool {
	static := func(name, about, uri string, content atlas.Content) *atlas.Tool {
		content.Type, content.URI = atlas.ContentResource, uri
		return &atlas.Tool{
			Name: name, Kind: atlas.KindResource, Description: about, URI: uri, MIME: content.MIME, Run: answer(content),
			Match: func(asked string) (json.RawMessage, bool) { return json.RawMessage(`{}`), asked == uri },
		}
	}
	const before, after = "test://template/", "/data"
	return []*atlas.Tool{
		static("static-text", "A text.", "test://static-text", atlas.Content{MIME: "text/plain", Text: "This is the content of the static text resource."}),
		static("static-binary", "A picture.", "test://static-binary", atlas.Content{MIME: "image/png", Data: redPixel()}),
		static("watched-resource", "A text that clients may subscribe to.", "test://watched-resource", atlas.Content{MIME: "text/plain", Text: "Watched resource content"}),
		{
			Name: "template", Kind: atlas.KindResource, Description: "A record for each id.", MIME: "application/json", URI: before + "{id}" + after,
			Input: json.RawMessage(`{"type":"object","properties":{"id":{"type":"string","pattern":"^[A-Za-z0-9_-]{1,64}$"}},"required":["id"],"additionalProperties":false}`),
			Match: func(asked string) (json.RawMessage, bool) {
				id, ok := strings.CutPrefix(asked, before)
				if !ok {
					return nil, false
				}
				if id, ok = strings.CutSuffix(id, after); !ok || id == "" || strings.Contains(id, "/") {
					return nil, false
				}
				args, err := json.Marshal(map[string]string{"id": id})
				return args, err == nil
			},
			Run: func(_ context.Context, call atlas.Call) (atlas.Result, error) {
				id, _ := call.Args.Values["id"].(string) // validated
				data, err := json.Marshal(map[string]any{"id": id, "templateTest": true, "data": "Data for ID: " + id})
				if err != nil {
					return atlas.Result{}, err
				}
				return atlas.Result{Content: []atlas.Content{
					{Type: atlas.ContentResource, URI: before + id + after, MIME: "application/json", Text: string(data)},
				}}, nil
			},
		},
	}
}
