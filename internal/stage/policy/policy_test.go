package policy_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/policy"
)

// sqlFacts stands for a SQL source: the test says in the arguments what the SQL would read.
func sqlFacts(_ context.Context, call atlas.Call) (atlas.Facts, error) {
	f := atlas.Facts{}
	f.SQL, _ = call.Args.Values["sql"].(string)
	for key, list := range map[string]*[]string{"columns": &f.Columns, "tables": &f.Tables} {
		if s, _ := call.Args.Values[key].(string); s != "" {
			*list = strings.Split(s, ",")
		}
	}
	if f.SQL == "bad" {
		return atlas.Facts{}, atlas.Errorf(atlas.CodeInvalidQuery, nil, "near bad: syntax error")
	}
	if f.SQL == "down" {
		return atlas.Facts{}, errors.New("disk on fire")
	}
	return f, nil
}

func objectKey(call atlas.Call) string {
	key, _ := call.Args.Values["key"].(string)
	return call.Tool.Source + "/" + key
}

func tools() map[string]*atlas.Tool {
	list := []*atlas.Tool{
		{
			Name: "crm_query", Source: "crm", Level: atlas.Atomic, Scopes: []string{"tool:crm:read"}, ReadOnly: true, Facts: sqlFacts, Reads: atlas.ReadsPrivate,
			Input: json.RawMessage(`{"type":"object","properties":{"sql":{"type":"string"},"max_rows":{"type":"integer","default":100},
				"columns":{"type":"string"},"tables":{"type":"string"}},"required":["sql"],"additionalProperties":false}`),
		},
		{
			Name: "tickets_search", Source: "tickets", Level: atlas.Atomic, Scopes: []string{"tool:tickets:read"}, ReadOnly: true, Reads: atlas.ReadsUntrusted,
			Input: json.RawMessage(`{"type":"object","properties":{"text":{"type":"string"},"size":{"type":"integer"},"filter":{"type":"object"}},"additionalProperties":false}`),
		},
		{
			Name: "docs_search", Source: "docs", Level: atlas.Atomic, Scopes: []string{"tool:docs:read"}, ReadOnly: true,
			Input: json.RawMessage(`{"type":"object","properties":{"text":{"type":"string"}}}`),
		},
		{
			Name: "kb_search", Source: "kb", Level: atlas.Atomic, Scopes: []string{"tool:kb:read"}, ReadOnly: true,
			Input: json.RawMessage(`{"type":"object","properties":{"text":{"type":"string"}}}`),
		},
		{
			Name: "hybrid_search", Level: atlas.Composed, Scopes: []string{"tool:docs:read", "tool:kb:read"}, ReadOnly: true,
			Input: json.RawMessage(`{"type":"object","properties":{"text":{"type":"string"}}}`),
		},
		{
			Name: "files_get", Source: "files", Level: atlas.Atomic, Scopes: []string{"tool:files:read"}, ReadOnly: true, Resource: objectKey,
			Input: json.RawMessage(`{"type":"object","properties":{"key":{"type":"string"}},"required":["key"]}`),
		},
		{
			Name: "files_put", Source: "files", Level: atlas.Atomic, Scopes: []string{"tool:files:write"}, Destructive: true, Effects: atlas.EffectsWrite, Resource: objectKey,
			Input: json.RawMessage(`{"type":"object","properties":{"key":{"type":"string"},"content":{"type":"string"}},"required":["key","content"]}`),
		},
		{
			Name: "memory_find", Source: "memory", Level: atlas.Atomic, Scopes: []string{"tool:memory:read"}, ReadOnly: true, Reads: atlas.ReadsUntrusted, Resource: objectKey,
			Input: json.RawMessage(`{"type":"object","properties":{"key":{"type":"string"}},"required":["key"]}`),
		},
		{
			Name: "memory_forget", Source: "memory", Level: atlas.Atomic, Scopes: []string{"tool:memory:write"}, Destructive: true, Effects: atlas.EffectsWrite, Resource: objectKey,
			Input: json.RawMessage(`{"type":"object","properties":{"key":{"type":"string"}},"required":["key"]}`),
		},
		{
			Name: "http_fetch", Source: "http", Level: atlas.Atomic, Scopes: []string{"tool:http:fetch"}, Effects: atlas.EffectsEgress,
			Input: json.RawMessage(`{"type":"object","properties":{"url":{"type":"string"},"method":{"type":"string","default":"GET"}},"required":["url"]}`),
		},
		{
			Name: "refund", Source: "pay", Level: atlas.Atomic, Scopes: []string{"tool:pay:write"}, Destructive: true,
			Input: json.RawMessage(`{"type":"object","properties":{"amount":{"type":"number"},"count":{"type":"integer"},"tags":{"type":"array","items":{"type":"string"}},
				"to":{"type":"object","properties":{"iban":{"type":"string"},"fee":{"type":["integer","null"]}},"required":["iban"]},
				"memo":{"type":["string","null"]}},"required":["amount","memo"]}`),
		},
		{
			Name: "case_summary", Source: "prompts", Level: atlas.Composed, Scopes: []string{"tool:prompts:get"}, ReadOnly: true,
			Input: json.RawMessage(`{"type":"object","properties":{"text":{"type":"string"}}}`),
		},
		{Name: "bare", Source: "bare", Input: json.RawMessage(`{"type":"object"}`)},
	}
	m := map[string]*atlas.Tool{}
	for _, t := range list {
		m[t.Name] = t
	}
	return m
}

func list(m map[string]*atlas.Tool) []*atlas.Tool {
	var all []*atlas.Tool
	for _, name := range slices.Sorted(maps.Keys(m)) {
		all = append(all, m[name])
	}
	return all
}

// who makes a principal of acme with every scope.
func who(roles ...string) *atlas.Principal {
	return &atlas.Principal{Subject: "u1", Tenant: "acme", Roles: roles, Scopes: []string{atlas.ScopeAdmin}}
}

func callOf(t testing.TB, tool *atlas.Tool, p *atlas.Principal, args string) atlas.Call {
	t.Helper()
	call := atlas.Call{ID: "c1", Op: atlas.OpCall, Name: tool.Name, Tool: tool, Principal: p, Tenant: p.Tenant}
	if args != "" {
		dec := json.NewDecoder(strings.NewReader(args))
		dec.UseNumber()
		if err := dec.Decode(&call.Args.Values); err != nil {
			t.Fatalf("args %s: %v", args, err)
		}
		call.Args.Raw = json.RawMessage(args)
	}
	return call
}

func load(t testing.TB, text string, ts map[string]*atlas.Tool) *policy.Engine {
	t.Helper()
	e, err := policy.Load("test.yaml", []byte(text), policy.Deps{Tools: list(ts), PII: fakePII})
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return e
}

// readDefault returns the policy that is shipped.
func readDefault(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile("../../../config/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func fakePII(raw []byte) []string {
	var kinds []string
	if strings.Contains(string(raw), "@") {
		kinds = append(kinds, "email")
	}
	if strings.Contains(string(raw), "4111") {
		kinds = append(kinds, "credit_card")
	}
	return kinds
}

func decide(t testing.TB, e *policy.Engine, call atlas.Call) policy.Decision {
	t.Helper()
	d, err := e.Decide(t.Context(), call)
	if err != nil {
		t.Fatalf("Decide: %v", err)
	}
	return d
}

func TestDefaultPolicy(t *testing.T) {
	ts := tools()
	e := load(t, readDefault(t), ts)
	for _, w := range e.Warnings() {
		t.Errorf("warning: %+v", w)
	}
	const (
		noRule = atlas.CodeNotAuthorized
		denied = atlas.CodeDeniedByPolicy
	)
	for _, c := range []struct {
		role, tool, args string
		code             atlas.Code
		rule             string
	}{
		{"support_copilot", "crm_query", `{"sql":"SELECT 1"}`, "", "support-agents-build-context"},
		{"human_agent", "tickets_search", `{}`, "", "support-agents-build-context"},
		{"support_copilot", "hybrid_search", `{}`, "", "support-agents-build-context"},
		{"support_copilot", "files_get", `{"key":"docs/a/b.txt"}`, "", "support-agents-can-read-files"},
		{"support_copilot", "files_get", `{"key":"tickets/t_7301.txt"}`, "", "support-agents-can-read-files"},
		{"support_copilot", "files_get", `{"key":"hr/salaries.csv"}`, noRule, ""},
		{"support_copilot", "files_get", `{"key":"docs"}`, noRule, ""},
		{"support_copilot", "files_get", `{"key":"docs/../hr/salaries.csv"}`, noRule, ""},
		{"support_copilot", "files_put", `{"key":"attachments/x","content":""}`, noRule, ""},
		{"human_agent", "files_put", `{"key":"attachments/x","content":""}`, "", "support-agents-can-write-attachments"},
		{"human_agent", "files_put", `{"key":"docs/x","content":""}`, noRule, ""},
		{"support_copilot", "memory_find", `{"key":"CUST-1001"}`, "", "support-recalls-customers"},
		{"support_copilot", "memory_forget", `{"key":"CUST-1001"}`, noRule, ""},
		{"human_agent", "memory_forget", `{"key":"CUST-1001"}`, "", "support-agents-remember-customers"},
		{"analyst", "memory_find", `{"key":"CUST-1001"}`, noRule, ""},
		{"internal_admin", "memory_forget", `{"key":"CUST-1001"}`, noRule, ""},
		{"support_copilot", "http_fetch", `{"url":"https://x"}`, "", "support-copilot-can-fetch-pages"},
		{"human_agent", "http_fetch", `{"url":"https://x"}`, noRule, ""},
		{"analyst", "crm_query", `{"sql":"SELECT 1","columns":"ssn"}`, "", "analysts-read-crm"},
		{"analyst", "tickets_search", `{}`, noRule, ""},
		{"analyst", "hybrid_search", `{}`, noRule, ""},
		{"internal_admin", "kb_search", `{}`, "", "internal-admins-read-everything"},
		{"internal_admin", "files_put", `{"key":"attachments/x","content":""}`, noRule, ""},
		{"approver", "files_get", `{"key":"attachments/x"}`, noRule, ""},
		{"approver", "crm_query", `{"sql":"SELECT 1"}`, noRule, ""},
		{"internal_admin", "crm_query", "{\"sql\":\"drop\\n\\ttable orders\"}", denied, "no-one-can-drop-tables"},
		{"analyst", "crm_query", `{"sql":"SELECT 'drop it' FROM notes"}`, "", "analysts-read-crm"},
		{"support_copilot", "crm_query", `{"sql":"SELECT x","columns":"id,ssn"}`, denied, "no-pii-columns-for-support-agents"},
		{"human_agent", "crm_query", `{"sql":"SELECT x","columns":"DOB"}`, denied, "no-pii-columns-for-support-agents"},
		{"nobody", "crm_query", `{"sql":"SELECT 1"}`, noRule, ""},
	} {
		d := decide(t, e, callOf(t, ts[c.tool], who(c.role), c.args))
		if code := atlas.CodeOf(d.Err()); code != c.code || d.Rule != c.rule || d.Allowed != (c.code == "") {
			t.Errorf("%s %s %s: got %q by %q, want %q by %q", c.role, c.tool, c.args, code, d.Rule, c.code, c.rule)
		}
	}
}
