package mcp

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/canonical"
	"github.com/atlas-mcp/atlas/internal/source"
)

// answer takes what an upstream's tool answered: data, whatever it says.
func answer(res *sdk.CallToolResult, output *jsonschema.Resolved, most int64) (source.Answer, error) {
	if len(res.InputRequests) > 0 || res.RequestState != "" {
		return source.Answer{}, atlas.Errorf(atlas.CodeSourceError, errors.New("the upstream asks for input, which Atlas does not give"),
			"the upstream server asked for input, which it is not given here")
	}
	a := source.Answer{Failed: res.IsError}
	var (
		text     strings.Builder
		left     []string
		limit    = int(most)
		overflow = func() bool { return text.Len() > limit }
	)
	for _, c := range res.Content {
		switch c := c.(type) {
		case *sdk.TextContent:
			if text.Len() > 0 {
				text.WriteByte('\n')
			}
			text.WriteString(strings.ToValidUTF8(c.Text, "\uFFFD"))
		case *sdk.ImageContent:
			left = append(left, fmt.Sprintf("an image of %d bytes", len(c.Data)))
		case *sdk.AudioContent:
			left = append(left, fmt.Sprintf("a recording of %d bytes", len(c.Data)))
		case *sdk.EmbeddedResource:
			left = append(left, "an embedded resource")
		case *sdk.ResourceLink:
			left = append(left, "a link to a resource")
		default:
			left = append(left, "something of an unknown kind")
		}
		if overflow() {
			return source.Answer{}, atlas.Errorf(atlas.CodeTooLarge, errTooLarge, "the upstream's answer is larger than the limit; ask for less")
		}
	}
	a.Text = text.String()
	if res.StructuredContent != nil {
		if err := structure(&a, res.StructuredContent, output); err != nil {
			return source.Answer{}, err
		}
	} else if output != nil && !a.Failed {
		return source.Answer{}, atlas.Errorf(atlas.CodeSourceError, errors.New("the upstream's answer lacks the structured content that its output schema promises"), "")
	}
	if len(left) > 0 {
		const most = 5
		note := strings.Join(left[:min(len(left), most)], ", ")
		if len(left) > most {
			note += fmt.Sprintf(" and %d more", len(left)-most)
		}
		a.Text = strings.TrimPrefix(a.Text+"\n[Atlas left out: "+note+"]", "\n")
	}
	return a, nil
}

// structure takes the structured part, and leaves out a text that only repeats it.
func structure(a *source.Answer, v any, output *jsonschema.Resolved) error {
	if !faithful(v) {
		return atlas.Errorf(atlas.CodeSourceError, errors.New("the upstream's answer holds a number beyond 2^53, which cannot be passed on as it is"), "")
	}
	canon, err := canonical.Marshal(v)
	if err != nil {
		return atlas.Errorf(atlas.CodeSourceError, fmt.Errorf("the upstream's structured content has no canonical form: %w", err), "")
	}
	if output != nil && !a.Failed {
		if err := output.Validate(v); err != nil {
			return atlas.Errorf(atlas.CodeSourceError, fmt.Errorf("the upstream's answer does not fit its output schema: %.300s", err.Error()), "")
		}
	}
	a.Structured = canon
	if sameJSON(a.Text, canon) {
		a.Text = ""
	}
	return nil
}

// faithful reports whether the SDK, which reads numbers as doubles, can have read v as it was written:
// beyond 2^53 two integers become one.
func faithful(v any) bool {
	switch v := v.(type) {
	case float64:
		return v != math.Trunc(v) || math.Abs(v) < 1<<53
	case []any:
		for _, e := range v {
			if !faithful(e) {
				return false
			}
		}
	case map[string]any:
		for _, e := range v {
			if !faithful(e) {
				return false
			}
		}
	}
	return true
}

func sameJSON(text string, canon []byte) bool {
	text = strings.TrimSpace(text)
	if !json.Valid([]byte(text)) {
		return false
	}
	other, err := canonical.Transform([]byte(text))
	return err == nil && bytes.Equal(other, canon)
}
