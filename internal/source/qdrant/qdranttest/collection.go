package qdranttest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"math"
	"net/http"
	"regexp"
	"slices"
)

// A collection is vectors of one unnamed kind.
type collection struct {
	config  createBody
	indexes map[string]json.RawMessage // the schema by field
	points  map[string]*point
	version int
}

type point struct {
	id      string
	version int
	vector  []float32 // of length 1; nil if the point has none
	payload map[string]any
}

type createBody struct {
	Vectors struct {
		Size     int    `json:"size"`
		Distance string `json:"distance"`
		OnDisk   *bool  `json:"on_disk,omitempty"`
	} `json:"vectors"`
	ShardNumber       *int  `json:"shard_number,omitempty"`
	ReplicationFactor *int  `json:"replication_factor,omitempty"`
	WriteConsistency  *int  `json:"write_consistency_factor,omitempty"`
	OnDiskPayload     *bool `json:"on_disk_payload,omitempty"`
	HNSW              *struct {
		M                 *int  `json:"m,omitempty"`
		EfConstruct       *int  `json:"ef_construct,omitempty"`
		FullScanThreshold *int  `json:"full_scan_threshold,omitempty"`
		OnDisk            *bool `json:"on_disk,omitempty"`
		PayloadM          *int  `json:"payload_m,omitempty"`
	} `json:"hnsw_config,omitempty"`
}

func (s *Server) create(c call) (any, error) {
	var b createBody
	if err := decode(c.body, &b); err != nil {
		return nil, err
	}
	if b.Vectors.Size < 1 || b.Vectors.Size > 65536 {
		return nil, refuse(http.StatusUnprocessableEntity, "Validation error in JSON body: [vectors.size: value %d invalid, must be from 1 to 65536]", b.Vectors.Size)
	}
	if b.Vectors.Distance != "Cosine" {
		return nil, refuse(http.StatusBadRequest, "Format error in JSON body: only Cosine is served here")
	}
	if _, ok := s.collections[c.collection]; ok {
		return nil, refuse(http.StatusConflict, "Wrong input: Collection `%s` already exists!", c.collection)
	}
	if s.collections == nil {
		s.collections = map[string]*collection{}
	}
	s.collections[c.collection] = &collection{config: b, indexes: map[string]json.RawMessage{}, points: map[string]*point{}}
	return true, nil
}

func (s *Server) info(c call) (any, error) {
	col, err := s.named(c.collection)
	if err != nil {
		return nil, err
	}
	schema := map[string]any{}
	for field, params := range col.indexes {
		schema[field] = map[string]any{"data_type": "keyword", "params": params, "points": len(col.points)}
	}
	hnsw := map[string]any{"m": 16, "ef_construct": 100, "full_scan_threshold": 10000}
	if h := col.config.HNSW; h != nil && h.M != nil {
		hnsw["m"] = *h.M
	}
	return map[string]any{
		"status": "green", "optimizer_status": "ok", "points_count": len(col.points), "indexed_vectors_count": 0, "segments_count": 1,
		"config": map[string]any{
			"params": map[string]any{
				"vectors": col.config.Vectors, "shard_number": 1, "replication_factor": 1, "write_consistency_factor": 1, "on_disk_payload": true,
			},
			"hnsw_config": hnsw,
		},
		"payload_schema": schema,
	}, nil
}

func (s *Server) index(c call) (any, error) {
	col, err := s.named(c.collection)
	if err != nil {
		return nil, err
	}
	var b struct {
		Field  string          `json:"field_name"`
		Schema json.RawMessage `json:"field_schema"`
	}
	if err := decode(c.body, &b); err != nil {
		return nil, err
	}
	var schema struct {
		Type       string `json:"type"`
		IsTenant   *bool  `json:"is_tenant,omitempty"`
		OnDisk     *bool  `json:"on_disk,omitempty"`
		EnableHNSW *bool  `json:"enable_hnsw,omitempty"`
	}
	if bytes.Equal(b.Schema, []byte(`"keyword"`)) {
		schema.Type = "keyword"
	} else if err := decode(b.Schema, &schema); err != nil {
		return nil, err
	}
	if b.Field == "" || schema.Type != "keyword" {
		return nil, refuse(http.StatusBadRequest, "Format error in JSON body: only keyword indexes on a field are served here")
	}
	col.indexes[b.Field] = b.Schema
	return col.done(), nil
}

func (c *collection) done() any {
	c.version++
	return map[string]any{"operation_id": c.version, "status": "completed"}
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

func (s *Server) upsert(c call) (any, error) {
	col, err := s.named(c.collection)
	if err != nil {
		return nil, err
	}
	var b struct {
		Points []struct {
			ID      string          `json:"id"` // numbers are not served here
			Vector  json.RawMessage `json:"vector"`
			Payload map[string]any  `json:"payload"`
		} `json:"points"`
	}
	if err := decode(c.body, &b); err != nil {
		return nil, err
	}
	var in []*point
	for _, p := range b.Points {
		if !uuidForm.MatchString(p.ID) {
			return nil, refuse(http.StatusBadRequest, "Format error in JSON body: value %s is not a valid point ID, valid values are either an unsigned integer or a UUID", p.ID)
		}
		q := &point{id: p.ID, payload: p.Payload, version: col.version}
		if !bytes.Equal(p.Vector, []byte("{}")) {
			if err := decode(p.Vector, &q.vector); err != nil {
				return nil, err
			}
			if len(q.vector) != col.config.Vectors.Size {
				return nil, refuse(http.StatusBadRequest, "Wrong input: Vector dimension error: expected dim: %d, got %d", col.config.Vectors.Size, len(q.vector))
			}
			q.vector = unit(q.vector)
		}
		in = append(in, q)
	}
	for _, p := range in {
		col.points[p.id] = p
	}
	return col.done(), nil
}

func (s *Server) remove(c call) (any, error) {
	col, err := s.named(c.collection)
	if err != nil {
		return nil, err
	}
	var b struct {
		Points []string    `json:"points"`
		Filter *filterBody `json:"filter"`
	}
	if err := decode(c.body, &b); err != nil {
		return nil, err
	}
	if (b.Points == nil) == (b.Filter == nil) {
		return nil, refuse(http.StatusBadRequest, "Format error in JSON body: data did not match any variant of untagged enum PointsSelector")
	}
	ids := b.Points
	if b.Filter != nil {
		all, err := col.matching(b.Filter)
		if err != nil {
			return nil, err
		}
		for _, p := range all {
			ids = append(ids, p.id)
		}
	}
	for _, id := range ids {
		delete(col.points, id)
	}
	return col.done(), nil
}

func unit(v []float32) []float32 {
	var square float64
	for _, f := range v {
		square += float64(f) * float64(f)
	}
	if square == 0 {
		return v
	}
	out := make([]float32, len(v))
	for i, f := range v {
		out[i] = float32(float64(f) / math.Sqrt(square))
	}
	return out
}

// matching returns the points that the filter lets through, by id.
func (c *collection) matching(f *filterBody) ([]*point, error) {
	var out []*point
	for _, id := range slices.Sorted(maps.Keys(c.points)) {
		ok, err := c.holds(f, c.points[id])
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, c.points[id])
		}
	}
	if len(c.points) == 0 { // a wrong filter is wrong without points, too
		if _, err := c.holds(f, &point{}); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func nearestFirst(points []*point, vector []float32) ([]*point, []float64) {
	vector = unit(vector)
	scores := map[*point]float64{}
	var with []*point
	for _, p := range points {
		if p.vector == nil {
			continue
		}
		var dot float32
		for i, f := range p.vector {
			dot += f * vector[i]
		}
		scores[p] = float64(dot)
		with = append(with, p)
	}
	slices.SortStableFunc(with, func(a, b *point) int { return cmp.Compare(scores[b], scores[a]) })
	out := make([]float64, len(with))
	for i, p := range with {
		out[i] = scores[p]
	}
	return with, out
}
