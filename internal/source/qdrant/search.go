package qdrant

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// errForeign is the cause of the failure when the server gave what is not the tenant's.
var errForeign = errors.New("the server answered with a point that is not the tenant's; the answer was dropped")

// nearest searches and, in the same round trip, reads which embedder the tenant's vectors are from.
func (x *Index) nearest(ctx context.Context, tenant atlas.TenantID, vector []float32, conditions []source.Condition, k int) (source.Hits, error) {
	ask := searches{Searches: []search{x.markSearch(tenant)}}
	if vector != nil {
		ask.Searches = append(ask.Searches, search{Query: vector, Filter: filterFor(tenant, conditions), Limit: k, WithPayload: true})
	}
	var got []found
	if err := x.api.call(ctx, x.cfg.APIKey, http.MethodPost, "/points/query/batch", ask, &got); err != nil {
		if code := atlas.CodeOf(err); code == atlas.CodeSourceError || code == atlas.CodeSourceMisused {
			x.gate.Doubt() // the collection may be another one by now
		}
		return source.Hits{}, err
	}
	if len(got) != len(ask.Searches) {
		return source.Hits{}, atlas.Errorf(atlas.CodeSourceError, fmt.Errorf("%d answers to %d searches", len(got), len(ask.Searches)), "")
	}
	hits := source.Hits{Total: -1, Hits: []source.Hit{}}
	marked, err := x.marked(tenant, got[0].Points)
	if err != nil {
		return source.Hits{}, x.foreign(ctx, tenant, err)
	}
	if vector == nil {
		return hits, nil
	}
	for _, p := range got[1].Points {
		if err := own(tenant, p); err != nil {
			return source.Hits{}, x.foreign(ctx, tenant, err)
		}
		if !marked || p.Payload.Embedder != x.embed.ID() {
			return source.Hits{}, source.ErrOtherEmbedder(fmt.Errorf("a vector is from %q, configured is %q", p.Payload.Embedder, x.embed.ID()))
		}
		hits.Hits = append(hits.Hits, hit(p))
	}
	if len(hits.Hits) > k {
		return source.Hits{}, atlas.Errorf(atlas.CodeSourceError, fmt.Errorf("%d points for a limit of %d", len(hits.Hits), k), "")
	}
	slices.SortFunc(hits.Hits, func(a, b source.Hit) int { return cmp.Or(cmp.Compare(b.Score, a.Score), cmp.Compare(a.ID, b.ID)) })
	return hits, nil
}

// foreign reports what the second wall caught. Callers learn only that the source failed.
func (x *Index) foreign(ctx context.Context, tenant atlas.TenantID, err error) error {
	if errors.Is(err, errForeign) {
		x.log.ErrorContext(ctx, "tenant isolation: an answer held another tenant's data and was dropped; is there a proxy that changes requests?",
			"tenant", string(tenant), "err", err)
		return atlas.Errorf(atlas.CodeSourceError, err, "")
	}
	return err
}

// markSearch asks for the point that says which embedder the tenant's vectors are from.
func (x *Index) markSearch(tenant atlas.TenantID) search {
	return search{Filter: filterFor(tenant, nil, condition{HasID: []string{pointID(ofTenant, tenant, "")}}), Limit: 1, WithPayload: true}
}

// marked checks that point. It reports false if there is none: the tenant was never loaded.
func (x *Index) marked(tenant atlas.TenantID, got []scored) (bool, error) {
	if len(got) == 0 {
		return false, nil
	}
	p := got[0]
	if p.Payload.Tenant != string(tenant) || p.ID != pointID(ofTenant, tenant, "") {
		return false, fmt.Errorf("%w: point %s", errForeign, p.ID)
	}
	if m := p.Payload; m.Embedder != x.embed.ID() || m.Dim != x.embed.Dim() {
		return false, source.ErrOtherEmbedder(fmt.Errorf("the vectors are from %q, configured is %q", m.Embedder, x.embed.ID()))
	} else if !m.Complete {
		return false, source.ErrOtherEmbedder(errors.New("loading with another embedder did not end"))
	}
	return true, nil
}

// sameEmbedder checks which embedder the collection was last loaded with.
func (x *Index) sameEmbedder(ctx context.Context) error {
	id := pointID(ofCollection, "", "")
	ask := search{Filter: filter{Must: []condition{{HasID: []string{id}}}}, Limit: 1, WithPayload: true}
	var got found
	if err := x.api.call(ctx, x.cfg.APIKey, http.MethodPost, "/points/query", ask, &got); err != nil {
		return err
	}
	if len(got.Points) == 0 || got.Points[0].ID != id {
		return nil // nothing was loaded yet
	}
	if p := got.Points[0].Payload; p.Embedder != x.embed.ID() {
		return source.ErrOtherEmbedder(fmt.Errorf("collection %s was loaded with %q, configured is %q; load all tenants again (atlas seed), or configure the former embedder",
			x.cfg.Collection, p.Embedder, x.embed.ID()))
	}
	return nil
}

// Causes of the failure when the collection is not as it must be, for [Index.create].
var (
	errNoIndex = errors.New("it has no keyword index")
	errOther   = errors.New("it was not made for this source")
)

// check looks at the collection and reports all that does not fit, each with what mends it.
func (x *Index) check(ctx context.Context, key string) error {
	var got info
	if err := x.api.call(ctx, key, http.MethodGet, "", nil, &got); err != nil {
		return err
	}
	var errs []error
	wrong := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("collection %s: "+format, append([]any{x.cfg.Collection}, args...)...))
	}
	const remedy = "name a new collection, then run atlas migrate and atlas seed"
	var v vectorParams
	if err := json.Unmarshal(got.Config.Params.Vectors, &v); err != nil || v.Size == 0 {
		wrong("%w: it has no unnamed vector; %s", errOther, remedy)
	} else {
		if v.Size != x.embed.Dim() {
			wrong("%w: its vectors have dimension %d, the embedder %s makes %d; %s, or configure the former embedder", errOther, v.Size, x.embed.ID(), x.embed.Dim(), remedy)
		}
		if v.Distance != "Cosine" {
			wrong("%w: its distance is %s, not Cosine; %s", errOther, v.Distance, remedy)
		}
	}
	for _, field := range []string{tenantField, termsField} {
		if got.Schema[field].Type != "keyword" {
			wrong("%w on %s; run atlas migrate", errNoIndex, field)
		}
	}
	if len(errs) > 0 {
		return atlas.Errorf(atlas.CodeSourceMisused, errors.Join(errs...), "")
	}
	return nil
}
