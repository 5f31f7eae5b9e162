package tool_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/tool"
)

// notes are memories by tenant, oldest first.
type notes struct {
	kept   map[atlas.TenantID][]tool.Memory
	limits []int
	fail   error
}

func (n *notes) Save(_ context.Context, tenant atlas.TenantID, m tool.Memory) error {
	if n.fail != nil {
		return n.fail
	}
	if !slices.ContainsFunc(n.kept[tenant], func(k tool.Memory) bool { return k.ID == m.ID }) {
		n.kept[tenant] = append(n.kept[tenant], m)
	}
	return nil
}

func (n *notes) Find(_ context.Context, tenant atlas.TenantID, customer string, limit int) ([]tool.Memory, error) {
	n.limits = append(n.limits, limit)
	var out []tool.Memory
	for _, m := range slices.Backward(n.kept[tenant]) {
		if m.Customer == customer && len(out) < limit {
			out = append(out, m)
		}
	}
	return out, n.fail
}

func (n *notes) Forget(_ context.Context, tenant atlas.TenantID, customer string) (int, error) {
	before := len(n.kept[tenant])
	n.kept[tenant] = slices.DeleteFunc(n.kept[tenant], func(m tool.Memory) bool { return m.Customer == customer })
	return before - len(n.kept[tenant]), n.fail
}

func remembering(t testing.TB) (*house, *notes) {
	t.Helper()
	h, store := newHouse(t), &notes{kept: map[atlas.TenantID][]tool.Memory{}}
	deps := h.deps()
	deps.Memories = store
	tools, err := tool.Build(nil, nil, deps)
	if err != nil {
		t.Fatal(err)
	}
	h.tools = map[string]*atlas.Tool{}
	for _, t := range tools {
		h.tools[t.Name] = t
	}
	return h, store
}

func found(v map[string]any) []string {
	texts := []string{}
	for _, m := range v["memories"].([]any) {
		texts = append(texts, m.(map[string]any)["text"].(string))
	}
	return texts
}

func TestMemoryFind(t *testing.T) {
	h, store := remembering(t)
	for _, text := range []string{"Likes blue lamps.", "Call after six; never on Mondays.", "Asked twice for blue, blue curtains and a lamp.", "Écrit en français."} {
		h.get("memory_save", fmt.Sprintf(`{"customer_id":"CUST-1","text":%q}`, text))
	}
	for args, want := range map[string][]string{
		`{"customer_id":"CUST-1"}`:                                    {"Écrit en français.", "Asked twice for blue, blue curtains and a lamp.", "Call after six; never on Mondays.", "Likes blue lamps."},
		`{"customer_id":"CUST-1","limit":2}`:                          {"Écrit en français.", "Asked twice for blue, blue curtains and a lamp."},
		`{"customer_id":"CUST-1","query":"BLUE lamps?"}`:              {"Likes blue lamps.", "Asked twice for blue, blue curtains and a lamp."},
		`{"customer_id":"CUST-1","query":"blue","limit":1}`:           {"Asked twice for blue, blue curtains and a lamp."},
		`{"customer_id":"CUST-1","query":"FRANÇAIS"}`:                 {"Écrit en français."},
		`{"customer_id":"CUST-1","query":"red"}`:                      {},
		`{"customer_id":"CUST-1","query":" ?! "}`:                     {"Écrit en français.", "Asked twice for blue, blue curtains and a lamp.", "Call after six; never on Mondays.", "Likes blue lamps."},
		`{"customer_id":"CUST-2"}`:                                    {},
		`{"customer_id":"cust-1"}`:                                    {},
		`{"customer_id":"CUST-1","query":"%","limit":50}`:             {"Écrit en français.", "Asked twice for blue, blue curtains and a lamp.", "Call after six; never on Mondays.", "Likes blue lamps."},
		`{"customer_id":"CUST-1","query":"mondays call after never"}`: {"Call after six; never on Mondays."},
	} {
		if got := found(h.get("memory_find", args)); !slices.Equal(got, want) {
			t.Errorf("%s: %q", args, got)
		}
	}
	if slices.Max(store.limits) > 1000 {
		t.Errorf("asked for up to %d", slices.Max(store.limits))
	}
	if res, err := h.ask(t.Context(), "globex", "memory_find", `{"customer_id":"CUST-1"}`); err != nil || string(res.Structured) != `{"memories":[]}` {
		t.Errorf("the other tenant: %s, %v", res.Structured, err)
	}
	store.fail = &atlas.Error{Code: atlas.CodeStateUnavailable}
	for name, args := range map[string]string{"memory_find": `{"customer_id":"CUST-1"}`, "memory_save": `{"customer_id":"CUST-1","text":"x"}`, "memory_forget": `{"customer_id":"CUST-1"}`} {
		if res, err := h.ask(t.Context(), "acme", name, args); atlas.CodeOf(err) != atlas.CodeStateUnavailable {
			t.Errorf("%s: %s, %v", name, res.Structured, err)
		}
	}
}

// The same text about the same customer is one memory until the day is over, and then lives longer.
func TestMemoryIsTheSameUntilTheDayIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, store := remembering(t)
		save := func(args string) string { return fmt.Sprint(h.get("memory_save", args)["id"]) }
		start := time.Now().UTC() // midnight (synctest)
		first := save(`{"customer_id":"CUST-1","text":"a","ttl_days":1}`)
		if want := start.AddDate(0, 0, 2); !store.kept["acme"][0].Expires.Equal(want) {
			t.Errorf("expires %v, want %v", store.kept["acme"][0].Expires, want)
		}
		time.Sleep(23 * time.Hour)
		if again := save(`{"customer_id":"CUST-1","text":" a\n","ttl_days":1}`); again != first {
			t.Errorf("%s, then %s", first, again)
		}
		for _, args := range []string{`{"customer_id":"CUST-2","text":"a","ttl_days":1}`, `{"customer_id":"CUST-1","text":"b","ttl_days":1}`, `{"customer_id":"CUST-1","text":"a"}`} {
			if save(args) == first {
				t.Errorf("%s is the same memory", args)
			}
		}
		time.Sleep(2 * time.Hour)
		if next := save(`{"customer_id":"CUST-1","text":"a","ttl_days":1}`); next == first {
			t.Error("saved on the next day it lives no longer")
		}
		if n := len(store.kept["acme"]); n != 5 {
			t.Errorf("%d memories", n)
		}
	})
}

// Whatever the arguments are, what policy is asked about is one segment below memory, or nothing that a
// rule about customers matches; and the tool keeps no character that cannot be seen.
func TestMemoryHolds(t *testing.T) {
	h, store := remembering(t)
	rapid.Check(t, func(r *rapid.T) {
		customer, text := rapid.OneOf(rapid.StringMatching(`CUST-[0-9]{1,4}`), rapid.String()).Draw(r, "customer"), rapid.String().Draw(r, "text")
		raw, err := json.Marshal(map[string]any{"customer_id": customer, "text": text})
		if err != nil {
			r.Fatal(err)
		}
		clear(store.kept)
		res, err := h.ask(t.Context(), "acme", "memory_save", string(raw))
		touched := h.tools["memory_save"].Resource(atlas.Call{Args: atlas.Args{Raw: raw}})
		rest, ok := strings.CutPrefix(touched, "memory/")
		if !ok || strings.Contains(rest, "/") && rest != "/" {
			r.Fatalf("%q touches %q", customer, touched)
		}
		if err != nil {
			if code := atlas.CodeOf(err); code != atlas.CodeInvalidArguments && code != atlas.CodeTooLarge || len(store.kept["acme"]) > 0 {
				r.Fatalf("%q: %v, %+v", text, err, store.kept)
			}
			return
		}
		kept := store.kept["acme"][0]
		if rest != customer || kept.Customer != customer || kept.Text != strings.TrimSpace(text) || !json.Valid(res.Structured) {
			r.Fatalf("%q of %q: %+v, %q", text, customer, kept, rest)
		}
		for _, c := range kept.Text {
			if c < ' ' && c != '\n' && c != '\t' || c >= 0x7f && c < 0xa0 || c >= 0x202a && c <= 0x202e || c == 0xfeff || c >= 0xe0000 && c <= 0xe007f {
				r.Fatalf("%q is kept", kept.Text)
			}
		}
	})
}

// A source cannot have the name of the tools of memories, nor a file that of one of them.
func TestMemoryNames(t *testing.T) {
	h := newHouse(t)
	h.sources["memory"] = tool.Source{Kind: "folder", Source: h.files}
	deps := h.deps()
	if _, err := tool.Build(h.sources, nil, deps); err != nil {
		t.Errorf("without memories the name is free: %v", err)
	}
	deps.Memories = &notes{}
	if _, err := tool.Build(h.sources, nil, deps); err == nil || !strings.Contains(err.Error(), "source memory: the name is taken by the tools of memories") {
		t.Errorf("%v", err)
	}
	file := tool.File{Name: "t.yaml", Data: []byte("tools:\n  memory_find:\n    level: atomic\n    source: crm\n    description: One order by its id, with its status. Use it when an id is known.\n    input: {}\n    sql: SELECT 1\n")}
	delete(h.sources, "memory")
	if _, err := tool.Build(map[string]tool.Source{"crm": h.sources["crm"]}, []tool.File{file}, deps); err == nil || !strings.Contains(err.Error(), "tool memory_find is already defined by memory.enabled") {
		t.Errorf("%v", err)
	}
}
