package elasticsearch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// batchBytes is how much goes to the server in one request.
const batchBytes = 4 << 20

// loadTimeout is for one batch: it is made searchable before it is answered.
const loadTimeout = time.Minute

// Load implements source.Loader with data.Documents. It makes the index if there is none. All
// documents are checked before the first is sent; a document of more than the configured size is
// too_large. When Load returns, the documents can be found.
func (x *Index) Load(ctx context.Context, tenant atlas.TenantID, data source.Data) error {
	if len(data.Documents) == 0 {
		return nil
	}
	call, end, err := x.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	index, err := x.index(tenant)
	if err != nil {
		return err
	}
	batches, err := x.batches(tenant, data.Documents)
	if err != nil {
		return err
	}
	return x.outcome(ctx, x.load(call, index, batches))
}

func (x *Index) load(ctx context.Context, index string, batches [][]byte) error {
	// Looked at afresh: a server makes a missing index by itself, with a mapping that does not fit.
	x.forget(index)
	there, err := x.ready(ctx, index)
	if err == nil && !there {
		err = x.create(ctx, index)
	}
	for _, batch := range batches {
		if err != nil {
			break
		}
		err = x.bulk(ctx, index, batch)
	}
	return err
}

// batches are the request bodies that load the documents.
func (x *Index) batches(tenant atlas.TenantID, documents []source.Document) ([][]byte, error) {
	var out [][]byte
	var batch bytes.Buffer
	lines := json.NewEncoder(&batch)
	lines.SetEscapeHTML(false)
	for _, d := range documents {
		doc, err := x.stored(tenant, d)
		if err != nil {
			return nil, err
		}
		action := object{"_id": storedID(tenant, d.ID)}
		if x.cfg.RouteByTenant {
			action["routing"] = string(tenant)
		}
		if err := errors.Join(lines.Encode(object{"index": action}), lines.Encode(doc)); err != nil {
			return nil, err
		}
		if batch.Len() >= batchBytes {
			out = append(out, bytes.Clone(batch.Bytes()))
			batch.Reset()
		}
	}
	if batch.Len() > 0 {
		out = append(out, batch.Bytes())
	}
	return out, nil
}

// storedID is a document's _id. Tenants' ids hold neither ':' nor '#', so that no two tenants'
// documents share one; the server takes at most 512 bytes.
func storedID(tenant atlas.TenantID, id string) string {
	if len(id) > 400 {
		sum := sha256.Sum256([]byte(id))
		return string(tenant) + "#" + hex.EncodeToString(sum[:])
	}
	return string(tenant) + ":" + id
}

// stored is a document as it is stored.
func (x *Index) stored(tenant atlas.TenantID, d source.Document) (object, error) {
	if d.ID == "" {
		return nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "a document has no id")
	}
	if len(d.Title)+len(d.Body) > x.cfg.MaxDocumentBytes {
		return nil, atlas.Errorf(atlas.CodeTooLarge, nil, "a document is larger than the limit").
			With("id", d.ID).With("limit_bytes", x.cfg.MaxDocumentBytes)
	}
	attrs, err := source.Attributes(d)
	if err != nil {
		return nil, err
	}
	terms := []string{term(source.FilterID, d.ID)}
	typed := object{}
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		terms = append(terms, term(name, attrs[name]))
		kind, ok := x.cfg.Attributes[name]
		if !ok {
			continue
		}
		if !fits(fieldType(kind), attrs[name]) {
			return nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "an attribute is not of the type that is configured for it").
				With("id", d.ID).With("attribute", name).With("type", kind)
		}
		typed[name] = attrs[name]
	}
	doc := object{
		tenantPath: string(tenant), idPath: d.ID, titlePath: d.Title, bodyPath: d.Body,
		termsPath: terms, attrsPath: attrs, typedPath: typed,
	}
	if d.URL != "" {
		doc[urlPath] = d.URL
	}
	if t, ok := date(attrs["created_at"]); ok {
		doc[createdPath] = t
	}
	return doc, nil
}

// fits reports whether v, a scalar as source.Scalar gives it, can be stored as the type.
func fits(kind fieldType, v any) bool {
	switch kind {
	case longField:
		_, ok := v.(int64)
		return ok
	case doubleField:
		_, whole := v.(int64)
		_, fraction := v.(float64)
		return whole || fraction
	case booleanField:
		_, ok := v.(bool)
		return ok
	case dateField:
		_, ok := date(v)
		return ok
	default:
		_, ok := v.(string)
		return ok
	}
}

// date returns v as the server takes it, if it is a date (RFC 3339, or only its day).
func date(v any) (string, bool) {
	s, _ := v.(string)
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil && t.Year() > 0 {
			return t.UTC().Format("2006-01-02T15:04:05.000Z"), true
		}
	}
	return "", false
}

// bulk sends one batch.
func (x *Index) bulk(ctx context.Context, index string, batch []byte) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	a, err := x.client.do(ctx, http.MethodPost, "/"+index+"/_bulk?refresh=true", ndjsonMedia, batch)
	if err != nil {
		return err
	}
	if err := a.failure(); err != nil {
		return err
	}
	var r struct {
		Errors bool `json:"errors"`
		Items  []map[string]struct {
			Status int `json:"status"`
			Error  *struct {
				Type   string `json:"type"`
				Reason string `json:"reason"`
			} `json:"error"`
		} `json:"items"`
	}
	if err := json.Unmarshal(a.body, &r); err != nil {
		return atlas.Errorf(atlas.CodeSourceError, fmt.Errorf("read the answer: %w", err), "")
	}
	if !r.Errors {
		return nil
	}
	for i, item := range r.Items {
		for _, outcome := range item {
			if outcome.Error != nil {
				code := statusCodes[outcome.Status]
				if code == "" {
					code = atlas.CodeSourceError
				}
				return atlas.Errorf(code, fmt.Errorf("document %d of the batch: status %d: %s: %s", i, outcome.Status, outcome.Error.Type, outcome.Error.Reason), "")
			}
		}
	}
	return atlas.Errorf(atlas.CodeSourceError, errors.New("the server reports errors and names none"), "")
}
