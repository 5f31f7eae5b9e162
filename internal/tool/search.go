package tool

import (
	"context"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

const (
	maxHits  = 50
	maxQuery = 4000 // characters
)

func hitsSchema() schema {
	return paged(schema{
		"total": schema{"type": "integer", "description": "how many match; -1 if that is not known"},
		"hits": array(object(schema{
			"id":      schema{"type": "string"},
			"score":   schema{"type": "number", "description": "higher is better, within this answer only"},
			"snippet": schema{"type": "string"},
			"fields":  schema{"type": "object"},
		}, "id", "score", "fields")),
	}, "total", "hits")
}

func searchTool(name string, s source.Source) *atlas.Tool {
	searcher := s.(source.Searcher)
	return &atlas.Tool{
		Title: "Search " + name,
		Description: "Finds documents of the " + name + " source by their words, best match first, and returns id, snippet and " +
			"fields of each. Use it when the exact words are known: names, ids, error texts. filter keeps only documents whose " +
			"attributes are equal to the values given. It changes nothing.",
		Input: raw(object(schema{
			"query":  text("words to look for; no operators", maxQuery),
			"filter": filterSchema(),
			"size":   integer("at most this many documents", maxHits, 10),
		}, "query")),
		Output: raw(hitsSchema()),
		Items:  "hits", ReadOnly: true, Idempotent: true, CacheTTL: 30 * time.Second, Timeout: searchTimeout,
		Resource: fixedResource(name, name+"_search"),
		Run: func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
			v, err := values(call)
			if err != nil {
				return atlas.Result{}, err
			}
			hits, err := searcher.Search(ctx, call.Tenant, source.Search{
				Text: str(v, "query"), Filter: plainMap(v["filter"]), Size: num(v, "size", maxHits, 10),
			})
			if err != nil {
				return atlas.Result{}, err
			}
			return hitsResult(hits)
		},
	}
}

func nearestTool(name string, s source.Source) *atlas.Tool {
	index := s.(source.VectorIndex)
	return &atlas.Tool{
		Title: "Search " + name + " by meaning",
		Description: "Finds documents of the " + name + " source that are near to the query in meaning, nearest first, and returns " +
			"id and fields of each. Use it for questions in one's own words. filter keeps only documents whose attributes are " +
			"equal to the values given. It changes nothing.",
		Input: raw(object(schema{
			"query":  with(text("what to look for, in plain words", maxQuery), "minLength", 1),
			"filter": filterSchema(),
			"top_k":  integer("at most this many documents", maxHits, 10),
		}, "query")),
		Output: raw(hitsSchema()),
		Items:  "hits", ReadOnly: true, Idempotent: true, CacheTTL: 5 * time.Minute, Timeout: searchTimeout,
		Resource: fixedResource(name, name+"_search"),
		Run: func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
			v, err := values(call)
			if err != nil {
				return atlas.Result{}, err
			}
			hits, err := index.Nearest(ctx, call.Tenant, source.Nearest{
				Text: str(v, "query"), Filter: plainMap(v["filter"]), K: num(v, "top_k", maxHits, 10),
			})
			if err != nil {
				return atlas.Result{}, err
			}
			return hitsResult(hits)
		},
	}
}

// found is the answer of a search; the composed searches read it back.
type found struct {
	Total int          `json:"total"`
	Hits  []source.Hit `json:"hits"`
}

func hitsResult(h source.Hits) (atlas.Result, error) { return answer(foundOf(h)) }

// foundOf is an answer with nothing missing in it.
func foundOf(h source.Hits) found {
	out := found{Total: h.Total, Hits: h.Hits}
	if out.Hits == nil {
		out.Hits = []source.Hit{}
	}
	for i := range out.Hits {
		if out.Hits[i].Fields == nil {
			out.Hits[i].Fields = map[string]any{}
		}
	}
	return out
}
