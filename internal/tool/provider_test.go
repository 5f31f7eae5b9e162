package tool_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/tool"
)

// upstream is a provider of the offers given.
type upstream struct {
	base
	offers []source.Offer
	asked  []string
	answer func(name string) (source.Answer, error)
}

func (u *upstream) Offers(context.Context) ([]source.Offer, error) { return u.offers, nil }

func (u *upstream) Invoke(_ context.Context, tenant atlas.TenantID, name string, args json.RawMessage) (source.Answer, error) {
	u.asked = append(u.asked, fmt.Sprintf("%s %s %s", tenant, name, args))
	return u.answer(name)
}

func offer(name string) source.Offer {
	return source.Offer{
		Name: name, Description: "As approved.", Destructive: true, Digest: strings.Repeat("ab", 32),
		Input: json.RawMessage(`{"type":"object","properties":{"id":{"type":"string","default":"x"}}}`),
	}
}

func provide(t *testing.T, offers ...source.Offer) (*house, *upstream) {
	t.Helper()
	h := newHouse(t)
	u := &upstream{offers: offers, answer: func(string) (source.Answer, error) { return source.Answer{Text: "ok"}, nil }}
	h.sources["up"] = tool.Source{Kind: "mcp", Version: "1", Source: u}
	return h, u
}

func TestProviderTool(t *testing.T) {
	o := offer("getOrder-Items")
	o.Output = json.RawMessage(`{"type":"object","properties":{"n":{"$ref":"#/$defs/n"}},"$defs":{"n":{"type":"integer"}}}`)
	h, u := provide(t, o)
	h.build()
	got := h.tools["up__get_order_items"]
	if got == nil {
		t.Fatalf("tools: %v", slices.Sorted(keysOf(h.tools)))
	}
	if got.Level != atlas.Atomic || got.Source != "up" || !got.Destructive || got.ReadOnly || got.Idempotent || got.CacheTTL != 0 ||
		got.Reads != atlas.ReadsUntrusted || got.Effects != atlas.EffectsEgress || !slices.Equal(got.Scopes, []string{"tool:up:call"}) || got.Timeout <= 0 {
		t.Errorf("got %+v", got)
	}
	if !strings.Contains(string(got.Input), `"additionalProperties":false`) || strings.Contains(string(got.Input), "default") {
		t.Errorf("input %s", got.Input)
	}
	if r := got.Resource(atlas.Call{}); r != "up/get_order_items" {
		t.Errorf("resource %s", r)
	}
	call := atlas.Call{Tool: got, Tenant: "acme", Args: atlas.Args{Raw: json.RawMessage(`{"id":"1"}`)}}
	if p, err := got.Preview(t.Context(), call); err != nil || !strings.Contains(p, `{"id":"1"}`) || !strings.Contains(p, o.Digest[:12]) {
		t.Errorf("preview %q, %v", p, err)
	}

	output, err := compile(got.Output)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		answer source.Answer
		want   string
		fits   bool
	}{
		{source.Answer{Structured: json.RawMessage(`{"n":1}`), Text: "one"}, `{"answer":{"n":1},"failed":false,"text":"one"}`, true},
		{source.Answer{Structured: json.RawMessage(`{"n":"one"}`)}, `{"answer":{"n":"one"},"failed":false}`, false},
		{source.Answer{Structured: json.RawMessage(`{"n":"one"}`), Failed: true}, `{"answer":{"n":"one"},"failed":true}`, true},
		{source.Answer{Text: "ignore \xff\"}", Failed: true}, `{"failed":true,"text":"ignore ` + "\ufffd" + `\"}"}`, true},
		{source.Answer{}, `{"failed":false,"text":""}`, true},
	} {
		u.answer = func(string) (source.Answer, error) { return tc.answer, nil }
		res, err := got.Run(t.Context(), call)
		if err != nil || string(res.Structured) != tc.want || res.Partial != tc.answer.Failed {
			t.Errorf("got %s, %v, %v; want %s", res.Structured, res.Partial, err, tc.want)
		}
		var v any
		if err := json.Unmarshal(res.Structured, &v); err != nil {
			t.Fatal(err)
		}
		if err := output.Validate(v); (err == nil) != tc.fits {
			t.Errorf("%s: %v", res.Structured, err)
		}
	}
	if want := `acme getOrder-Items {"id":"1"}`; u.asked[0] != want {
		t.Errorf("asked %q, want %q", u.asked[0], want)
	}
	call.Args.Raw = nil
	if _, err := got.Run(t.Context(), call); err != nil || u.asked[len(u.asked)-1] != "acme getOrder-Items {}" {
		t.Errorf("asked %q, %v", u.asked[len(u.asked)-1], err)
	}
}

func keysOf(m map[string]*atlas.Tool) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func TestProviderGrants(t *testing.T) {
	o := offer("get")
	o.ReadOnly, o.Idempotent, o.Destructive, o.CacheTTL, o.Timeout, o.Scopes = true, true, false, time.Minute, 3*time.Second, []string{"tool:up:read"}
	h, _ := provide(t, o)
	got := h.build().tools["up__get"]
	if !got.ReadOnly || got.Destructive || got.CacheTTL != time.Minute || got.Timeout != 3*time.Second || got.Preview != nil || !slices.Equal(got.Scopes, o.Scopes) {
		t.Errorf("got %+v", got)
	}
}

// An approval or a cached answer is for one definition, whatever of it a caller sees.
func TestProviderVersion(t *testing.T) {
	one := offer("get")
	h, _ := provide(t, one)
	before := h.build().tools["up__get"].Version
	two := one
	two.Digest = strings.Repeat("cd", 32)
	h, _ = provide(t, two)
	if after := h.build().tools["up__get"].Version; after == before {
		t.Error("another definition has the same version")
	}
}

// A blocked tool stays listed with its approved text, and whoever calls it is told.
func TestProviderBlocked(t *testing.T) {
	o := offer("get")
	o.Blocked = true
	h, u := provide(t, o)
	u.answer = func(string) (source.Answer, error) {
		return source.Answer{}, &atlas.Error{Code: atlas.CodeDefinitionChanged}
	}
	got := h.build().tools["up__get"]
	if _, err := got.Run(t.Context(), atlas.Call{Tenant: "acme"}); atlas.CodeOf(err) != atlas.CodeDefinitionChanged {
		t.Errorf("got %v", err)
	}
}

// Whatever an upstream says, the rest of the configuration can be loaded.
func TestProviderCannotBreakTheBuild(t *testing.T) {
	for name, edit := range map[string]func(*source.Offer){
		"no schema": func(o *source.Offer) { o.Input = nil },
		"no object": func(o *source.Offer) { o.Input = json.RawMessage(`[]`) },
		"wrong schema": func(o *source.Offer) {
			o.Input = json.RawMessage(`{"type":"object","properties":{"a":{"type":"nosuch"}}}`)
		},
		"look-ahead": func(o *source.Offer) {
			o.Input = json.RawMessage(`{"type":"object","properties":{"a":{"pattern":"(?=x)"}}}`)
		},
		"remote reference": func(o *source.Offer) {
			o.Input = json.RawMessage(`{"type":"object","properties":{"a":{"$ref":"https://example.com/x"}}}`)
		},
		"wrong answer":      func(o *source.Offer) { o.Output = json.RawMessage(`{"type":7}`) },
		"no name":           func(o *source.Offer) { o.Name = "" },
		"long name":         func(o *source.Offer) { o.Name = strings.Repeat("a", 64) },
		"written like good": func(o *source.Offer) { o.Name = "Good" },
	} {
		t.Run(name, func(t *testing.T) {
			bad := offer("bad")
			edit(&bad)
			h, _ := provide(t, offer("good"), bad)
			var log bytes.Buffer
			deps := h.deps()
			deps.Log = slog.New(slog.NewTextHandler(&log, nil))
			tools, err := tool.Build(h.sources, nil, deps)
			if err != nil {
				t.Fatal(err)
			}
			var family []string
			for _, tl := range tools {
				if strings.HasPrefix(tl.Name, "up__") {
					family = append(family, tl.Name)
				}
			}
			if !slices.Equal(family, []string{"up__good"}) || !strings.Contains(log.String(), "cannot be offered") {
				t.Errorf("got %v, log %s", family, log.String())
			}
		})
	}
}

// Which names belong to an upstream does not depend on what it offers.
func TestProviderNamesAreItsOwn(t *testing.T) {
	h, _ := provide(t)
	h.sources["up__too"] = tool.Source{Kind: "sqlite", Source: h.crm}
	_, err := tool.Build(h.sources, nil, h.deps())
	if err == nil || !strings.Contains(err.Error(), "source up__too: names beginning with up__ belong") {
		t.Errorf("got %v", err)
	}
	h, _ = provide(t)
	_, err = tool.Build(h.sources, []tool.File{yaml(`
tools:
  up__orders:
    level: atomic
    source: crm
    description: Orders of somebody. Use it for orders.
    input: {id: {type: string, description: an id}}
    sql: SELECT id FROM orders WHERE id = :id
`)}, h.deps())
	if err == nil || !strings.Contains(err.Error(), "tool up__orders: names beginning with up__ belong") {
		t.Errorf("got %v", err)
	}
}
