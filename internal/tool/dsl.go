package tool

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// dslTool lets the caller write a search in the store's own language. What it may say is decided by the
// source; see [source.BodySearcher].
func dslTool(name string, s source.Source) *atlas.Tool {
	searcher := s.(source.BodySearcher)
	answers := hitsSchema()
	answers["properties"].(schema)["aggregations"] = schema{"type": "object", "description": "what aggs of the body say, by their names"}
	return &atlas.Tool{
		Title: "Search " + name + " with a query body",
		Description: "Finds documents of the " + name + " source by a search body in the query DSL of Elasticsearch, and counts them by " +
			"aggregations. Use it for what " + name + "_search cannot say: ranges, several conditions, counts by attribute. Bodies may " +
			"use the clauses and fields that the argument's description lists, and nothing else. It changes nothing.",
		Input: raw(object(schema{
			"body": schema{
				"type": "object", "minProperties": 1,
				"description": "query, from, size, sort and aggs. Clauses: " + listed(searcher.Clauses()) + ". Fields: " + listed(searcher.Fields()),
			},
			"size": integer("at most this many documents", maxHits, 10),
		}, "body")),
		Output: raw(answers),
		Items:  "hits", ReadOnly: true, Idempotent: true, CacheTTL: 30 * time.Second, Timeout: searchTimeout,
		Resource: fixedResource(name, name+"_query_dsl"),
		Run: func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
			var in struct { // the body as it was written, not as it was decoded
				Body json.RawMessage `json:"body"`
			}
			if err := json.Unmarshal(call.Args.Raw, &in); err != nil {
				return atlas.Result{}, atlas.Errorf(atlas.CodeInvalidArguments, err, "")
			}
			v, err := values(call)
			if err != nil {
				return atlas.Result{}, err
			}
			hits, aggregations, err := searcher.SearchDSL(ctx, call.Tenant, in.Body, num(v, "size", maxHits, 10))
			if err != nil {
				return atlas.Result{}, err
			}
			return answer(struct {
				found
				Aggregations json.RawMessage `json:"aggregations,omitempty"`
			}{foundOf(hits), aggregations})
		},
	}
}

// listed is a table as one line of text.
func listed(table map[string]string) string {
	var b strings.Builder
	for i, name := range slices.Sorted(maps.Keys(table)) {
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(name + " (" + table[name] + ")")
	}
	return b.String()
}
