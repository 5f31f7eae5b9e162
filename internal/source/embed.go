package source

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/atlas-mcp/atlas"
)

// A TenantEmbedder is an Embedder that remembers what it embedded: what it remembers for one tenant
// must not be told from another's answers, not even by the time that they take.
type TenantEmbedder interface {
	Embedder
	// For returns the embedder of one tenant's questions. Its vectors are those of the Embedder.
	For(tenant atlas.TenantID) Embedder
}

// QueryVector returns what the tenant asks for: n's own vector, or its text's from e; nil for a text
// that e sees nothing in. maxText bounds the text, in bytes. Codes: invalid_arguments, too_large,
// and those of [EmbedAll].
func QueryVector(ctx context.Context, e Embedder, tenant atlas.TenantID, n Nearest, maxText int) ([]float32, error) {
	if (n.Text == "") == (n.Vector == nil) {
		return nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "give either a text or a vector")
	}
	if n.Vector != nil {
		if len(n.Vector) != e.Dim() {
			return nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "the vector has the wrong dimension").
				With("argument", "vector").With("dimension", e.Dim())
		}
		if length := Norm(n.Vector); length == 0 || math.IsNaN(length) || math.IsInf(length, 0) {
			return nil, atlas.Errorf(atlas.CodeInvalidArguments, nil, "the vector has no direction").With("argument", "vector")
		}
		return n.Vector, nil
	}
	if len(n.Text) > maxText {
		return nil, atlas.Errorf(atlas.CodeTooLarge, nil, "the text is longer than the limit").
			With("argument", "text").With("limit_bytes", maxText)
	}
	if t, ok := e.(TenantEmbedder); ok {
		e = t.For(tenant)
	}
	vs, err := EmbedAll(ctx, e, []string{n.Text})
	if err != nil {
		return nil, err
	}
	return vs[0], nil
}

// EmbedAll embeds texts and checks what comes back, for an embedder may be a service. A text that
// it sees nothing in has the vector nil. Codes: the embedder's own; source_unavailable if it gives
// none; source_error for an answer that is none.
func EmbedAll(ctx context.Context, e Embedder, texts []string) ([][]float32, error) {
	vs, err := e.Embed(ctx, texts)
	if err != nil {
		if cause := ctx.Err(); cause != nil {
			return nil, atlas.ErrorOf(cause)
		}
		if e, ok := errors.AsType[*atlas.Error](err); ok {
			return nil, e
		}
		return nil, atlas.Errorf(atlas.CodeSourceUnavailable, fmt.Errorf("embed: %w", err), "")
	}
	if len(vs) != len(texts) {
		return nil, atlas.Errorf(atlas.CodeSourceError, fmt.Errorf("embedder gave %d vectors for %d texts", len(vs), len(texts)), "")
	}
	out := make([][]float32, len(vs))
	for i, v := range vs {
		l := Norm(v)
		if len(v) != e.Dim() || math.IsNaN(l) || math.IsInf(l, 0) {
			return nil, atlas.Errorf(atlas.CodeSourceError, fmt.Errorf("embedder gave a vector of dimension %d and length %v", len(v), l), "")
		}
		if l != 0 {
			out[i] = v
		}
	}
	return out, nil
}

// EmbeddedText is the part of a document that vector sources embed.
func EmbeddedText(title, body string) string { return strings.TrimSpace(title + "\n" + body) }

// Norm is the Euclidean length of v.
func Norm(v []float32) float64 {
	var s float64
	for _, f := range v {
		s += float64(f) * float64(f)
	}
	return math.Sqrt(s)
}

// ErrOtherEmbedder is the failure of asking for vectors of another embedder than the source's. The
// cause is for operators.
func ErrOtherEmbedder(cause error) *atlas.Error {
	return atlas.Errorf(atlas.CodeSourceMisused, cause,
		"the stored vectors are from another embedder than the configured one; load the source's data again, or configure the former embedder")
}

// Snippet is the beginning of a body, for hits that nothing else marks a place in.
func Snippet(body string) string {
	const runes = 200
	n := 0
	for i := range body {
		if n == runes {
			return body[:i]
		}
		n++
	}
	return body
}
