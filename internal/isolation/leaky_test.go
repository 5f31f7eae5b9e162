package isolation_test

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/isolation"
	"github.com/atlas-mcp/atlas/internal/source"
)

// The wrappers below are drivers with the tenant filter taken out: tenant A gets what A and B have. Each has the
// capability of the driver and no other, since the tools are made by that.

// from returns the tenants whose data the leaky driver gives to tenant.
func from(tenant atlas.TenantID) []atlas.TenantID {
	if tenant == isolation.DefaultA {
		return []atlas.TenantID{isolation.DefaultA, isolation.DefaultB}
	}
	return []atlas.TenantID{tenant}
}

// union asks for each of them and joins the answers. It fails if all fail.
func union[T any](tenant atlas.TenantID, ask func(atlas.TenantID) (T, error), join func(*T, T)) (T, error) {
	var out T
	var failed error
	answered := false
	for _, t := range from(tenant) {
		got, err := ask(t)
		if err != nil {
			if failed == nil {
				failed = err
			}
			continue
		}
		if !answered {
			out, answered = got, true
			continue
		}
		join(&out, got)
	}
	if answered {
		return out, nil
	}
	return out, failed
}

type leakyQuerier struct {
	source.Source
	source.Querier
}

func (l leakyQuerier) Query(ctx context.Context, tenant atlas.TenantID, q source.Query) (source.Rows, error) {
	return union(tenant, func(t atlas.TenantID) (source.Rows, error) { return l.Querier.Query(ctx, t, q) },
		func(out *source.Rows, more source.Rows) { out.Rows = append(out.Rows, more.Rows...) })
}

func joinHits(out *source.Hits, more source.Hits) {
	out.Hits = append(out.Hits, more.Hits...)
	out.Total += more.Total
}

type leakySearcher struct {
	source.Source
	source.Searcher
}

func (l leakySearcher) Search(ctx context.Context, tenant atlas.TenantID, s source.Search) (source.Hits, error) {
	return union(tenant, func(t atlas.TenantID) (source.Hits, error) { return l.Searcher.Search(ctx, t, s) }, joinHits)
}

type leakyIndex struct {
	source.Source
	source.VectorIndex
}

func (l leakyIndex) Nearest(ctx context.Context, tenant atlas.TenantID, n source.Nearest) (source.Hits, error) {
	return union(tenant, func(t atlas.TenantID) (source.Hits, error) { return l.VectorIndex.Nearest(ctx, t, n) }, joinHits)
}

type leakyStore struct {
	source.Source
	source.ObjectStore
}

func (l leakyStore) Get(ctx context.Context, tenant atlas.TenantID, key string, limit int64) (source.Object, error) {
	return union(tenant, func(t atlas.TenantID) (source.Object, error) { return l.ObjectStore.Get(ctx, t, key, limit) }, func(*source.Object, source.Object) {})
}

func (l leakyStore) List(ctx context.Context, tenant atlas.TenantID, prefix string, limit int) ([]source.ObjectInfo, error) {
	return union(tenant, func(t atlas.TenantID) ([]source.ObjectInfo, error) { return l.ObjectStore.List(ctx, t, prefix, limit) },
		func(out *[]source.ObjectInfo, more []source.ObjectInfo) { *out = append(*out, more...) })
}

type leakyFetcher struct {
	source.Source
	source.Fetcher
}

func (l leakyFetcher) Fetch(ctx context.Context, tenant atlas.TenantID, r source.Request) (source.Response, error) {
	return union(tenant, func(t atlas.TenantID) (source.Response, error) { return l.Fetcher.Fetch(ctx, t, r) },
		func(out *source.Response, more source.Response) { out.Body += "\n" + more.Body })
}

type leakyProvider struct {
	source.Source
	source.Provider
}

func (l leakyProvider) Invoke(ctx context.Context, tenant atlas.TenantID, name string, args json.RawMessage) (source.Answer, error) {
	return union(tenant, func(t atlas.TenantID) (source.Answer, error) { return l.Provider.Invoke(ctx, t, name, args) },
		func(out *source.Answer, more source.Answer) { out.Text += "\n" + more.Text + string(more.Structured) })
}

// leaky takes the tenant filter out of a driver.
func leaky(s source.Source) source.Source {
	switch c := s.(type) {
	case source.Querier:
		return leakyQuerier{s, c}
	case source.Searcher:
		return leakySearcher{s, c}
	case source.VectorIndex:
		return leakyIndex{s, c}
	case source.ObjectStore:
		return leakyStore{s, c}
	case source.Fetcher:
		return leakyFetcher{s, c}
	case source.Provider:
		return leakyProvider{s, c}
	}
	return s
}

// pages is an HTTP source whose pages are the documents of the tenant that asks: what stands behind an outbound
// request is the world's, so the proof needs a world of its own.
type pages struct {
	source.Source
	bodies map[atlas.TenantID]string
}

func (p *pages) Load(_ context.Context, tenant atlas.TenantID, data source.Data) error {
	for _, o := range data.Objects {
		p.bodies[tenant] += string(o.Content)
	}
	return nil
}

func (p *pages) Fetch(_ context.Context, tenant atlas.TenantID, _ source.Request) (source.Response, error) {
	return source.Response{Status: 200, Body: p.bodies[tenant]}, nil
}

func withPages(s source.Source) source.Source {
	return &pages{s, map[atlas.TenantID]string{}}
}

// sourcesOf are the sources that the leaks name.
func sourcesOf(leaks []isolation.Attempt) []string {
	var out []string
	for _, l := range leaks {
		if l.Source != "" {
			out = append(out, l.Source)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
