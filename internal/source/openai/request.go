package openai

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
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

// errQuota is the cause of the failure when the account's quota is used up: waiting does not mend it.
var errQuota = errors.New("the account's quota is used up")

type body struct {
	Input      []string `json:"input"`
	Model      string   `json:"model"`
	Dimensions int      `json:"dimensions,omitempty"`
	Format     string   `json:"encoding_format"`
}

type answer struct {
	Data []struct {
		Index     *int            `json:"index"`
		Embedding json.RawMessage `json:"embedding"` // numbers, or base64 of little-endian float32
	} `json:"data"`
}

// request sends one batch once. Its vectors are in the order of the texts.
func (e *Embedder) request(ctx context.Context, batch []string) ([][]float32, error) {
	send := body{Input: batch, Model: e.cfg.Model, Format: "float"}
	if e.cfg.SendDimensions {
		send.Dimensions = e.cfg.Dim
	}
	if e.cfg.Base64 {
		send.Format = "base64"
	}
	data, err := json.Marshal(send)
	if err != nil {
		return nil, atlas.Errorf(atlas.CodeInternal, fmt.Errorf("encode request: %w", err), "")
	}
	call := ctx
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.cfg.URL+"/embeddings", bytes.NewReader(data))
	if err != nil {
		return nil, atlas.Errorf(atlas.CodeInternal, err, "")
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	req.Header["Idempotency-Key"] = []string{} // sends nothing, and lets the transport try a stale connection's request again
	if e.cfg.APIKey != "" {
		req.Header.Set("Authorization", "Bearer "+e.cfg.APIKey)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return nil, failure(call, err)
	}
	defer func() { _ = resp.Body.Close() }() // read or not, nothing is lost
	text, err := io.ReadAll(io.LimitReader(resp.Body, e.cfg.MaxAnswerBytes+1))
	if err == nil {
		err = ctx.Err() // half an answer must not pass for a whole one
	}
	if err != nil {
		return nil, failure(call, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refusal(resp, text)
	}
	if int64(len(text)) > e.cfg.MaxAnswerBytes {
		return nil, atlas.Errorf(atlas.CodeTooLarge, errors.New("the service's answer is larger than max_answer_bytes"), "")
	}
	vs, err := e.vectors(text, len(batch))
	if err != nil {
		return nil, atlas.Errorf(atlas.CodeSourceError, fmt.Errorf("the embeddings service's answer: %w", err), "")
	}
	return vs, nil
}

// vectors reads an answer to n texts: one vector for each, of the one dimension, all finite.
func (e *Embedder) vectors(text []byte, n int) ([][]float32, error) {
	var got answer
	if err := json.Unmarshal(text, &got); err != nil {
		return nil, fmt.Errorf("not JSON of the API: %w", err)
	}
	if len(got.Data) != n {
		return nil, fmt.Errorf("%d vectors for %d texts", len(got.Data), n)
	}
	out := make([][]float32, n)
	for _, d := range got.Data {
		if d.Index == nil || *d.Index < 0 || *d.Index >= n || out[*d.Index] != nil {
			return nil, errors.New("an index is missing, given twice or out of range")
		}
		v, err := vector(d.Embedding)
		if err != nil {
			return nil, err
		}
		want := e.dim
		if want == 0 { // asked for the dimension
			want = len(v)
		}
		if len(v) != want || len(v) == 0 || len(v) > maxDim {
			return nil, fmt.Errorf("a vector has dimension %d, not %d; set dim, or configure the former model", len(v), want)
		}
		for _, f := range v {
			if math.IsNaN(float64(f)) || math.IsInf(float64(f), 0) {
				return nil, errors.New("a vector holds what is no number")
			}
		}
		out[*d.Index] = v
	}
	return out, nil
}

// vector reads a vector in either form, whichever was asked for: some services know only one.
func vector(raw json.RawMessage) ([]float32, error) {
	var v []float32
	if len(raw) > 0 && raw[0] == '[' {
		if err := json.Unmarshal(raw, &v); err != nil {
			return nil, fmt.Errorf("a vector: %w", err)
		}
		return v, nil
	}
	var text string
	if err := json.Unmarshal(raw, &text); err != nil {
		return nil, errors.New("a vector is neither numbers nor base64")
	}
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(data)%4 != 0 {
		return nil, errors.New("a vector is not base64 of 32-bit floats")
	}
	v = make([]float32, len(data)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
	}
	return v, nil
}

// failure turns an error of the client into one that a caller may see; ctx is the caller's. That a
// single request took too long is no failure of the caller's deadline.
func failure(ctx context.Context, err error) error {
	if cause := ctx.Err(); cause != nil {
		return atlas.ErrorOf(cause)
	}
	return atlas.Errorf(atlas.CodeSourceUnavailable, fmt.Errorf("embeddings service: %s", err.Error()), "")
}

// refusal turns an answer that is none into an error. The service's words are for operators, and it
// may repeat in them what it was sent: only the error's type and code are kept.
func refusal(resp *http.Response, text []byte) error {
	var said struct {
		Error struct {
			Type string `json:"type"`
			Code any    `json:"code"`
		} `json:"error"`
	}
	_ = json.Unmarshal(text, &said) // what is not the API's has no type and code
	cause := fmt.Errorf("embeddings service: status %d, type %.64q, code %.64q", resp.StatusCode, said.Error.Type, fmt.Sprint(said.Error.Code))
	misused := func(what string) error {
		return atlas.Errorf(atlas.CodeSourceMisused, fmt.Errorf("%s: %w", what, cause), "")
	}
	switch s := resp.StatusCode; {
	case s == http.StatusUnauthorized, s == http.StatusForbidden:
		return misused("the embedder's api_key is not accepted")
	case s == http.StatusNotFound:
		return misused("the embedder's url or model is not known")
	case s >= 300 && s < 400:
		return misused("the embedder's url is redirected, which is not followed")
	case s == http.StatusRequestEntityTooLarge:
		return atlas.Errorf(atlas.CodeTooLarge, fmt.Errorf("lower max_batch, max_batch_bytes or max_text_bytes: %w", cause), "")
	case s == http.StatusTooManyRequests && said.Error.Code == "insufficient_quota":
		return atlas.Errorf(atlas.CodeSourceUnavailable, errors.Join(errQuota, cause), "")
	case s == http.StatusTooManyRequests, s == http.StatusRequestTimeout, s == http.StatusConflict, s >= 500:
		e := atlas.Errorf(atlas.CodeSourceUnavailable, cause, "")
		e.RetryAfter = retryAfter(resp.Header, time.Now())
		return e
	}
	return atlas.Errorf(atlas.CodeSourceError, cause, "")
}

// retryAfter reads when to come back: Retry-After (RFC 9110 section 10.2.3) in seconds or as a date,
// or OpenAI's own header in milliseconds. 0 means that it was not said.
func retryAfter(h http.Header, now time.Time) time.Duration {
	if ms, err := strconv.Atoi(strings.TrimSpace(h.Get("Retry-After-Ms"))); err == nil && ms > 0 && ms < 1e9 {
		return time.Duration(ms) * time.Millisecond
	}
	v := strings.TrimSpace(h.Get("Retry-After"))
	if s, err := strconv.Atoi(v); err == nil && s > 0 && s < 1e6 {
		return time.Duration(s) * time.Second
	}
	if at, err := http.ParseTime(v); err == nil && at.After(now) {
		return at.Sub(now)
	}
	return 0
}
