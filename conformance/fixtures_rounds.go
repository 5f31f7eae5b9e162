package main

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/atlas-mcp/atlas"
)

// Methods of what is asked of a client.
const (
	methodElicit = "elicitation/create"
	methodSample = "sampling/createMessage"
	methodRoots  = "roots/list"
)

// A form asks a person for one thing.
func form(message, property, kind string) atlas.ClientRequest {
	return formOf(message, `{"type":"object","properties":{"`+property+`":{"type":"`+kind+`"}},"required":["`+property+`"]}`)
}

func formOf(message, schema string) atlas.ClientRequest {
	return request(methodElicit, map[string]any{"message": message, "requestedSchema": json.RawMessage(schema)})
}

func sample(prompt string, maxTokens int) atlas.ClientRequest {
	return request(methodSample, map[string]any{
		"messages":  []any{map[string]any{"role": "user", "content": map[string]any{"type": "text", "text": prompt}}},
		"maxTokens": maxTokens,
	})
}

func request(method string, params any) atlas.ClientRequest {
	data, _ := json.Marshal(params) // of strings and numbers
	return atlas.ClientRequest{Method: method, Params: data}
}

func ask(state string, requests map[string]atlas.ClientRequest) (atlas.Result, error) {
	a := &atlas.Ask{Requests: requests}
	if state != "" {
		a.State = []byte(state)
	}
	return atlas.Result{Ask: a}, nil
}

type requests = map[string]atlas.ClientRequest

// An elicited answer of a person.
type elicited struct {
	Action  string         `json:"action"`
	Content map[string]any `json:"content"`
}

// replied returns what a person answered to the form of the key; ok is false if there is no answer
// or it is none.
func replied(call atlas.Call, key string) (e elicited, ok bool) {
	if call.Reply == nil || json.Unmarshal(call.Reply.Answers[key], &e) != nil {
		return e, false
	}
	return e, e.Action != ""
}

// accepted returns the text that a person filled in.
func accepted(call atlas.Call, key, property string) (string, bool) {
	e, ok := replied(call, key)
	if !ok || e.Action != "accept" {
		return "", false
	}
	s, ok := e.Content[property].(string)
	return s, ok
}

// sampled returns the text that the client's model wrote.
func sampled(call atlas.Call, key string) (string, bool) {
	var answer struct {
		Content struct {
			Text string `json:"text"`
		} `json:"content"`
	}
	if call.Reply == nil || json.Unmarshal(call.Reply.Answers[key], &answer) != nil {
		return "", false
	}
	return answer.Content.Text, answer.Content.Text != ""
}

// roots returns how many folders the client told.
func roots(call atlas.Call, key string) (int, bool) {
	var answer struct {
		Roots []struct {
			URI string `json:"uri"`
		} `json:"roots"`
	}
	if call.Reply == nil || json.Unmarshal(call.Reply.Answers[key], &answer) != nil {
		return 0, false
	}
	return len(answer.Roots), answer.Roots != nil
}

func state(call atlas.Call) string {
	if call.Reply == nil {
		return ""
	}
	return string(call.Reply.State)
}

// roundTools ask the client before they answer: on 2026-07-28 by SEP-2322, before by requests of the
// server's own. The tools are the same.
func (f *fixtures) roundTools() []*atlas.Tool {
	tool := func(name, about string, run func(atlas.Call) (atlas.Result, error)) *atlas.Tool {
		return &atlas.Tool{Name: name, Description: about, Run: func(_ context.Context, call atlas.Call) (atlas.Result, error) { return run(call) }}
	}
	withInput := func(t *atlas.Tool, property string) *atlas.Tool {
		t.Input = json.RawMessage(`{"type":"object","properties":{"` + property + `":{"type":"string"}},"required":["` + property + `"],"additionalProperties":false}`)
		return t
	}
	return []*atlas.Tool{
		withInput(tool("test_sampling", "Asks the client's model.", func(call atlas.Call) (atlas.Result, error) {
			if said, ok := sampled(call, "sample"); ok {
				return say("LLM response: %s", said)
			}
			prompt, _ := call.Args.Values["prompt"].(string) // validated
			return ask("", requests{"sample": sample(prompt, 100)})
		}), "prompt"),
		withInput(tool("test_elicitation", "Asks the client's person.", func(call atlas.Call) (atlas.Result, error) {
			if e, ok := replied(call, "form"); ok {
				return say("User response: %s", written(e))
			}
			shown, _ := call.Args.Values["message"].(string) // validated
			return ask("", requests{"form": formOf(shown, `{"type":"object","properties":{
				"username":{"type":"string","description":"User's response"},
				"email":{"type":"string","description":"User's email address"}},"required":["username","email"]}`)})
		}), "message"),
		tool("test_elicitation_sep1034_defaults", "Asks with defaults of every primitive type.", elicitOnce(`{"type":"object","properties":{
			"name":{"type":"string","default":"John Doe"},
			"age":{"type":"integer","default":30},
			"score":{"type":"number","default":95.5},
			"status":{"type":"string","enum":["active","inactive","pending"],"default":"active"},
			"verified":{"type":"boolean","default":true}}}`)),
		tool("test_elicitation_sep1330_enums", "Asks with every form of an enumeration.", elicitOnce(`{"type":"object","properties":{
			"untitledSingle":{"type":"string","enum":["option1","option2","option3"]},
			"titledSingle":{"type":"string","oneOf":[{"const":"value1","title":"First Option"},{"const":"value2","title":"Second Option"},{"const":"value3","title":"Third Option"}]},
			"legacyEnum":{"type":"string","enum":["opt1","opt2","opt3"],"enumNames":["Option One","Option Two","Option Three"]},
			"untitledMulti":{"type":"array","items":{"type":"string","enum":["option1","option2","option3"]}},
			"titledMulti":{"type":"array","items":{"anyOf":[{"const":"value1","title":"First Choice"},{"const":"value2","title":"Second Choice"},{"const":"value3","title":"Third Choice"}]}}}}`)),
		tool("test_missing_capability", "Needs a client with a model.", func(call atlas.Call) (atlas.Result, error) {
			if said, ok := sampled(call, "sample"); ok {
				return say("%s", said)
			}
			return ask("", requests{"sample": sample("Say hello.", 20)})
		}),
		tool("test_input_required_result_elicitation", "Asks for a name.", func(call atlas.Call) (atlas.Result, error) {
			if name, ok := accepted(call, "user_name", "name"); ok {
				return say("Hello, %s!", name)
			}
			return ask("", requests{"user_name": form("What is your name?", "name", "string")})
		}),
		tool("test_input_required_result_sampling", "Asks the client's model a question.", func(call atlas.Call) (atlas.Result, error) {
			if said, ok := sampled(call, "capital_question"); ok {
				return say("%s", said)
			}
			return ask("", requests{"capital_question": sample("What is the capital of France?", 100)})
		}),
		tool("test_input_required_result_list_roots", "Asks for the client's folders.", func(call atlas.Call) (atlas.Result, error) {
			if n, ok := roots(call, "client_roots"); ok {
				return say("%d root(s) visible", n)
			}
			return ask("", requests{"client_roots": {Method: methodRoots}})
		}),
		tool("test_input_required_result_request_state", "Asks, and remembers that it did.", confirm("confirming")),
		tool("test_input_required_result_tampered_state", "Asks, and remembers that it did, in a state that is not to be touched.", confirm("untouched")),
		tool("test_input_required_result_multiple_inputs", "Asks for three things at once.", threeThings),
		tool("test_input_required_result_multi_round", "Asks twice, and remembers the first answer.", twoRounds),
		tool("test_input_required_result_capabilities", "Asks for what the client can do, and nothing else.", whatItCan),
	}
}

func written(e elicited) string {
	content, _ := json.Marshal(e.Content) // came as JSON
	return "action=" + e.Action + ", content=" + string(content)
}

func elicitOnce(schema string) func(atlas.Call) (atlas.Result, error) {
	return func(call atlas.Call) (atlas.Result, error) {
		if e, ok := replied(call, "form"); ok {
			return say("Elicitation completed: %s", written(e))
		}
		return ask("", requests{"form": formOf("Please fill in", schema)})
	}
}

func confirm(memory string) func(atlas.Call) (atlas.Result, error) {
	return func(call atlas.Call) (atlas.Result, error) {
		if e, ok := replied(call, "confirm"); ok && state(call) == memory {
			return say("state-ok: the person said %s", written(e))
		}
		return ask(memory, requests{"confirm": form("Please confirm", "ok", "boolean")})
	}
}

func threeThings(call atlas.Call) (atlas.Result, error) {
	name, named := accepted(call, "user_name", "name")
	greeting, greeted := sampled(call, "greeting")
	n, told := roots(call, "client_roots")
	if named && greeted && told {
		return say("%s %s, %d root(s) visible", greeting, name, n)
	}
	return ask("three things", requests{
		"user_name":    form("What is your name?", "name", "string"),
		"greeting":     sample("Generate a greeting", 50),
		"client_roots": {Method: methodRoots},
	})
}

func twoRounds(call atlas.Call) (atlas.Result, error) {
	const first, second = "round 1", "round 2 "
	memory := state(call)
	if name, ok := strings.CutPrefix(memory, second); ok {
		if colour, ok := accepted(call, "step2", "color"); ok {
			return say("Multi-round complete: %s likes %s", name, colour)
		}
	} else if memory == first {
		if name, ok := accepted(call, "step1", "name"); ok {
			memory = second + name
		}
	}
	if strings.HasPrefix(memory, second) {
		return ask(memory, requests{"step2": form("Step 2: What is your favorite color?", "color", "string")})
	}
	return ask(first, requests{"step1": form("Step 1: What is your name?", "name", "string")})
}

func whatItCan(call atlas.Call) (atlas.Result, error) {
	if call.Reply != nil && len(call.Reply.Answers) > 0 {
		return say("The client answered what it can.")
	}
	all := requests{}
	if call.Client.Elicit {
		all["user_name"] = form("What is your name?", "name", "string")
	}
	if call.Client.Sample {
		all["greeting"] = sample("Generate a short greeting", 50)
	}
	if call.Client.Roots {
		all["client_roots"] = atlas.ClientRequest{Method: methodRoots}
	}
	if len(all) == 0 {
		return say("The client can answer nothing.")
	}
	return ask("", all)
}
