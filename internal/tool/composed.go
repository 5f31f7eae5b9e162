package tool

import (
	"cmp"
	"context"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// rrfK damps the weight of the first ranks: 60, as in Cormack, Clarke and Buettcher, "Reciprocal
// rank fusion outperforms Condorcet and individual rank learning methods", SIGIR 2009.
const rrfK = 60

func foundSchema(own schema, required ...string) schema {
	properties := schema{
		"id":      schema{"type": "string"},
		"title":   schema{"type": "string"},
		"body":    schema{"type": "string"},
		"url":     schema{"type": "string"},
		"snippet": schema{"type": "string"},
		"fields":  schema{"type": "object", "description": "further attributes"},
	}
	maps.Copy(properties, own)
	return object(properties, append(required, "id")...)
}

func partialSchema() schema {
	return schema{
		"type": "object", "description": "parts that failed, with the code of the failure",
		"additionalProperties": schema{"type": "string"},
	}
}

// searchChild reads a reference to a search verb.
func (b *builder) searchChild(s *spec, n node, key, verb string) *definition {
	if n.ast == nil {
		s.bodyValue.errorf("%s: %s is missing; name the tool to call", s.body, key)
		return nil
	}
	var name string
	before := len(b.errs)
	n.decode(key, &name)
	if len(b.errs) > before {
		return nil
	}
	d, ok := b.child(s, n, name)
	if !ok {
		return nil
	}
	if d.verb != verb {
		what := map[string]string{"search": "a full-text search", "nearest": "a vector search"}[verb]
		n.errorf("%s: %s is not %s", key, name, what)
		return nil
	}
	return d
}

func (s *spec) noInput() {
	if at, given := s.found["input"]; given {
		at.errorf("input: a tool with %s has its own input; take it out", s.body)
	}
}

// document takes apart what a search found: its usual fields by name, and the rest.
func document(out map[string]any, h source.Hit) map[string]any {
	out["id"] = h.ID
	if h.Snippet != "" && out["snippet"] == nil {
		out["snippet"] = h.Snippet
	}
	rest, _ := out["fields"].(map[string]any)
	for k, v := range h.Fields {
		switch k {
		case "title", "body", "url":
			if text, ok := v.(string); ok {
				out[k] = text
			}
		default:
			if rest == nil {
				rest = map[string]any{}
				out["fields"] = rest
			}
			rest[k] = v
		}
	}
	return out
}

// semanticBody makes a tool that searches by meaning and, if told how, reads the documents found
// from the source that owns them.
func (b *builder) semanticBody(s *spec) *definition {
	var vectorNode, hydrateNode node
	s.bodyValue.into(map[string]any{"vector": &vectorNode, "hydrate": &hydrateNode})
	s.noInput()
	vector := b.searchChild(s, vectorNode, "vector", "nearest")
	var hydrate *definition
	if hydrateNode.ast != nil {
		var name string
		hydrateNode.decode("hydrate", &name)
		var ok bool
		if hydrate, ok = b.child(s, hydrateNode, name); !ok {
			return nil
		}
		if hydrate.verb != "sql" || hydrate.ids == "" || hydrate.tool.Items == "" {
			hydrateNode.errorf("hydrate: %s must be a tool with sql whose one input is a list of ids", name)
			return nil
		}
	}
	if vector == nil {
		return nil
	}
	kids := []*definition{vector}
	if hydrate != nil {
		kids = append(kids, hydrate)
	}
	sem := semantic{children: b.children(), vector: vector.tool.Name}
	if hydrate != nil {
		sem.hydrate, sem.ids, sem.items = hydrate.tool.Name, hydrate.ids, hydrate.tool.Items
	}
	t := &atlas.Tool{
		Title: "Semantic search",
		Input: raw(object(schema{
			"query":  with(text("what to look for, in plain words", maxQuery), "minLength", 1),
			"top_k":  integer("at most this many documents", 25, 5),
			"filter": filterSchema(),
		}, "query")),
		Output: raw(paged(schema{
			"query":          schema{"type": "string"},
			"results":        array(foundSchema(schema{"score": schema{"type": "number"}}, "score")),
			"partial_errors": partialSchema(),
		}, "query", "results", "partial_errors")),
		Items: "results", CacheTTL: 2 * time.Minute, Timeout: composedTimeout,
		Resource: fixedResource(string(s.level), s.name),
		Run:      sem.run,
	}
	inherit(t, kids)
	return &definition{tool: t, body: s.written()}
}

type semantic struct {
	children
	vector              string
	hydrate, ids, items string // hydrate is empty for none
}

func (s semantic) run(ctx context.Context, call atlas.Call) (atlas.Result, error) {
	v, err := values(call)
	if err != nil {
		return atlas.Result{}, err
	}
	args := map[string]any{"query": str(v, "query"), "top_k": num(v, "top_k", 25, 5)}
	if f, ok := v["filter"]; ok {
		args["filter"] = f
	}
	near, err := s.children.run(ctx, call, s.vector, args)
	if err != nil {
		return atlas.Result{}, err
	}
	var hits found
	if err := decode(near, &hits); err != nil {
		return atlas.Result{}, err
	}
	reports := &progress{peer: call.Peer, total: 1}
	if s.hydrate != "" {
		reports.total = 2
	}
	reports.step("search")
	asOf, partial := near.AsOf, near.Partial
	failed := map[string]string{}
	rows, complete := map[string]map[string]any{}, false
	if s.hydrate != "" && len(hits.Hits) > 0 {
		ids := make([]string, len(hits.Hits))
		for i, h := range hits.Hits {
			ids[i] = h.ID
		}
		inner, cancel := inTime(ctx)
		defer cancel()
		res, err := s.children.run(inner, call, s.hydrate, map[string]any{s.ids: ids})
		switch {
		case ctx.Err() != nil:
			return atlas.Result{}, atlas.ErrorOf(ctx.Err())
		case err != nil:
			failed["hydrate"] = lost(err)
		default:
			asOf = older(asOf, res.AsOf)
			complete = !res.Truncated
			if rows, err = byID(res, s.items); err != nil {
				return atlas.Result{}, err
			}
		}
	}
	if s.hydrate != "" {
		reports.step("documents")
	}
	results := make([]map[string]any, 0, len(hits.Hits))
	for _, h := range hits.Hits {
		row, ok := rows[h.ID]
		if !ok && complete {
			continue // the index is behind: its owner no longer has the document, or no longer shows it
		}
		out := document(map[string]any{"score": h.Score}, h)
		for k, value := range row {
			if text, isText := value.(string); isText && (k == "title" || k == "body" || k == "url") {
				out[k] = text
			}
		}
		results = append(results, out)
	}
	res, err := answer(map[string]any{"query": str(v, "query"), "results": results, "partial_errors": failed})
	res.Partial, res.AsOf = partial || len(failed) > 0, asOf
	return res, err
}

// byID returns the rows of an answer by their column id.
func byID(res atlas.Result, items string) (map[string]map[string]any, error) {
	var lists map[string]any
	if err := decode(res, &lists); err != nil {
		return nil, err
	}
	list, _ := lists[items].([]any)
	out := make(map[string]map[string]any, len(list))
	for _, e := range list {
		row, _ := e.(map[string]any)
		if id, ok := row["id"].(string); ok {
			out[id] = row
		}
	}
	return out, nil
}

// hybridBody makes a tool that searches by words and by meaning at once and merges the two lists.
func (b *builder) hybridBody(s *spec) *definition {
	var lexicalNode, vectorNode node
	s.bodyValue.into(map[string]any{"lexical": &lexicalNode, "vector": &vectorNode})
	s.noInput()
	lexical := b.searchChild(s, lexicalNode, "lexical", "search")
	vector := b.searchChild(s, vectorNode, "vector", "nearest")
	if lexical == nil || vector == nil {
		return nil
	}
	h := hybrid{children: b.children(), lexical: lexical.tool.Name, vector: vector.tool.Name}
	t := &atlas.Tool{
		Title: "Hybrid search",
		Input: raw(object(schema{
			"query":  with(text("what to look for", maxQuery), "minLength", 1),
			"top_k":  integer("at most this many documents", maxHits, 10),
			"filter": filterSchema(),
		}, "query")),
		Output: raw(paged(schema{
			"query": schema{"type": "string"},
			"results": array(foundSchema(schema{
				"rrf_score":    schema{"type": "number", "description": "reciprocal rank fusion, k = 60"},
				"lexical_rank": schema{"type": "integer", "minimum": 1},
				"dense_rank":   schema{"type": "integer", "minimum": 1},
			}, "rrf_score")),
			"fused_from": object(schema{
				"lexical": schema{"type": "integer", "minimum": 0}, "dense": schema{"type": "integer", "minimum": 0},
			}, "lexical", "dense"),
			"partial_errors": partialSchema(),
		}, "query", "results", "fused_from", "partial_errors")),
		Items: "results", CacheTTL: 2 * time.Minute, Timeout: composedTimeout,
		Resource: fixedResource(string(s.level), s.name),
		Run:      h.run,
	}
	inherit(t, []*definition{lexical, vector})
	return &definition{tool: t, body: s.written()}
}

type hybrid struct {
	children
	lexical, vector string
}

func (h hybrid) run(ctx context.Context, call atlas.Call) (atlas.Result, error) {
	v, err := values(call)
	if err != nil {
		return atlas.Result{}, err
	}
	query, topK := str(v, "query"), num(v, "top_k", maxHits, 10)
	// Twice as many of each as asked for: a document that is middling in both lists can win.
	each := min(2*topK, maxHits)
	inner, cancel := inTime(ctx)
	defer cancel()
	names := [2]string{"lexical", "dense"}
	tools, sizes := [2]string{h.lexical, h.vector}, [2]string{"size", "top_k"}
	var lists [2]found
	var results [2]atlas.Result
	var errs [2]error
	reports := &progress{peer: call.Peer, total: len(tools)}
	var wg sync.WaitGroup
	for i := range tools {
		args := map[string]any{"query": query, sizes[i]: each}
		if f, ok := v["filter"]; ok {
			args["filter"] = f
		}
		wg.Go(func() {
			if results[i], errs[i] = h.children.run(inner, call, tools[i], args); errs[i] == nil {
				errs[i] = decode(results[i], &lists[i])
			}
			if inner.Err() == nil {
				reports.step(names[i])
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return atlas.Result{}, atlas.ErrorOf(ctx.Err())
	}
	if errs[0] != nil && errs[1] != nil {
		return atlas.Result{}, firstError(errs[:])
	}
	failed := map[string]string{}
	var asOf time.Time
	partial := false
	for i, err := range errs {
		if err != nil {
			failed[names[i]] = lost(err)
			continue
		}
		asOf = older(asOf, results[i].AsOf)
		partial = partial || results[i].Partial
	}
	res, err := answer(map[string]any{
		"query": query, "results": fuse(lists[0].Hits, lists[1].Hits, topK), "partial_errors": failed,
		"fused_from": map[string]int{"lexical": len(lists[0].Hits), "dense": len(lists[1].Hits)},
	})
	res.Partial, res.AsOf = partial || len(failed) > 0, asOf
	return res, err
}

// fuse merges two ranked lists by reciprocal rank fusion: the score of a document is the sum over
// the lists of 1/(k + rank), ranks from 1. Equal scores are ordered by id, so that the same lists
// always give the same answer.
func fuse(lexical, dense []source.Hit, limit int) []map[string]any {
	type fused struct {
		id    string
		score float64
		out   map[string]any
	}
	byID := make(map[string]*fused, len(lexical)+len(dense))
	for i, list := range [][]source.Hit{lexical, dense} {
		rankName := [2]string{"lexical_rank", "dense_rank"}[i]
		seen := make(map[string]bool, len(list))
		rank := 0
		for _, h := range list {
			if seen[h.ID] { // a list that holds a document twice ranks it once
				continue
			}
			seen[h.ID] = true
			rank++
			f := byID[h.ID]
			if f == nil {
				f = &fused{id: h.ID, out: map[string]any{}}
				byID[h.ID] = f
			}
			f.score += 1 / float64(rrfK+rank)
			f.out[rankName] = rank
			document(f.out, h)
		}
	}
	all := make([]*fused, 0, len(byID))
	for _, f := range byID {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b *fused) int { return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.id, b.id)) })
	out := make([]map[string]any, 0, min(limit, len(all)))
	for _, f := range all[:min(limit, len(all))] {
		f.out["rrf_score"] = math.Round(f.score*1e6) / 1e6
		out = append(out, f.out)
	}
	return out
}
