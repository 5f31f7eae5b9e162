package qdrant

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// Names in the payload that filters use. They are the only ones that ever stand in a filter.
const (
	tenantField = "tenant_id"
	termsField  = "terms"
)

// A payload is what a point holds beside its vector.
type payload struct {
	Tenant   string         `json:"tenant_id,omitempty"`
	Embedder string         `json:"embedder"` // whose vector it is
	ID       string         `json:"id,omitempty"`
	Title    string         `json:"title,omitempty"`
	Body     string         `json:"body,omitempty"`
	URL      string         `json:"url,omitempty"`
	Attrs    map[string]any `json:"attrs,omitempty"`
	Terms    []string       `json:"terms,omitempty"`

	// Of the points that say which embedder a tenant, or the collection, was loaded with.
	Dim      int  `json:"dim,omitempty"`
	Complete bool `json:"complete,omitempty"` // all of the tenant's vectors are from it
}

// Kinds of points. Their ids never meet, since the kind is hashed first.
const (
	ofDocument   = "document"
	ofTenant     = "tenant"
	ofCollection = "collection"
)

// pointID makes a point's id: a UUID of version 8 from SHA-256, as RFC 9562 appendix B.2 has it.
// Version 5 would rest on SHA-1, of which two tenants that work together could find a collision.
// A tenant's id holds no NUL, so that no two pairs read alike.
func pointID(kind string, tenant atlas.TenantID, id string) string {
	h := sha256.Sum256([]byte("atlas\x00" + kind + "\x00" + string(tenant) + "\x00" + id))
	u := h[:16]
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	s := hex.EncodeToString(u)
	return s[:8] + "-" + s[8:12] + "-" + s[12:16] + "-" + s[16:20] + "-" + s[20:]
}

// filterFor is the filter of all that is asked for the tenant. Callers' names and values are inside
// values of the field terms only: whatever they are, the first condition stays what it is.
func filterFor(tenant atlas.TenantID, conditions []source.Condition, more ...condition) filter {
	must := make([]condition, 0, 1+len(conditions)+len(more))
	must = append(must, condition{Key: tenantField, Match: &match{Value: string(tenant)}})
	must = append(must, more...)
	for _, c := range conditions {
		terms := make([]string, 0, len(c.Values))
		for _, v := range c.Values {
			terms = append(terms, source.Term(c.Name, v))
		}
		must = append(must, condition{Key: termsField, Match: &match{Any: terms}})
	}
	return filter{Must: must}
}

// documentPoint is a document as a point. The vector nil stores it so that no search finds it.
func documentPoint(tenant atlas.TenantID, embedder string, d source.Document, vector []float32) (point, error) {
	if d.ID == "" {
		return point{}, atlas.Errorf(atlas.CodeInvalidArguments, nil, "a document has no id")
	}
	attrs, err := source.Attributes(d)
	if err != nil {
		return point{}, err
	}
	terms := make([]string, 0, 1+len(attrs))
	terms = append(terms, source.Term(source.FilterID, d.ID))
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		terms = append(terms, source.Term(name, attrs[name]))
	}
	p := point{ID: pointID(ofDocument, tenant, d.ID), Vector: struct{}{}, Payload: payload{
		Tenant: string(tenant), Embedder: embedder, ID: d.ID, Title: d.Title, Body: d.Body, URL: d.URL, Attrs: attrs, Terms: terms,
	}}
	if vector != nil {
		p.Vector = vector
	}
	return p, nil
}

// own checks that a point that came back is a document of the tenant: the second wall, should a
// filter be lost on the way.
func own(tenant atlas.TenantID, p scored) error {
	if p.Payload.Tenant != string(tenant) || p.ID != pointID(ofDocument, tenant, p.Payload.ID) {
		return fmt.Errorf("%w: point %s", errForeign, p.ID)
	}
	return nil
}

// hit is a point as callers see it.
func hit(p scored) source.Hit {
	fields := make(map[string]any, len(p.Payload.Attrs)+3)
	for name, v := range p.Payload.Attrs {
		fields[name], _ = source.Scalar(v)
	}
	fields["title"], fields["body"] = p.Payload.Title, p.Payload.Body
	if p.Payload.URL != "" {
		fields["url"] = p.Payload.URL
	}
	return source.Hit{ID: p.Payload.ID, Score: p.Score, Snippet: source.Snippet(p.Payload.Body), Fields: fields}
}
