package rounds_test

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/seal"
	"github.com/atlas-mcp/atlas/internal/stage/rounds"
	"github.com/atlas-mcp/atlas/internal/state"
	"github.com/atlas-mcp/atlas/internal/state/memory"
)

var key = seal.Key{ID: "1", Secret: bytes.Repeat([]byte{1}, 32)}

func newRounds(t testing.TB, cfg rounds.Config) *rounds.Rounds {
	t.Helper()
	store, err := memory.New(state.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	r, err := rounds.New(cfg, []seal.Key{key}, store)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// form is a question with a form.
var form = atlas.ClientRequest{Method: "elicitation/create", Params: json.RawMessage(`{"message":"Which?"}`)}

// counter asks n times and then answers with what it was told.
func counter(n byte) atlas.Handler {
	return func(_ context.Context, call atlas.Call) (atlas.Result, error) {
		var round byte
		if call.Reply != nil {
			round = call.Reply.State[0]
		}
		if round < n {
			return atlas.Result{Ask: &atlas.Ask{Requests: map[string]atlas.ClientRequest{"q": form}, State: []byte{round + 1}}}, nil
		}
		return atlas.Result{Structured: json.RawMessage(`{"rounds":` + string('0'+round) + `}`)}, nil
	}
}

func newCall(change ...func(*atlas.Call)) atlas.Call {
	c := atlas.Call{
		Name: "tool", Tool: &atlas.Tool{Name: "tool", Version: "1"}, Tenant: "acme", Client: atlas.Client{Elicit: true},
		Principal: &atlas.Principal{Subject: "ann", Tenant: "acme", Issuer: "https://idp"},
		Args:      atlas.Args{Raw: json.RawMessage(`{"id":"o_1","n":1}`)},
	}
	for _, f := range change {
		f(&c)
	}
	return c
}

// reply makes the call of the next round.
func reply(c atlas.Call, res atlas.Result) atlas.Call {
	c.Reply = &atlas.Reply{Answers: map[string]json.RawMessage{"q": json.RawMessage(`{"action":"accept"}`)}, State: res.Ask.State}
	return c
}

func TestRoundsEndInAnAnswer(t *testing.T) {
	h := newRounds(t, rounds.Config{}).Stage(counter(3))
	call := newCall()
	res, err := h(t.Context(), call)
	for range 3 {
		if err != nil || res.Ask == nil || !res.Notes.Asked || bytes.ContainsAny(res.Ask.State, "\x01\x02\x03") {
			t.Fatalf("%+v, %v", res, err)
		}
		if diff := cmp.Diff(map[string]atlas.ClientRequest{"q": form}, res.Ask.Requests); diff != "" {
			t.Fatal(diff)
		}
		// The same arguments, written differently.
		call.Args.Raw = json.RawMessage(` {"n":1.0, "id":"o_1"}`)
		res, err = h(t.Context(), reply(call, res))
	}
	if err != nil || string(res.Structured) != `{"rounds":3}` {
		t.Errorf("%s, %v", res.Structured, err)
	}
}

func TestStateIsBoundToItsCall(t *testing.T) {
	other := func(f func(*atlas.Principal)) func(*atlas.Call) {
		return func(c *atlas.Call) {
			p := *c.Principal
			f(&p)
			c.Principal = &p
		}
	}
	for name, change := range map[string]func(*atlas.Call){
		"tenant":      func(c *atlas.Call) { c.Tenant = "globex" },
		"home tenant": other(func(p *atlas.Principal) { p.Tenant = "globex" }),
		"issuer":      other(func(p *atlas.Principal) { p.Issuer = "https://other" }),
		"subject":     other(func(p *atlas.Principal) { p.Subject = "bob" }),
		"delegator":   other(func(p *atlas.Principal) { p.Delegator = "agent" }),
		"tool":        func(c *atlas.Call) { c.Tool = &atlas.Tool{Name: "tool2", Version: "1"} },
		"version":     func(c *atlas.Call) { c.Tool = &atlas.Tool{Name: "tool", Version: "2"} },
		"arguments":   func(c *atlas.Call) { c.Args.Raw = json.RawMessage(`{"id":"o_2","n":1}`) },
		"no JSON":     func(c *atlas.Call) { c.Args.Raw = json.RawMessage(`{`) },
		"flipped bit": func(c *atlas.Call) { c.Reply.State = slices.Clone(c.Reply.State); c.Reply.State[30] ^= 1 },
		"cut":         func(c *atlas.Call) { c.Reply.State = c.Reply.State[:40] },
		"too long":    func(c *atlas.Call) { c.Reply.State = bytes.Repeat([]byte("A"), 33<<10) },
		"made up":     func(c *atlas.Call) { c.Reply.State = []byte("c3RhdGU") },
	} {
		t.Run(name, func(t *testing.T) {
			h := newRounds(t, rounds.Config{}).Stage(counter(1))
			res, err := h(t.Context(), newCall())
			if err != nil {
				t.Fatal(err)
			}
			call := reply(newCall(), res)
			change(&call)
			_, err = h(t.Context(), call)
			// One and the same failure: what is wrong is not for who carries the state.
			if diff := cmp.Diff(atlas.Errorf(atlas.CodeInvalidState, nil, ""), atlas.ErrorOf(err)); diff != "" {
				t.Error(diff)
			}
			if res, err = h(t.Context(), reply(newCall(), res)); err != nil || res.Ask != nil {
				t.Errorf("the attempt used up its owner's state: %+v, %v", res, err)
			}
		})
	}
}

func TestStateExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newRounds(t, rounds.Config{TTL: time.Minute}).Stage(counter(1))
		res, err := h(t.Context(), newCall())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if _, err := h(t.Context(), reply(newCall(), res)); atlas.CodeOf(err) != atlas.CodeInvalidState {
			t.Errorf("an expired state: %v", err)
		}
	})
}

func TestOneAnswerIsGoodForOneRunOfAToolWithEffects(t *testing.T) {
	for _, readOnly := range []bool{true, false} {
		h := newRounds(t, rounds.Config{}).Stage(counter(1))
		call := newCall(func(c *atlas.Call) { c.Tool = &atlas.Tool{Name: "tool", ReadOnly: readOnly} })
		res, err := h(t.Context(), call)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h(t.Context(), reply(call, res)); err != nil {
			t.Fatal(err)
		}
		if _, err := h(t.Context(), reply(call, res)); (err == nil) != readOnly {
			t.Errorf("read only %v: the second use: %v", readOnly, err)
		}
	}
}

func TestAReplyWithoutStateIsNone(t *testing.T) {
	h := newRounds(t, rounds.Config{}).Stage(counter(1))
	call := newCall(func(c *atlas.Call) { c.Reply = &atlas.Reply{Answers: map[string]json.RawMessage{"q": nil}} })
	if res, err := h(t.Context(), call); err != nil || res.Ask == nil {
		t.Errorf("%+v, %v", res, err)
	}
}

func TestOnlyWhatTheClientCanAnswerIsAsked(t *testing.T) {
	all := map[string]atlas.ClientRequest{
		"form":  form,
		"url":   {Method: "elicitation/create", Params: json.RawMessage(`{"mode":"url"}`)},
		"model": {Method: "sampling/createMessage"},
		"roots": {Method: "roots/list"},
	}
	ask := func(context.Context, atlas.Call) (atlas.Result, error) {
		return atlas.Result{Ask: &atlas.Ask{Requests: all}}, nil
	}
	h := newRounds(t, rounds.Config{}).Stage(ask)
	for name, c := range map[string]struct {
		client atlas.Client
		want   any
	}{
		"nothing":    {atlas.Client{}, []string{"elicitation", "elicitation.url", "roots", "sampling"}},
		"forms":      {atlas.Client{Elicit: true}, []string{"elicitation.url", "roots", "sampling"}},
		"no roots":   {atlas.Client{Elicit: true, ElicitURL: true, Sample: true}, []string{"roots"}},
		"everything": {atlas.Client{Elicit: true, ElicitURL: true, Sample: true, Roots: true}, nil},
	} {
		res, err := h(t.Context(), newCall(func(call *atlas.Call) { call.Client = c.client }))
		if c.want == nil {
			if err != nil || res.Ask == nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if e := atlas.ErrorOf(err); e == nil || e.Code != atlas.CodeMissingCapability || !cmp.Equal(e.Context["required"], c.want) || res.Ask != nil {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func TestWhatAToolMayNotAsk(t *testing.T) {
	many := map[string]atlas.ClientRequest{}
	for i := range 17 {
		many[string(rune('a'+i))] = form
	}
	for name, c := range map[string]struct {
		ask    atlas.Ask
		change func(*atlas.Call)
	}{
		"of a tool":      {change: func(c *atlas.Call) { c.Parent = &atlas.Parent{Tool: "outer"} }},
		"too much":       {ask: atlas.Ask{Requests: many}},
		"other methods":  {ask: atlas.Ask{Requests: map[string]atlas.ClientRequest{"q": {Method: "tools/call"}}}},
		"without a key":  {ask: atlas.Ask{Requests: map[string]atlas.ClientRequest{"": form}}},
		"broken params":  {ask: atlas.Ask{Requests: map[string]atlas.ClientRequest{"q": {Method: form.Method, Params: json.RawMessage(`[`)}}}},
		"with a library": {ask: atlas.Ask{State: make([]byte, 17<<10)}},
	} {
		h := newRounds(t, rounds.Config{}).Stage(func(context.Context, atlas.Call) (atlas.Result, error) {
			return atlas.Result{Ask: &c.ask, Notes: atlas.Notes{Attempts: 1}}, nil
		})
		call := newCall()
		if c.change != nil {
			c.change(&call)
		}
		res, err := h(t.Context(), call)
		if atlas.CodeOf(err) != atlas.CodeInternal || res.Ask != nil || res.Notes.Attempts != 1 {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
	}
}

func TestRoundsAreBounded(t *testing.T) {
	h := newRounds(t, rounds.Config{MaxRounds: 2}).Stage(counter(9))
	call := newCall()
	res, err := h(t.Context(), call)
	for range 1 {
		if err != nil {
			t.Fatal(err)
		}
		res, err = h(t.Context(), reply(call, res))
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err = h(t.Context(), reply(call, res)); atlas.CodeOf(err) != atlas.CodeInternal {
		t.Errorf("a third question: %v", err)
	}
}

// What a person adds is there before the stages inside look at the arguments.
func TestAToolsQuestionsCompleteTheArguments(t *testing.T) {
	tool := &atlas.Tool{Name: "tool", Ask: func(_ context.Context, call atlas.Call) (json.RawMessage, *atlas.Ask, error) {
		if call.Reply == nil {
			return nil, &atlas.Ask{Requests: map[string]atlas.ClientRequest{"q": form}, State: []byte("s")}, nil
		}
		if string(call.Reply.State) != "s" {
			t.Errorf("state %q", call.Reply.State)
		}
		return json.RawMessage(`{"id":"o_1","reason":"lost"}`), nil, nil
	}}
	var got []string
	h := newRounds(t, rounds.Config{}).Stage(func(_ context.Context, call atlas.Call) (atlas.Result, error) {
		got = append(got, string(call.Args.Raw))
		if call.Reply != nil { // it is in the arguments, which are validated; a reply is not
			t.Errorf("the reply went on: %+v", call.Reply)
		}
		return atlas.Result{}, nil
	})
	call := newCall(func(c *atlas.Call) { c.Tool = tool })
	res, err := h(t.Context(), call)
	if err != nil || res.Ask == nil || len(got) != 0 {
		t.Fatalf("%+v, %v, ran with %v", res, err, got)
	}
	if res, err = h(t.Context(), reply(call, res)); err != nil || res.Ask != nil {
		t.Fatalf("%+v, %v", res, err)
	}
	child := newCall(func(c *atlas.Call) {
		c.Tool, c.Parent = tool, &atlas.Parent{Tool: "outer"}
		c.Reply = &atlas.Reply{State: []byte("a parent's")}
	})
	if _, err = h(t.Context(), child); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{`{"id":"o_1","reason":"lost"}`, `{"id":"o_1","n":1}`}, got); diff != "" {
		t.Error(diff)
	}
}

func TestConfig(t *testing.T) {
	if err := (rounds.Config{TTL: -1, MaxRounds: -1}).Validate(); err == nil {
		t.Error("accepted")
	}
}

func FuzzState(f *testing.F) {
	h := newRounds(f, rounds.Config{}).Stage(counter(1))
	f.Add([]byte("AQEx"), []byte(`{}`))
	f.Add([]byte(""), []byte(`{"id":1}`))
	f.Fuzz(func(t *testing.T, state, args []byte) {
		call := newCall(func(c *atlas.Call) {
			c.Reply = &atlas.Reply{State: state}
			c.Args.Raw = args
		})
		if _, err := h(t.Context(), call); len(state) > 0 && atlas.CodeOf(err) != atlas.CodeInvalidState {
			t.Errorf("%q was taken for a state: %v", state, err)
		}
	})
}
