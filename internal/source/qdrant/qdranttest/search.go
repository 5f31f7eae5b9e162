package qdranttest

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

type filterBody struct {
	Must    []conditionBody `json:"must"`
	Should  []conditionBody `json:"should"`
	MustNot []conditionBody `json:"must_not"`
}

// A conditionBody is a condition on a field, on the id, or a filter again.
type conditionBody struct {
	Key     string          `json:"key"`
	Match   json.RawMessage `json:"match"`
	HasID   []string        `json:"has_id"`
	Must    []conditionBody `json:"must"`
	Should  []conditionBody `json:"should"`
	MustNot []conditionBody `json:"must_not"`
}

// holds reports whether the filter lets p through. All conditions are looked at, so that a wrong one
// is refused whatever the others say.
func (c *collection) holds(f *filterBody, p *point) (bool, error) {
	if f == nil {
		return true, nil
	}
	all, some := true, len(f.Should) == 0
	for _, list := range []struct {
		conditions []conditionBody
		take       func(bool)
	}{
		{f.Must, func(ok bool) { all = all && ok }},
		{f.MustNot, func(ok bool) { all = all && !ok }},
		{f.Should, func(ok bool) { some = some || ok }},
	} {
		for _, cond := range list.conditions {
			ok, err := c.fits(cond, p)
			if err != nil {
				return false, err
			}
			list.take(ok)
		}
	}
	return all && some, nil
}

func (c *collection) fits(cond conditionBody, p *point) (bool, error) {
	nested := cond.Must != nil || cond.Should != nil || cond.MustNot != nil
	switch {
	case cond.Key != "" && cond.Match != nil && cond.HasID == nil && !nested:
		return c.fieldFits(cond, p)
	case cond.HasID != nil && cond.Key == "" && cond.Match == nil && !nested:
		return slices.Contains(cond.HasID, p.id), nil
	case nested && cond.Key == "" && cond.Match == nil && cond.HasID == nil:
		return c.holds(&filterBody{cond.Must, cond.Should, cond.MustNot}, p)
	}
	return false, refuse(http.StatusBadRequest, "Format error in JSON body: data did not match any variant of untagged enum Condition")
}

func (c *collection) fieldFits(cond conditionBody, p *point) (bool, error) {
	if _, ok := c.indexes[cond.Key]; !ok {
		return false, refuse(http.StatusBadRequest,
			"Bad request: Index required but not found for \"%s\" of one of the following types: [keyword]. Help: Create an index for this key or use a different filter.", cond.Key)
	}
	if strings.ContainsAny(cond.Key, `.[]"`) {
		return false, refuse(http.StatusBadRequest, "Format error in JSON body: paths into the payload are not served here")
	}
	var m struct {
		Value *string  `json:"value"`
		Any   []string `json:"any"`
	}
	if err := decode(cond.Match, &m); err != nil {
		return false, err
	}
	if (m.Value == nil) == (m.Any == nil) {
		return false, refuse(http.StatusBadRequest, "Format error in JSON body: data did not match any variant of untagged enum Match")
	}
	want := m.Any
	if m.Value != nil {
		want = []string{*m.Value}
	}
	switch v := p.payload[cond.Key].(type) {
	case string:
		return slices.Contains(want, v), nil
	case []any:
		return slices.ContainsFunc(v, func(e any) bool { s, ok := e.(string); return ok && slices.Contains(want, s) }), nil
	}
	return false, nil
}

type queryBody struct {
	Query       []float32       `json:"query"`
	Filter      *filterBody     `json:"filter"`
	Limit       *int            `json:"limit"`
	Offset      *int            `json:"offset"`
	WithPayload json.RawMessage `json:"with_payload"`
	WithVector  *bool           `json:"with_vector"`
}

func (s *Server) query(c call) (any, error) {
	col, err := s.named(c.collection)
	if err != nil {
		return nil, err
	}
	var b queryBody
	if err := decode(c.body, &b); err != nil {
		return nil, err
	}
	return col.query(b)
}

func (s *Server) batch(c call) (any, error) {
	col, err := s.named(c.collection)
	if err != nil {
		return nil, err
	}
	var b struct {
		Searches []queryBody `json:"searches"`
	}
	if err := decode(c.body, &b); err != nil {
		return nil, err
	}
	out := make([]any, 0, len(b.Searches))
	for _, q := range b.Searches {
		one, err := col.query(q)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, nil
}

func (c *collection) query(b queryBody) (any, error) {
	limit, offset := 10, 0
	if b.Limit != nil {
		limit = *b.Limit
	}
	if b.Offset != nil {
		offset = *b.Offset
	}
	if limit < 1 || offset < 0 {
		return nil, refuse(http.StatusUnprocessableEntity, "Validation error in JSON body: [limit: value %d invalid, must be 1 or larger]", limit)
	}
	full, err := withPayload(b.WithPayload, false)
	if err != nil {
		return nil, err
	}
	matching, err := c.matching(b.Filter)
	if err != nil {
		return nil, err
	}
	var scores []float64
	if b.Query != nil {
		if len(b.Query) != c.config.Vectors.Size {
			return nil, refuse(http.StatusBadRequest, "Wrong input: Vector dimension error: expected dim: %d, got %d", c.config.Vectors.Size, len(b.Query))
		}
		matching, scores = nearestFirst(matching, b.Query)
	}
	points := []any{}
	for i := offset; i < len(matching) && i < offset+limit; i++ {
		p := map[string]any{"id": matching[i].id, "version": matching[i].version, "score": 1.0}
		if scores != nil {
			p["score"] = scores[i]
		}
		if full {
			p["payload"] = matching[i].payload
		}
		points = append(points, p)
	}
	return map[string]any{"points": points}, nil
}

func withPayload(raw json.RawMessage, otherwise bool) (bool, error) {
	switch {
	case raw == nil:
		return otherwise, nil
	case bytes.Equal(raw, []byte("true")), bytes.Equal(raw, []byte("false")):
		return raw[0] == 't', nil
	}
	return false, refuse(http.StatusBadRequest, "Format error in JSON body: only true and false are served here as with_payload")
}

func (s *Server) scroll(c call) (any, error) {
	col, err := s.named(c.collection)
	if err != nil {
		return nil, err
	}
	var b struct {
		Filter      *filterBody     `json:"filter"`
		Limit       *int            `json:"limit"`
		Offset      *string         `json:"offset"`
		WithPayload json.RawMessage `json:"with_payload"`
		WithVector  *bool           `json:"with_vector"`
	}
	if err := decode(c.body, &b); err != nil {
		return nil, err
	}
	full, err := withPayload(b.WithPayload, true)
	if err != nil {
		return nil, err
	}
	limit := 10
	if b.Limit != nil {
		limit = *b.Limit
	}
	if limit < 1 {
		return nil, refuse(http.StatusUnprocessableEntity, "Validation error in JSON body: [limit: value %d invalid, must be 1 or larger]", limit)
	}
	matching, err := col.matching(b.Filter)
	if err != nil {
		return nil, err
	}
	points, next := []any{}, any(nil)
	for _, p := range matching {
		if b.Offset != nil && p.id < *b.Offset {
			continue
		}
		if len(points) == limit {
			next = p.id
			break
		}
		one := map[string]any{"id": p.id}
		if full {
			one["payload"] = p.payload
		}
		points = append(points, one)
	}
	return map[string]any{"points": points, "next_page_offset": next}, nil
}
