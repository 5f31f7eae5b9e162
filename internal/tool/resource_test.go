package tool_test

import (
	"context"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/demo"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/stage/policy"
	"github.com/atlas-mcp/atlas/internal/tool"
)

// read reads a URI as a client would: by the one resource that it matches.
func (h *house) read(ctx context.Context, p *atlas.Principal, uri string) ([]atlas.Content, error) {
	for _, t := range h.tools {
		if t.Kind != atlas.KindResource {
			continue
		}
		if args, ok := t.Match(uri); ok {
			res, err := h.call(ctx, atlas.Call{
				ID: "call-1", Kind: atlas.KindResource, Name: t.Name, Tenant: p.Tenant, Principal: p, Args: atlas.Args{Raw: args},
			})
			return res.Content, err
		}
	}
	return nil, &atlas.Error{Code: atlas.CodeToolNotFound}
}

// by is somebody of a tenant who may use every tool, prompt and resource of support.
func by(tenant atlas.TenantID, role string, scopes ...string) *atlas.Principal {
	return &atlas.Principal{Subject: "alice", Tenant: tenant, Roles: []string{role}, Scopes: scopes}
}

// from is the call that an edge hands to List and Complete.
func from(p *atlas.Principal) atlas.Call {
	return atlas.Call{ID: "list-1", Op: atlas.OpList, Kind: atlas.KindResource, Tenant: p.Tenant, Principal: p}
}

var supportScopes = []string{"tool:crm:read", "tool:tickets:read", "tool:docs:read", "tool:kb:read", "tool:files:read", "tool:prompts:get"}

// governed puts the policy that Atlas ships with before the tools of a house.
func governed(t *testing.T, h *house) *house {
	t.Helper()
	rules, err := os.ReadFile("../../config/policy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var tools []*atlas.Tool
	for _, tl := range h.tools {
		tools = append(tools, tl)
	}
	e, err := policy.Load("policy.yaml", rules, policy.Deps{Tools: tools})
	if err != nil {
		t.Fatal(err)
	}
	gate := e.Stage(func(context.Context, atlas.Call) (atlas.Result, error) { return atlas.Result{}, nil })
	h.hook = func(ctx context.Context, c atlas.Call) error {
		if c.Tool = h.tools[c.Name]; c.Tool == nil {
			return nil
		}
		_, err := gate(ctx, c)
		return err
	}
	return h
}

func TestShippedResourcesOnTheDemoCompany(t *testing.T) {
	h := governed(t, demoHouse(t))
	agent := by(demo.Acme, "human_agent", supportScopes...)
	for _, c := range []struct{ uri, mime, want string }{
		{"atlas://crm/schema", "application/json", `"name":"customers"`},
		{"atlas://orders/o_9002", "application/json", `"status":"refund_pending"`},
		{"atlas://customers/CUST-1001", "application/json", "Alicia Rivera"},
		{"atlas://help/doc_refund_policy", "text/plain", "Refunds are paid within five business days"},
		{"atlas://files/docs/returns-checklist.md", "text/markdown; charset=utf-8", "# Returns checklist"},
		{"atlas://files/tickets/t_7301/bank-notice.txt", "text/plain; charset=utf-8", "could not be credited"},
	} {
		got, err := h.read(t.Context(), agent, c.uri)
		if err != nil || len(got) != 1 {
			t.Errorf("%s: %v, %v", c.uri, got, err)
			continue
		}
		if g := got[0]; g.Type != atlas.ContentResource || g.URI != c.uri || g.MIME != c.mime || !strings.Contains(g.Text, c.want) || g.Data != nil {
			t.Errorf("%s: %+v", c.uri, g)
		}
	}
}

// Who may not use the tool may not read the resource, and the tool is asked as the caller each time.
func TestResourcesAreGovernedAsTheirToolsAre(t *testing.T) {
	h := governed(t, demoHouse(t))
	agent := by(demo.Acme, "human_agent", supportScopes...)
	analyst := by(demo.Acme, "analyst", "tool:crm:read")
	for _, c := range []struct {
		who  *atlas.Principal
		uri  string
		code atlas.Code
	}{
		{agent, "atlas://files/attachments/x.txt", atlas.CodeNotAuthorized}, // no rule reads attachments
		{agent, "atlas://files/docs/nobody.md", atlas.CodeNotFound},
		{agent, "atlas://files/nobody.md", atlas.CodeNotAuthorized},
		{analyst, "atlas://files/docs/returns-checklist.md", atlas.CodeNotAuthorized},
		{analyst, "atlas://orders/o_9002", ""},
		{agent, "atlas://orders/o_77777", atlas.CodeNotFound},
		{agent, "atlas://orders/x", atlas.CodeInvalidArguments},
		{agent, "atlas://help/doc_nobody", atlas.CodeNotFound},
		{agent, "atlas://files/docs/%2E%2E/x", atlas.CodeToolNotFound},
		{agent, "atlas://files/docs/..%2Fx", atlas.CodeToolNotFound},
		{agent, "atlas://files/../docs/returns-checklist.md", atlas.CodeToolNotFound},
		{agent, "atlas://orders/o_9002%00", atlas.CodeToolNotFound},
		{agent, "atlas://orders/o_9002'%20OR%201=1", atlas.CodeToolNotFound},
		{agent, "atlas://orders/o_9002%27%20OR%201%3D1", atlas.CodeInvalidArguments},
	} {
		if _, err := h.read(t.Context(), c.who, c.uri); atlas.CodeOf(err) != c.code {
			t.Errorf("%s reads %s: %v, want %q", c.who.Roles, c.uri, err, c.code)
		}
	}
	calls := len(h.calls)
	if _, err := h.read(t.Context(), agent, "atlas://orders/o_9002"); err != nil {
		t.Fatal(err)
	}
	child := h.calls[calls+1]
	if len(h.calls) != calls+2 || child.Name != "crm_order" || child.Kind != atlas.KindTool || child.Principal != agent ||
		child.Parent == nil || child.Parent.Tool != "order_record" {
		t.Errorf("the tool was not asked as the caller: %+v", h.calls[calls:])
	}
}

func TestResourceLists(t *testing.T) {
	h := governed(t, demoHouse(t))
	list := func(p *atlas.Principal, name string) []string {
		t.Helper()
		links, err := h.tools[name].List(t.Context(), from(p))
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, l := range links {
			if _, ok := h.tools[name].Match(l.URI); !ok || l.Type != atlas.ContentResourceLink || l.Name == "" {
				t.Errorf("%s lists %+v, which it does not read", name, l)
			}
			out = append(out, l.URI)
		}
		slices.Sort(out)
		return out
	}
	agent := by(demo.Acme, "human_agent", supportScopes...)
	want := []string{"atlas://files/docs/returns-checklist.md", "atlas://files/docs/tone-of-voice.md", "atlas://files/tickets/t_7301/bank-notice.txt"}
	if d := cmp.Diff(want, list(agent, "files_documents")); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"atlas://files/docs/spare-parts.md"}, list(by(demo.Globex, "human_agent", supportScopes...), "files_documents")); d != "" {
		t.Error(d)
	}
	// Who may not list finds nothing, and no error that says that there is something.
	if got := list(by(demo.Acme, "analyst", "tool:crm:read"), "files_documents"); got != nil {
		t.Error(got)
	}
	acme, globex := list(agent, "help_document"), list(by(demo.Globex, "human_agent", supportScopes...), "help_document")
	if !slices.Contains(acme, "atlas://help/doc_refund_policy") || !slices.Contains(globex, "atlas://help/doc_gx_refunds") ||
		slices.ContainsFunc(acme, func(s string) bool { return slices.Contains(globex, s) }) {
		t.Errorf("acme lists %v, globex %v", acme, globex)
	}
}

func TestListsReportFailures(t *testing.T) {
	h := newHouse(t).build(shipped(t)...)
	h.fail["files_list"] = &atlas.Error{Code: atlas.CodeSourceUnavailable}
	_, err := h.tools["files_documents"].List(t.Context(), from(by("acme", "human_agent")))
	wantCode(t, err, atlas.CodeSourceUnavailable) // an empty list would say that there is nothing
	_, err = h.tools["files_documents"].Complete(t.Context(), from(by("acme", "human_agent")), "key", "", nil)
	wantCode(t, err, atlas.CodeSourceUnavailable)
	h.fail["files_list"] = &atlas.Error{Code: atlas.CodeToolNotFound} // hidden from this caller
	if got, err := h.tools["files_documents"].List(t.Context(), from(by("acme", "human_agent"))); err != nil || got != nil {
		t.Error(got, err)
	}
}

func TestCompletionsAreTheCallersOwn(t *testing.T) {
	h := governed(t, demoHouse(t))
	acme, globex := by(demo.Acme, "human_agent", supportScopes...), by(demo.Globex, "human_agent", supportScopes...)
	for _, c := range []struct {
		who                    *atlas.Principal
		name, argument, prefix string
		known                  map[string]string
		want                   []string
	}{
		{acme, "customer_record", "customer_id", "CUST-1001", nil, []string{"CUST-1001"}},
		{globex, "customer_record", "customer_id", "CUST-1001", nil, nil},
		{globex, "customer_record", "customer_id", "CUST-2001", nil, []string{"CUST-2001"}},
		{acme, "investigate_refund", "customer_id", "CUST-1001", nil, []string{"CUST-1001"}},
		{acme, "investigate_refund", "order_id", "o_900", map[string]string{"customer_id": "CUST-1001"}, []string{"o_9002", "o_9001"}},
		{acme, "investigate_refund", "order_id", "o_900", nil, nil}, // by the customer, who is not known
		{globex, "investigate_refund", "order_id", "o_900", map[string]string{"customer_id": "CUST-1001"}, nil},
		{acme, "investigate_refund", "order_id", "o_", map[string]string{"customer_id": "' OR 1=1"}, nil},
		{acme, "files_documents", "key", "docs/t", nil, []string{"docs/tone-of-voice.md"}},
		{globex, "files_documents", "key", "docs/t", nil, nil},
		{acme, "files_documents", "key", "docs/../", nil, nil},
		{acme, "files_documents", "key", "docs/\x00", nil, nil},
		{acme, "files_documents", "nothing", "", nil, nil},
		{acme, "customer_record", "customer_id", "%", nil, nil},
		{acme, "customer_record", "customer_id", "CUST-100%", nil, nil},
		{acme, "customer_record", "customer_id", "' OR '1'='1", nil, nil},
		{acme, "customer_record", "customer_id", strings.Repeat("C", 1000), nil, nil},
		{by(demo.Acme, "auditor"), "customer_record", "customer_id", "CUST-1001", nil, nil},
	} {
		got, err := h.tools[c.name].Complete(t.Context(), from(c.who), c.argument, c.prefix, c.known)
		if d := cmp.Diff(c.want, got); d != "" || err != nil {
			t.Errorf("%s %s completes %s of %s from %q: %v\n%s", c.who.Tenant, c.who.Roles, c.argument, c.name, c.prefix, err, d)
		}
	}
	all, err := h.tools["customer_record"].Complete(t.Context(), from(acme), "customer_id", "CUST-", nil)
	if err != nil || len(all) != 100 {
		t.Errorf("%d completions, %v", len(all), err)
	}
}

// Asked by globex, every resource answers for acme's documents as it does for those that nobody has.
func TestAnotherTenantsDocumentsLookLikeNobodys(t *testing.T) {
	h := governed(t, demoHouse(t))
	acme, globex := by(demo.Acme, "human_agent", supportScopes...), by(demo.Globex, "human_agent", supportScopes...)
	for _, c := range []struct{ theirs, nobodys string }{
		{"atlas://orders/o_9002", "atlas://orders/o_77777"},
		{"atlas://customers/CUST-1001", "atlas://customers/CUST-9999"},
		{"atlas://help/doc_refund_policy", "atlas://help/doc_nobody"},
		{"atlas://files/docs/tone-of-voice.md", "atlas://files/docs/nobody.md"},
		{"atlas://files/tickets/t_7301/bank-notice.txt", "atlas://files/tickets/t_9999/nobody.txt"},
	} {
		_, errTheirs := h.read(t.Context(), globex, c.theirs)
		_, errNobodys := h.read(t.Context(), globex, c.nobodys)
		if errTheirs == nil || shown(errTheirs) != shown(errNobodys) {
			t.Errorf("globex tells acme's %s from nobody's:\n%s\n%s", c.theirs, shown(errTheirs), shown(errNobodys))
		}
		if got, err := h.read(t.Context(), acme, c.theirs); err != nil || len(got) == 0 {
			t.Errorf("acme reads %s: %v", c.theirs, err) // or the test would mean nothing
		}
	}
}

const documents = `
tools:
  row:
    source: crm
    description: Gives one. Use it.
    input: {n: {type: integer, minimum: -5, maximum: 5000, description: "a number"}}
    sql: SELECT * FROM rows WHERE n = :n
    single: true
resources:
  whole: {uri: "atlas://rows/{n}", tool: row, arguments: {n: "{n}"}, description: "One."}
  text: {uri: "atlas://texts/{n}", tool: row, arguments: {n: "{n}"}, description: "One.", text: body, encoding: how, mime_from: type}
  bytes: {uri: "atlas://bytes/{n}", tool: row, arguments: {n: "{n}"}, description: "One.", blob: body, mime: image/png, scopes: ["tool:x:read"]}
`

func TestDocuments(t *testing.T) {
	h := newHouse(t).build(yaml(documents))
	var row map[string]any
	h.crm.answer = func(atlas.TenantID, source.Query) (source.Rows, error) {
		var r source.Rows
		r.Rows = [][]any{{}}
		for _, k := range []string{"body", "how", "type", "truncated"} {
			if v, ok := row[k]; ok {
				r.Columns, r.Rows[0] = append(r.Columns, k), append(r.Rows[0], v)
			}
		}
		return r, nil
	}
	for _, c := range []struct {
		row  map[string]any
		uri  string
		want atlas.Content
		code atlas.Code
	}{
		{map[string]any{"body": "x"}, "atlas://rows/1", atlas.Content{MIME: "application/json", Text: `{"body":"x"}`}, ""},
		{map[string]any{"body": "x"}, "atlas://texts/1", atlas.Content{MIME: "text/plain", Text: "x"}, ""},
		{map[string]any{"body": ""}, "atlas://texts/1", atlas.Content{MIME: "text/plain"}, ""},
		{map[string]any{"body": "x", "type": "text/html"}, "atlas://texts/1", atlas.Content{MIME: "text/html", Text: "x"}, ""},
		{map[string]any{"body": "x", "type": "text/html\r\nX: y"}, "atlas://texts/1", atlas.Content{MIME: "text/plain", Text: "x"}, ""},
		{map[string]any{"body": "AAE=", "how": "base64"}, "atlas://texts/1", atlas.Content{MIME: "text/plain", Data: []byte{0, 1}}, ""},
		{map[string]any{"body": "AAE=", "how": "utf-8"}, "atlas://texts/1", atlas.Content{MIME: "text/plain", Text: "AAE="}, ""},
		{map[string]any{"body": "!", "how": "base64"}, "atlas://texts/1", atlas.Content{}, atlas.CodeSourceMisused},
		{map[string]any{"how": "utf-8"}, "atlas://texts/1", atlas.Content{}, atlas.CodeNotFound},
		{map[string]any{"body": nil}, "atlas://texts/1", atlas.Content{}, atlas.CodeNotFound},
		{map[string]any{"body": "half", "truncated": true}, "atlas://texts/1", atlas.Content{}, atlas.CodeTooLarge},
		{map[string]any{"body": strings.Repeat("x", 1<<20)}, "atlas://texts/1", atlas.Content{MIME: "text/plain", Text: strings.Repeat("x", 1<<20)}, ""},
		{map[string]any{"body": strings.Repeat("x", 1<<20+1)}, "atlas://texts/1", atlas.Content{}, atlas.CodeTooLarge},
		{map[string]any{"body": strings.Repeat("x", 1<<20)}, "atlas://rows/1", atlas.Content{}, atlas.CodeTooLarge},
		{map[string]any{"body": "AAE="}, "atlas://bytes/-5", atlas.Content{MIME: "image/png", Data: []byte{0, 1}}, ""},
		{map[string]any{}, "atlas://rows/-6", atlas.Content{}, atlas.CodeInvalidArguments},
		{map[string]any{}, "atlas://rows/01", atlas.Content{}, atlas.CodeToolNotFound}, // another spelling of 1
		{map[string]any{}, "atlas://rows/1.0", atlas.Content{}, atlas.CodeToolNotFound},
		{map[string]any{}, "atlas://rows/1e2", atlas.Content{}, atlas.CodeToolNotFound},
		{map[string]any{}, "atlas://rows/-0", atlas.Content{}, atlas.CodeToolNotFound},
		{map[string]any{}, "atlas://rows/9007199254740993", atlas.Content{}, atlas.CodeToolNotFound},
	} {
		row = c.row
		got, err := h.read(t.Context(), by("acme", "x"), c.uri)
		if atlas.CodeOf(err) != c.code {
			t.Errorf("%s of %.60v: %v", c.uri, c.row, err)
			continue
		}
		if err == nil {
			c.want.Type, c.want.URI = atlas.ContentResource, c.uri
			if d := cmp.Diff([]atlas.Content{c.want}, got); d != "" {
				t.Errorf("%s of %.60v:\n%.500s", c.uri, c.row, d)
			}
		}
	}
	if got := h.tools["whole"].Scopes; !slices.Equal(got, []string{"tool:crm:read"}) {
		t.Error(got)
	}
	if got := h.tools["bytes"].Scopes; !slices.Equal(got, []string{"tool:x:read"}) {
		t.Error(got)
	}
}

// A resource's own arguments may come from elsewhere than from Match.
func TestResourceArgumentsAreChecked(t *testing.T) {
	h := newHouse(t).build(shipped(t)...)
	for _, key := range []string{"../x", "a/../../x", "a//b", "/etc", "a\x00b", `a\b`, "", strings.Repeat("a", 2000)} {
		args, err := json.Marshal(map[string]string{"key": key})
		if err != nil {
			t.Fatal(err)
		}
		call := atlas.Call{Tenant: "acme", Principal: by("acme", "x"), Tool: h.tools["files_documents"], Args: atlas.Args{Raw: args}}
		if _, err := h.tools["files_documents"].Run(t.Context(), call); atlas.CodeOf(err) != atlas.CodeInvalidArguments {
			t.Errorf("%q: %v", key, err)
		}
		if got := h.tools["files_documents"].Resource(call); got != "resources//" {
			t.Errorf("%q touches %s", key, got)
		}
	}
	call := atlas.Call{Tenant: "acme", Tool: h.tools["files_documents"], Args: atlas.Args{Raw: json.RawMessage(`{"key":"docs/a.md"}`)}}
	if got := h.tools["files_documents"].Resource(call); got != "files/docs/a.md" {
		t.Error(got)
	}
	if len(h.calls) != 0 {
		t.Error("a tool was called")
	}
}

func TestAutomaticResources(t *testing.T) {
	for _, c := range []struct {
		verbs tool.Verbs
		want  string
		err   string
	}{
		{tool.Verbs{}, "atlas://files/{+key}", ""},
		{tool.Verbs{Expose: []string{"get"}}, "atlas://files/{+key}", ""},
		{tool.Verbs{Expose: []string{"list"}}, "", ""},
		{tool.Verbs{Resources: []string{}}, "", ""},
		{tool.Verbs{Resources: []string{"objects"}}, "atlas://files/{+key}", ""},
		{tool.Verbs{Resources: []string{"schema"}}, "", "source files: resources: schema needs the verb schema, which is not offered"},
		{tool.Verbs{Resources: []string{"objects"}, Expose: []string{"list"}}, "", "source files: resources: objects needs the verb get, which is not offered"},
		{tool.Verbs{Resources: []string{"object"}}, "", `source files: tools: resources: "object" is not known; use schema, objects`},
	} {
		h := newHouse(t)
		h.sources = map[string]tool.Source{"files": {Kind: "folder", Source: h.files, Tools: c.verbs}}
		tools, err := tool.Build(h.sources, nil, h.deps())
		if c.err != "" {
			if err == nil || err.Error() != c.err {
				t.Errorf("%+v: %v", c.verbs, err)
			}
			continue
		}
		uri := ""
		for _, tl := range tools {
			uri += tl.URI
			if tl.Kind == atlas.KindResource && (tl.List != nil) != (c.verbs.Expose == nil) {
				t.Errorf("%+v: lists: %v", c.verbs, tl.List != nil)
			}
		}
		if err != nil || uri != c.want {
			t.Errorf("%+v: %q, %v", c.verbs, uri, err)
		}
	}
}

func TestAutomaticDocuments(t *testing.T) {
	h := newHouse(t).build()
	h.files.objects["acme/a b/ü.md"] = source.Object{Content: []byte("x"), ContentType: "text/markdown"}
	h.files.objects["acme/raw"] = source.Object{Content: []byte{0xff, 0}, ContentType: "image/png"}
	h.files.objects["globex/other"] = source.Object{Content: []byte("y")}
	acme := by("acme", "x")
	links, err := h.tools["files_documents"].List(t.Context(), from(acme))
	slices.SortFunc(links, func(a, b atlas.Content) int { return strings.Compare(a.URI, b.URI) })
	want := []atlas.Content{
		{Type: atlas.ContentResourceLink, URI: "atlas://files/a%20b/%C3%BC.md", Name: "a b/ü.md", Size: 1},
		{Type: atlas.ContentResourceLink, URI: "atlas://files/raw", Name: "raw", Size: 2},
	}
	if d := cmp.Diff(want, links); d != "" || err != nil {
		t.Error(d, err)
	}
	got, err := h.read(t.Context(), acme, "atlas://files/a%20b/%C3%BC.md")
	if d := cmp.Diff([]atlas.Content{{Type: atlas.ContentResource, URI: "atlas://files/a%20b/%C3%BC.md", MIME: "text/markdown", Text: "x"}}, got); d != "" || err != nil {
		t.Error(d, err)
	}
	got, err = h.read(t.Context(), acme, "atlas://files/raw")
	if d := cmp.Diff([]atlas.Content{{Type: atlas.ContentResource, URI: "atlas://files/raw", MIME: "image/png", Data: []byte{0xff, 0}}}, got); d != "" || err != nil {
		t.Error(d, err)
	}
	keys, err := h.tools["files_documents"].Complete(t.Context(), from(acme), "key", "r", nil)
	if d := cmp.Diff([]string{"raw"}, keys); d != "" || err != nil {
		t.Error(d, err)
	}
}

// A write tells which document it has changed, and nothing else does.
func TestWritesNameTheirDocument(t *testing.T) {
	h := newHouse(t).build(shipped(t)...)
	docs := h.tools["files_documents"]
	for touched, want := range map[string]string{
		"files/docs/a b.md": "atlas://files/docs/a%20b.md",
		"files/x":           "atlas://files/x",
		"files//":           "", // a key that is not allowed
		"files/../x":        "",
		"other/x":           "",
		"crm/crm_query":     "",
	} {
		uri, ok := docs.Changed(touched)
		if ok != (want != "") || ok && uri != want {
			t.Errorf("%s: %q, %v; want %q", touched, uri, ok, want)
		}
		if _, fits := docs.Match(uri); ok && !fits {
			t.Errorf("%s: nobody could read %s", touched, uri)
		}
	}
	for _, name := range []string{"order_record", "crm_schema_doc", "crm_order"} {
		if h.tools[name].Changed != nil {
			t.Errorf("%s tells of changes", name)
		}
	}
}
