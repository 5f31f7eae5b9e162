package e2e_test

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas/internal/demo"
)

// markers are texts that stand in acme's data and not in globex's.
func markers(t *testing.T) []string {
	t.Helper()
	companies := demo.Companies()
	theirs, err := json.Marshal(companies[demo.Globex])
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{"Alicia Rivera": true, "Ben Wallace": true, "acme.example": true, "$500": true}
	add := func(s string) {
		if len(s) >= 6 {
			found[s] = true
		}
	}
	for _, data := range companies[demo.Acme] {
		for _, table := range data.Tables {
			for _, row := range table.Rows {
				add(row[0].(string)) // every table begins with the id
				for _, v := range row {
					if s, ok := v.(string); ok && strings.Contains(s, "@") {
						add(s)
					}
				}
			}
		}
		for _, d := range data.Documents {
			add(d.ID)
			add(d.URL)
		}
		for _, o := range data.Objects {
			add(o.Key)
		}
	}
	maps.DeleteFunc(found, func(s string, _ bool) bool { return strings.Contains(string(theirs), s) })
	list := slices.Sorted(maps.Keys(found))
	if len(list) < 500 {
		t.Fatalf("only %d markers", len(list))
	}
	return list
}

// A probe asks a tool twice: for something of acme's, and for something that nobody has.
type probe struct {
	tool            string
	theirs, nothing map[string]any
	refused         bool // for acme, too: as it must be
}

type object = map[string]any

func probes() []probe {
	return []probe{
		{"crm_customer", object{"customer_id": "CUST-1001"}, object{"customer_id": "CUST-9999"}, false},
		{"crm_customer_orders", object{"customer_id": "CUST-1001"}, object{"customer_id": "CUST-9999"}, false},
		{"crm_documents", object{"ids": []string{"doc_refund_policy"}}, object{"ids": []string{"doc_nothing_at_al"}}, false},
		{"crm_order", object{"order_id": "o_9002"}, object{"order_id": "o_1111"}, false},
		{"crm_order_items", object{"order_id": "o_9002"}, object{"order_id": "o_1111"}, false},
		{"crm_order_totals", object{"tenant": "acme"}, object{"tenant": "none"}, true},
		{"crm_query", object{"sql": "SELECT * FROM orders WHERE id = 'o_9002'"}, object{"sql": "SELECT * FROM orders WHERE id = 'o_1111'"}, false},
		{"crm_query", object{"sql": "SELECT * FROM orders WHERE id = :id", "params": object{"id": "o_9002"}}, object{"sql": "SELECT * FROM orders WHERE id = :id", "params": object{"id": "o_1111"}}, false},
		{"crm_query", object{"sql": "SELECT id FROM 'acme'.orders"}, object{"sql": "SELECT id FROM 'none'.orders"}, true},
		{"crm_query", object{"sql": "SELECT id, name FROM customers WHERE name LIKE '%Rivera%'"}, object{"sql": "SELECT id, name FROM customers WHERE name LIKE '%Zzzzzz%'"}, false},
		{"crm_schema", object{"tenant": "acme"}, object{"tenant": "none"}, true},
		{"customer_context", object{"customer_id": "CUST-1001", "question": "refund"}, object{"customer_id": "CUST-9999", "question": "refund"}, false},
		{"docs_search", object{"query": "refund", "filter": object{"id": "doc_refund_policy"}}, object{"query": "refund", "filter": object{"id": "doc_nothing"}}, false},
		{"files_get", object{"key": "tickets/t_7301/bank-notice.txt"}, object{"key": "tickets/t_1111/bank-notice.txt"}, false},
		{"files_get", object{"key": "docs/returns-checklist.md"}, object{"key": "docs/nothing-is-here.md"}, false},
		{"files_list", object{"prefix": "tickets/t_7301/"}, object{"prefix": "tickets/t_1111/"}, false},
		{"files_put", object{"key": "attachments/acme.txt", "content": "x"}, object{"key": "attachments/none.txt", "content": "x"}, true},
		{"http_fetch", object{"url": "https://wiki.acme.internal/"}, object{"url": "https://wiki.none.internal/"}, true},
		{"hybrid_search", object{"query": "refund", "filter": object{"id": "doc_refund_policy"}}, object{"query": "refund", "filter": object{"id": "doc_nothing"}}, false},
		{"kb_search", object{"query": "refund", "filter": object{"id": "doc_refund_policy"}}, object{"query": "refund", "filter": object{"id": "doc_nothing"}}, false},
		{"semantic_search", object{"query": "refund", "filter": object{"id": "doc_refund_policy"}}, object{"query": "refund", "filter": object{"id": "doc_nothing"}}, false},
		{"ticket", object{"ticket_id": "t_7301"}, object{"ticket_id": "t_1111"}, false},
		{"tickets_of_customer", object{"customer_id": "CUST-1001"}, object{"customer_id": "CUST-9999"}, false},
		{"tickets_search", object{"query": "refund", "filter": object{"customer_id": "CUST-1001"}}, object{"query": "refund", "filter": object{"customer_id": "CUST-9999"}}, false},
		{"tickets_search", object{"query": "t_7301"}, object{"query": "t_1111"}, false},
	}
}

// paging are calls of acme whose first page ends with a cursor.
func paging() []probe {
	return []probe{
		{tool: "crm_query", theirs: object{"sql": "SELECT id, name, email FROM customers ORDER BY id"}},
		{tool: "crm_query", theirs: object{"sql": "SELECT * FROM orders ORDER BY created_at DESC, id"}},
	}
}

var cursorOf = regexp.MustCompile(`"next_cursor":"([^"]+)"`)

// at returns the arguments for the page at the cursor.
func at(args object, cursor string) object {
	m := maps.Clone(args)
	m["cursor"] = cursor
	return m
}

// Whatever globex asks for that is acme's, the answer is byte for byte the one for things that do
// not exist, in both eras of the protocol, and no byte of it is acme's.
func TestOneTenantCannotSeeTheOther(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir())
	secrets := markers(t)
	roles := []string{"--role", "support_copilot", "--role", "human_agent"}
	// The shipped policy lets support list no files, so an administrator does.
	roles = append(roles, "--role", "internal_admin")
	acme := s.token(t, "acme", "prober@acme", roles...)

	clean := func(t *testing.T, a *answer) {
		t.Helper()
		text := a.String()
		for _, m := range secrets {
			if strings.Contains(text, m) {
				t.Errorf("globex sees %q in %s", m, text)
			}
		}
	}
	same := func(t *testing.T, a, b *answer) {
		t.Helper()
		clean(t, a)
		clean(t, b)
		// An unknown name of the question's own SQL comes back in the answer.
		theirs := strings.ReplaceAll(a.String(), `\"acme\"`, `\"none\"`)
		theirs = strings.ReplaceAll(theirs, `["acme"]`, `["none"]`)
		if diff := cmp.Diff(b.String(), theirs); diff != "" {
			t.Errorf("the answer tells acme's from what is not there (-nothing +theirs):\n%s", diff)
		}
	}

	for _, era := range []string{modern, legacy} {
		t.Run(era, func(t *testing.T) {
			// Each era has a caller of its own, so that no limit is reached.
			globex := s.token(t, "globex", "prober-"+era, roles...)
			list, err := s.do(t, s.rpc(t, era, globex, "tools/list", nil))
			if err != nil {
				t.Fatal(err)
			}
			// The descriptions are the operator's words, the same for every tenant.
			theirs, err := s.do(t, s.rpc(t, era, acme, "tools/list", nil))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(theirs.String(), list.String()); diff != "" {
				t.Errorf("the lists of two tenants with the same rights differ:\n%s", diff)
			}
			tested := map[string]bool{}
			for _, p := range probes() {
				tested[p.tool] = true
				t.Run(p.tool, func(t *testing.T) {
					// The probe itself must find acme's thing for acme.
					mine := s.call(t, era, acme, p.tool, p.theirs)
					if mine.status != 200 || strings.Contains(mine.body, `"isError":true`) != p.refused {
						t.Errorf("acme: %s", mine)
					}
					// A warm cache of acme changes nothing for globex.
					same(t, s.call(t, era, globex, p.tool, p.theirs), s.call(t, era, globex, p.tool, p.nothing))
				})
			}
			for _, m := range regexp.MustCompile(`"inputSchema":.*?"name":"([a-z_]+)"`).FindAllStringSubmatch(list.body, -1) {
				if !tested[m[1]] {
					t.Errorf("%s is not probed", m[1])
				}
			}
			if len(tested) != 20 {
				t.Errorf("%d tools probed", len(tested))
			}
		})
	}

	t.Run("cursors", func(t *testing.T) {
		globex := s.token(t, "globex", "prober-cursors", roles...)
		for _, p := range paging() {
			t.Run(p.tool, func(t *testing.T) {
				first := s.call(t, modern, acme, p.tool, p.theirs)
				m := cursorOf.FindStringSubmatch(first.body)
				if m == nil {
					t.Fatalf("no cursor in %s", first)
				}
				if next := s.call(t, modern, acme, p.tool, at(p.theirs, m[1])); strings.Contains(next.body, `"isError":true`) {
					t.Fatalf("acme's own cursor: %s", next)
				}
				forged := []byte(m[1])
				forged[len(forged)/2] ^= 1
				same(t, s.call(t, modern, globex, p.tool, at(p.theirs, m[1])), s.call(t, modern, globex, p.tool, at(p.theirs, "nonsense")))
				same(t, s.call(t, modern, globex, p.tool, at(p.theirs, string(forged))), s.call(t, modern, globex, p.tool, at(p.theirs, "nonsense")))
				// The cursor of one tool says nothing to another one.
				for _, other := range probes() {
					if other.refused || other.tool == p.tool {
						continue
					}
					same(t, s.call(t, modern, globex, other.tool, at(other.nothing, m[1])), s.call(t, modern, globex, other.tool, at(other.nothing, "nonsense")))
				}
			})
		}
	})

	t.Run("hidden tools", func(t *testing.T) {
		analyst := s.token(t, "globex", "analyst@globex", "--role", "analyst")
		hidden, unknown := s.call(t, modern, analyst, "files_put", object{}), s.call(t, modern, analyst, "files_xyz", object{})
		if diff := cmp.Diff(strings.ReplaceAll(unknown.String(), "files_xyz", "files_put"), hidden.String()); diff != "" {
			t.Errorf("a hidden tool differs from one that is not there:\n%s", diff)
		}
		list, err := s.do(t, s.rpc(t, modern, analyst, "tools/list", nil))
		if err != nil || strings.Contains(list.body, "files_put") || !strings.Contains(list.body, "crm_order") {
			t.Errorf("%v, %v", list, err)
		}
	})

	t.Run("approvals", func(t *testing.T) {
		asked := s.call(t, modern, acme, "files_put", object{"key": "attachments/secret.txt", "content": "x"})
		id := approvalID.FindString(asked.body)
		if id == "" {
			t.Fatalf("no approval in %s", asked)
		}
		lead := s.token(t, "globex", "lead@globex", "--role", "approver")
		list := s.get(t, "/admin/v1/approvals", lead)
		if list.status != 200 || strings.Contains(list.body, id) || strings.Contains(list.body, "secret.txt") {
			t.Errorf("%s", list)
		}
		same(t, s.get(t, "/admin/v1/approvals/"+id, lead), s.get(t, "/admin/v1/approvals/apr_AAAAAAAAAAAAAAAAAAAAAAAAAA", lead))
	})
}

var approvalID = regexp.MustCompile(`apr_[A-Z2-7]{26}`)
