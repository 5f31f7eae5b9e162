package qdrant

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// batch is how many documents are embedded and sent at once.
const batch = 64

// indexes are what searches filter by. is_tenant makes Qdrant keep a tenant's vectors together.
var indexes = []index{
	{tenantField, indexSchema{Type: "keyword", IsTenant: true}},
	{termsField, indexSchema{Type: "keyword"}},
}

// Load implements source.Loader with data.Documents. If the tenant's vectors are from another embedder, all of its documents are embedded anew; until
// that has ended, its searches are refused.
func (x *Index) Load(ctx context.Context, tenant atlas.TenantID, data source.Data) error {
	if err := x.open(); err != nil {
		return err
	}
	if _, err := atlas.ParseTenantID(string(tenant)); err != nil {
		return atlas.Errorf(atlas.CodeInvalidArguments, err, "")
	}
	if len(data.Documents) == 0 {
		return nil
	}
	last := map[string]int{} // of several documents of one id the last counts
	for i, d := range data.Documents {
		if len(d.Title)+len(d.Body) > x.cfg.MaxDocumentBytes {
			return atlas.Errorf(atlas.CodeTooLarge, nil, "a document is larger than the limit").
				With("id", d.ID).With("limit_bytes", x.cfg.MaxDocumentBytes)
		}
		if _, err := documentPoint(tenant, "", d, nil); err != nil {
			return err
		}
		last[d.ID] = i
	}
	if err := x.gate.Check(ctx); err != nil {
		return err
	}
	var got found
	if err := x.write(ctx, http.MethodPost, "/points/query", x.markSearch(tenant), &got); err != nil {
		return err
	}
	if marked, err := x.marked(tenant, got.Points); errors.Is(err, errForeign) {
		return x.foreign(ctx, tenant, err)
	} else if !marked {
		if err := x.put(ctx, []point{x.mark(tenant, false)}); err != nil {
			return err
		}
		if err := x.again(ctx, tenant); err != nil {
			return err
		}
	}
	part := make([]source.Document, 0, batch)
	for i, d := range data.Documents {
		if last[d.ID] == i {
			part = append(part, d)
		}
		if len(part) == batch || i == len(data.Documents)-1 && len(part) > 0 {
			if err := x.store(ctx, tenant, part); err != nil {
				return err
			}
			part = part[:0]
		}
	}
	return x.put(ctx, []point{x.mark(tenant, true), {
		ID: pointID(ofCollection, "", ""), Vector: struct{}{}, Payload: payload{Embedder: x.embed.ID(), Dim: x.embed.Dim()},
	}})
}

// create makes the collection and its indexes if they are missing. With m 0 and payload_m there is
// no graph over all tenants, only one for each value of an index: no search begins outside its tenant.
func (x *Index) create(ctx context.Context) error {
	err := x.check(ctx, x.cfg.LoadAPIKey)
	if errors.Is(err, errNoCollection) {
		err = x.write(ctx, http.MethodPut, "", create{
			Vectors: vectorParams{Size: x.embed.Dim(), Distance: "Cosine"}, HNSW: hnsw{M: 0, PayloadM: 16},
			Replicas: x.cfg.Replicas, Shards: x.cfg.Shards, OnDisk: true,
		}, nil)
		if errors.Is(err, errExists) { // somebody else was faster
			err = x.check(ctx, x.cfg.LoadAPIKey)
		} else if err == nil {
			err = errNoIndex
		}
	}
	if !errors.Is(err, errNoIndex) || errors.Is(err, errOther) {
		return err // nil, or nothing that may be changed
	}
	for _, i := range indexes {
		if err := x.write(ctx, http.MethodPut, "/index?wait=true", i, nil); err != nil {
			return err
		}
	}
	return x.check(ctx, x.cfg.LoadAPIKey)
}

// mark is the point that says which embedder the tenant's vectors are from.
func (x *Index) mark(tenant atlas.TenantID, complete bool) point {
	return point{ID: pointID(ofTenant, tenant, ""), Vector: struct{}{}, Payload: payload{
		Tenant: string(tenant), Embedder: x.embed.ID(), Dim: x.embed.Dim(), Complete: complete,
	}}
}

// again embeds all of the tenant's documents anew.
func (x *Index) again(ctx context.Context, tenant atlas.TenantID) error {
	ask := scroll{Filter: filterFor(tenant, nil), Limit: batch, WithPayload: true}
	for n := 0; ; {
		var got page
		if err := x.write(ctx, http.MethodPost, "/points/scroll", ask, &got); err != nil {
			return err
		}
		part := make([]source.Document, 0, len(got.Points))
		for _, p := range got.Points {
			if p.ID == pointID(ofTenant, tenant, "") && p.Payload.Tenant == string(tenant) {
				continue
			}
			if err := own(tenant, p); err != nil {
				return x.foreign(ctx, tenant, err)
			}
			part = append(part, source.Document{ID: p.Payload.ID, Title: p.Payload.Title, Body: p.Payload.Body, URL: p.Payload.URL, Attrs: p.Payload.Attrs})
		}
		if err := x.store(ctx, tenant, part); err != nil {
			return err
		}
		n += len(part)
		if got.Next == "" {
			if n > 0 {
				x.log.InfoContext(ctx, "embedded all documents anew for another embedder", "tenant", string(tenant), "documents", n)
			}
			return nil
		}
		ask.Offset = got.Next
	}
}

// store embeds and writes documents.
func (x *Index) store(ctx context.Context, tenant atlas.TenantID, docs []source.Document) error {
	if len(docs) == 0 {
		return nil
	}
	texts := make([]string, len(docs))
	for i, d := range docs {
		texts[i] = source.EmbeddedText(d.Title, d.Body)
	}
	vectors, err := source.EmbedAll(ctx, x.embed, texts)
	if err != nil {
		return err
	}
	out := make([]point, len(docs))
	for i, d := range docs {
		if out[i], err = documentPoint(tenant, x.embed.ID(), d, vectors[i]); err != nil {
			return err
		}
	}
	return x.put(ctx, out)
}

// put writes points and returns when searches see them.
func (x *Index) put(ctx context.Context, p []point) error {
	return x.write(ctx, http.MethodPut, "/points?wait=true", points{p}, nil)
}

// write is one request of loading. A load as a whole may take its time; a request may not.
func (x *Index) write(ctx context.Context, method, path string, body, result any) error {
	ctx, cancel := context.WithTimeout(ctx, max(x.cfg.Timeout, time.Minute))
	defer cancel()
	return x.api.call(ctx, x.cfg.LoadAPIKey, method, path, body, result)
}
