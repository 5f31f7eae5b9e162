package qdrant

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas"
)

// An api is a client of Qdrant's REST API for one collection. It follows no redirect and reads no
// more than its limit. All that it sends may be sent twice.
type api struct {
	client      *http.Client
	base        string // …/collections/NAME
	consistency string
	maxAnswer   int64
}

func newAPI(cfg Config, transport http.RoundTripper) *api {
	return &api{
		client: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		base:        strings.TrimSuffix(cfg.URL, "/") + "/collections/" + cfg.Collection,
		consistency: cfg.Consistency, maxAnswer: cfg.MaxAnswerBytes,
	}
}

// errNoCollection is the cause of the failure when the collection does not exist.
var errNoCollection = errors.New("the collection does not exist; run atlas migrate")

// call sends a request and decodes the field "result" of the answer into result, which may be nil.
// Parameters other than timeout and consistency are part of path.
func (a *api) call(ctx context.Context, key, method, path string, body, result any) error {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return atlas.Errorf(atlas.CodeInternal, fmt.Errorf("encode %s: %w", path, err), "")
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(data))
	if err != nil {
		return atlas.Errorf(atlas.CodeInternal, err, "")
	}
	query := req.URL.Query()
	if deadline, ok := ctx.Deadline(); ok && path != "" && method != http.MethodGet {
		// The server stops working for us when we stop waiting: whole seconds, at least one.
		query.Set("timeout", strconv.Itoa(int(max(1, math.Ceil(time.Until(deadline).Seconds())))))
	}
	if a.consistency != "" && method == http.MethodPost {
		query.Set("consistency", a.consistency)
	}
	req.URL.RawQuery = query.Encode()
	req.Header.Set("Content-Type", "application/json")
	req.Header["Idempotency-Key"] = []string{} // sends nothing, and lets the transport try a stale connection's request again
	if key != "" {
		req.Header.Set("api-key", key)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return failure(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }() // read or not, nothing is lost
	answer, err := io.ReadAll(io.LimitReader(resp.Body, a.maxAnswer+1))
	if err == nil {
		err = ctx.Err() // half an answer must not pass for a whole one
	}
	if err != nil {
		return failure(ctx, err)
	}
	if resp.StatusCode != http.StatusOK {
		return refusal(resp, answer)
	}
	if int64(len(answer)) > a.maxAnswer {
		return atlas.Errorf(atlas.CodeTooLarge, errors.New("the server's answer is larger than max_answer_bytes"), "")
	}
	var envelope struct {
		Result json.RawMessage `json:"result"`
	}
	if err := json.Unmarshal(answer, &envelope); err != nil || len(envelope.Result) == 0 {
		return atlas.Errorf(atlas.CodeSourceError, fmt.Errorf("%s %s: the answer is not Qdrant's: %w", method, path, err), "")
	}
	if result == nil {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(envelope.Result))
	dec.UseNumber() // attributes may be integers that no float holds
	if err := dec.Decode(result); err != nil {
		return atlas.Errorf(atlas.CodeSourceError, fmt.Errorf("%s %s: decode the answer: %w", method, path, err), "")
	}
	return nil
}

// failure turns an error of the client into one that a caller may see.
func failure(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil {
		return atlas.ErrorOf(cause)
	}
	return atlas.Errorf(atlas.CodeSourceUnavailable, err, "")
}

// refusal turns an answer that is none into an error. The server's words are for operators.
func refusal(resp *http.Response, answer []byte) error {
	cause := fmt.Errorf("qdrant: status %d: %s", resp.StatusCode, strings.ToValidUTF8(string(answer[:min(len(answer), 512)]), "?"))
	switch s := resp.StatusCode; {
	case s == http.StatusNotFound:
		return atlas.Errorf(atlas.CodeSourceMisused, errors.Join(errNoCollection, cause), "")
	case s == http.StatusConflict:
		return atlas.Errorf(atlas.CodeSourceError, errors.Join(errExists, cause), "")
	case s == http.StatusUnauthorized, s == http.StatusForbidden:
		return atlas.Errorf(atlas.CodeSourceMisused, fmt.Errorf("the API key is not accepted: %w", cause), "")
	case s >= 300 && s < 400:
		return atlas.Errorf(atlas.CodeSourceMisused, fmt.Errorf("url is redirected, which is not followed: %w", cause), "")
	case s == http.StatusTooManyRequests, s == http.StatusRequestTimeout, s >= 500:
		e := atlas.Errorf(atlas.CodeSourceUnavailable, cause, "")
		if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 && n < 3600 {
			e.RetryAfter = time.Duration(n) * time.Second
		}
		return e
	}
	return atlas.Errorf(atlas.CodeSourceError, cause, "")
}

// errExists is the cause of the failure when what should be made is there.
var errExists = errors.New("it exists")

// The words of the API, as far as they are used.
type (
	filter struct {
		Must []condition `json:"must"`
	}
	condition struct {
		Key   string   `json:"key,omitempty"`
		Match *match   `json:"match,omitempty"`
		HasID []string `json:"has_id,omitempty"`
	}
	match struct {
		Value string   `json:"value,omitempty"`
		Any   []string `json:"any,omitzero"` // empty matches nothing; nil is not sent
	}
	search struct {
		Query       []float32 `json:"query,omitempty"` // none: points by id
		Filter      filter    `json:"filter"`
		Limit       int       `json:"limit"`
		WithPayload bool      `json:"with_payload"`
	}
	searches struct {
		Searches []search `json:"searches"`
	}
	found struct {
		Points []scored `json:"points"`
	}
	scored struct {
		ID      string  `json:"id"`
		Score   float64 `json:"score"`
		Payload payload `json:"payload"`
	}
	scroll struct {
		Filter      filter `json:"filter"`
		Limit       int    `json:"limit"`
		Offset      string `json:"offset,omitempty"`
		WithPayload bool   `json:"with_payload"`
	}
	page struct {
		Points []scored `json:"points"`
		Next   string   `json:"next_page_offset"`
	}
	points struct {
		Points []point `json:"points"`
	}
	point struct {
		ID      string  `json:"id"`
		Vector  any     `json:"vector"` // []float32, or struct{} for none
		Payload payload `json:"payload"`
	}
	vectorParams struct {
		Size     int    `json:"size"`
		Distance string `json:"distance"`
	}
	create struct {
		Vectors  vectorParams `json:"vectors"`
		HNSW     hnsw         `json:"hnsw_config"`
		Replicas int          `json:"replication_factor,omitempty"`
		Shards   int          `json:"shard_number,omitempty"`
		OnDisk   bool         `json:"on_disk_payload"`
	}
	hnsw struct {
		M        int `json:"m"`
		PayloadM int `json:"payload_m"`
	}
	index struct {
		Field  string      `json:"field_name"`
		Schema indexSchema `json:"field_schema"`
	}
	indexSchema struct {
		Type     string `json:"type"`
		IsTenant bool   `json:"is_tenant,omitempty"`
	}
	info struct {
		Config struct {
			Params struct {
				Vectors json.RawMessage `json:"vectors"` // one set of parameters, or several by name
			} `json:"params"`
		} `json:"config"`
		Schema map[string]struct {
			Type string `json:"data_type"`
		} `json:"payload_schema"`
	}
)
