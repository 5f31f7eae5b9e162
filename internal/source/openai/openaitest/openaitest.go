// Package openaitest is an embeddings service for tests: POST /v1/embeddings as OpenAI's published
// API reference has it, and strictly so. It refuses unknown fields, empty inputs and dimensions of
// models that have one only, answers in another order than it was asked, and counts what it is
// sent. Vectors are hashes of words: of the same text the same.
package openaitest

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"hash/fnv"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// A Server is an http.Handler.
type Server struct {
	Key      string // asked for as a bearer token, if not empty
	Model    string
	Dim      int
	Shortens bool // the model can give vectors of fewer dimensions

	mu       sync.Mutex
	requests [][]string
}

// Requests returns the inputs of all requests that were answered.
func (s *Server) Requests() [][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([][]string(nil), s.requests...)
}

// Refuse answers with an error as the API has it.
func Refuse(w http.ResponseWriter, status int, typ, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	data, err := json.Marshal(map[string]any{"error": map[string]any{"message": message, "type": typ, "param": nil, "code": code}})
	if err == nil {
		_, _ = w.Write(data) // the client is gone, or not
	}
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	bad := func(message string) { Refuse(w, http.StatusBadRequest, "invalid_request_error", "", message) }
	if r.URL.Path != "/v1/embeddings" {
		Refuse(w, http.StatusNotFound, "invalid_request_error", "unknown_url", "Unknown request URL: "+r.Method+" "+r.URL.Path)
		return
	}
	if r.Method != http.MethodPost {
		Refuse(w, http.StatusMethodNotAllowed, "invalid_request_error", "", "Not allowed to "+r.Method)
		return
	}
	if s.Key != "" && r.Header.Get("Authorization") != "Bearer "+s.Key {
		Refuse(w, http.StatusUnauthorized, "invalid_request_error", "invalid_api_key", "Incorrect API key provided: "+r.Header.Get("Authorization"))
		return
	}
	if r.Header.Get("Content-Type") != "application/json" {
		bad("you must provide a JSON body")
		return
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	var b struct {
		Input      []string `json:"input"`
		Model      string   `json:"model"`
		Dimensions *int     `json:"dimensions"`
		Format     string   `json:"encoding_format"`
		User       string   `json:"user"`
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&b); err != nil {
		bad(err.Error())
		return
	}
	if b.Model != s.Model {
		Refuse(w, http.StatusNotFound, "invalid_request_error", "model_not_found", "The model `"+b.Model+"` does not exist")
		return
	}
	dim := s.Dim
	if b.Dimensions != nil {
		if !s.Shortens || *b.Dimensions < 1 || *b.Dimensions > s.Dim {
			bad("This model does not support specifying dimensions.")
			return
		}
		dim = *b.Dimensions
	}
	if len(b.Input) == 0 || len(b.Input) > 2048 || b.Format != "" && b.Format != "float" && b.Format != "base64" {
		bad("'$.input' is invalid.")
		return
	}
	if slices.Contains(b.Input, "") {
		bad("'$.input' is invalid: input cannot be an empty string.")
		return
	}
	s.mu.Lock()
	s.requests = append(s.requests, b.Input)
	s.mu.Unlock()
	out := make([]map[string]any, 0, len(b.Input))
	for i, in := range slices.Backward(b.Input) {
		one := map[string]any{"object": "embedding", "index": i}
		v := Vector(in, dim)
		if one["embedding"] = v; b.Format == "base64" {
			raw := make([]byte, 0, 4*len(v))
			for _, f := range v {
				raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(f))
			}
			one["embedding"] = base64.StdEncoding.EncodeToString(raw)
		}
		out = append(out, one)
	}
	data, err = json.Marshal(map[string]any{
		"object": "list", "data": out, "model": s.Model, "usage": map[string]int{"prompt_tokens": 1, "total_tokens": 1},
	})
	if err != nil {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data) // the client is gone, or not
}

// Vector is the vector of a text.
func Vector(text string, dim int) []float32 {
	v := make([]float32, dim)
	for w := range strings.FieldsSeq(strings.ToLower(text)) {
		h := fnv.New32a()
		_, _ = h.Write([]byte(strings.Trim(w, ".,?:;")))
		v[int(h.Sum32()%uint32(dim))]++ //nolint:gosec // dim is small and positive
	}
	var square float64
	for _, f := range v {
		square += float64(f) * float64(f)
	}
	for i := range v {
		v[i] /= float32(math.Sqrt(square))
	}
	return v
}
