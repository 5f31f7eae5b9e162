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

// errNoIndex is the cause of the failure when a payload index is missing.
var errNoIndex = errors.New("it has no keyword index")

// ready checks that the collection is there and fits the embedder, and that its indexes are there.
func (x *Index) ready(ctx context.Context) error {
	var got info
	if err := x.api.call(ctx, x.cfg.APIKey, http.MethodGet, "", nil, &got); err != nil {
		return err
	}
	wrong := func(format string, args ...any) error {
		return atlas.Errorf(atlas.CodeSourceMisused, fmt.Errorf("collection %s: "+format, append([]any{x.cfg.Collection}, args...)...), "")
	}
	var v vectorParams
	if err := json.Unmarshal(got.Config.Params.Vectors, &v); err != nil || v.Size == 0 {
		return wrong("it has no unnamed vector, so it is not Atlas's; name another collection")
	}
	if v.Size != x.embed.Dim() {
		return wrong("its vectors have dimension %d, the embedder's %d; name a new collection and load the data into it (atlas seed), or configure the former embedder",
			v.Size, x.embed.Dim())
	}
	if v.Distance != "Cosine" {
		return wrong("its distance is %s, not Cosine; name a new collection and load the data into it (atlas seed)", v.Distance)
	}
	for _, field := range []string{tenantField, termsField} {
		if got.Schema[field].Type != "keyword" {
			return wrong("%w on %s; load the source's data (atlas seed), which makes it", errNoIndex, field)
		}
	}
	x.fits.Store(true)
	return nil
}
