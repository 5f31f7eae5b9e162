package tool_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
	"github.com/atlas-mcp/atlas/internal/tool"
)

// A bodyStore is a search store that takes query bodies.
type bodyStore struct {
	*searchStore
	bodies []string
}

func (*bodyStore) Fields() map[string]string { return map[string]string{"status": "keyword"} }
func (*bodyStore) Clauses() map[string]string {
	return map[string]string{"term": "{field: value}", "bool": "must, filter"}
}

func (s *bodyStore) SearchDSL(_ context.Context, tenant atlas.TenantID, body json.RawMessage, size int) (source.Hits, json.RawMessage, error) {
	s.bodies = append(s.bodies, string(tenant)+" "+string(body))
	if strings.Contains(string(body), "script") {
		return source.Hits{}, nil, atlas.Errorf(atlas.CodeInvalidQuery, nil, "").With("at", "query.script")
	}
	if size == 3 {
		return source.Hits{Total: 1}, json.RawMessage(`{"by":{"buckets":[]}}`), nil
	}
	return source.Hits{Total: 7, Hits: []source.Hit{{ID: "t_1"}}}, nil, nil
}

func TestQueryDSLVerb(t *testing.T) {
	h := newHouse(t)
	s := &bodyStore{searchStore: h.tickets}
	h.sources["tickets"] = tool.Source{Kind: "elasticsearch", Source: s}
	if h.build(); h.tools["tickets_query_dsl"] != nil {
		t.Fatal("it is offered unasked")
	}
	h = newHouse(t)
	h.sources["tickets"] = tool.Source{Kind: "elasticsearch", Source: s, Tools: tool.Verbs{Expose: []string{"search", "query_dsl"}}}
	h.build()
	made := h.tools["tickets_query_dsl"]
	if input := string(made.Input); !strings.Contains(input, "bool (must, filter); term ({field: value})") || !strings.Contains(input, "status (keyword)") || !made.ReadOnly {
		t.Errorf("read-only %v, input %s", made.ReadOnly, input)
	}
	for args, want := range map[string]string{
		`{"body":{"query":{"term":{"status":"open"}}}}`: `{"total":7,"hits":[{"id":"t_1","score":0,"fields":{}}]}`,
		`{"body":{"query":{"bool":{}}},"size":3}`:       `{"total":1,"hits":[],"aggregations":{"by":{"buckets":[]}}}`,
	} {
		if res, err := h.ask(t.Context(), "acme", "tickets_query_dsl", args); err != nil || string(res.Structured) != want {
			t.Errorf("%s: got %s, %v", args, res.Structured, err)
		}
	}
	_, err := h.ask(t.Context(), "globex", "tickets_query_dsl", `{"body":{"query":{"script":{}}}}`)
	if e := atlas.ErrorOf(err); e.Code != atlas.CodeInvalidQuery || e.Context["at"] != "query.script" {
		t.Errorf("got %v", err)
	}
	if last := s.bodies[len(s.bodies)-1]; last != `globex {"query":{"script":{}}}` {
		t.Errorf("the store was asked %s", last)
	}
}
