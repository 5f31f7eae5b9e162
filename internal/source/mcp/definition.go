package mcp

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas/internal/canonical"
	"github.com/atlas-mcp/atlas/internal/source"
)

// Bounds of a definition. What is beyond cannot be offered.
const (
	maxName        = 128      // bytes, as the protocol has it
	maxDescription = 8 << 10  // bytes
	maxSchema      = 64 << 10 // bytes of the canonical form
	maxDepth       = 32       // of a schema
)

// A definition is what an upstream says of one tool, as far as it matters to whoever decides about it
// and to whoever uses it: icons and _meta do not, and are not offered.
type definition struct {
	Name        string               `json:"name"`
	Title       string               `json:"title,omitempty"`
	Description string               `json:"description,omitempty"`
	Input       any                  `json:"inputSchema"`
	Output      any                  `json:"outputSchema,omitempty"`
	Annotations *sdk.ToolAnnotations `json:"annotations,omitempty"`
}

// A tool is a definition in the one form in which it is compared, kept and shown (RFC 8785).
type tool struct {
	definition
	canon  []byte
	digest string // hex SHA-256 of canon
}

// asTool takes a definition from the wire.
func asTool(t *sdk.Tool) (*tool, error) {
	canon, err := canonical.Marshal(definition{t.Name, t.Title, t.Description, t.InputSchema, t.OutputSchema, t.Annotations})
	if err != nil {
		return nil, fmt.Errorf("its definition has no canonical form: %w", err)
	}
	return parseTool(canon)
}

// parseTool reads what canon says: whatever is offered comes out of the bytes that the digest is of.
func parseTool(canon []byte) (*tool, error) {
	t := &tool{canon: canon, digest: digestOf(canon)}
	if err := json.Unmarshal(canon, &t.definition); err != nil {
		return nil, fmt.Errorf("its definition cannot be read: %w", err)
	}
	return t, nil
}

func digestOf(canon []byte) string {
	sum := sha256.Sum256(canon)
	return hex.EncodeToString(sum[:])
}

// What Atlas writes tools' names with; see [source.OfferName].
var offered = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// maxOffered is the length of a tool's name in Atlas, source and separator included.
const maxOffered = 64

// check reports why the tool cannot be offered by the named source.
func (t *tool) check(from string) error {
	var errs []error
	if name := source.OfferName(t.Name); t.Name == "" || len(t.Name) > maxName || !offered.MatchString(name) {
		errs = append(errs, fmt.Errorf("the name %.60q cannot be written with a-z, 0-9 and _, beginning with a letter", t.Name))
	} else if len(from)+len("__")+len(name) > maxOffered {
		errs = append(errs, fmt.Errorf("the name is too long: %s__%s has more than %d characters", from, name, maxOffered))
	}
	if len(t.Description) > maxDescription || len(t.Title) > maxDescription {
		errs = append(errs, fmt.Errorf("title and description must have at most %d bytes each", maxDescription))
	}
	root, ok := t.Input.(map[string]any)
	if !ok || root["type"] != "object" {
		errs = append(errs, errors.New(`the input schema must be of type "object"`))
	} else if _, err := resolve(t.Input); err != nil {
		errs = append(errs, fmt.Errorf("the input schema: %w", err))
	}
	if t.Output != nil {
		if _, err := resolve(t.Output); err != nil {
			errs = append(errs, fmt.Errorf("the output schema: %w", err))
		}
	}
	return errors.Join(errs...)
}

// resolve checks a schema and makes it ready to validate with. Nothing is ever fetched.
func resolve(schema any) (*jsonschema.Resolved, error) {
	if err := checkSchema(schema, 0); err != nil {
		return nil, err
	}
	data, err := json.Marshal(schema)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	if len(data) > maxSchema {
		return nil, fmt.Errorf("has more than %d bytes", maxSchema)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("is no JSON Schema: %w", err)
	}
	r, err := s.Resolve(nil)
	if err != nil {
		return nil, fmt.Errorf("is no JSON Schema 2020-12: %w", err)
	}
	return r, nil
}

// checkSchema bounds a schema and keeps its references inside.
func checkSchema(v any, depth int) error { return walkSchema(v, depth, false) }

// walkSchema is checkSchema of a part; data says that it stands where a schema holds values.
func walkSchema(v any, depth int, data bool) error {
	if depth > maxDepth {
		return fmt.Errorf("is nested more than %d deep", maxDepth)
	}
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if err := walkSchema(e, depth+1, data); err != nil {
				return err
			}
		}
	case map[string]any:
		for key, e := range v {
			text, isText := e.(string)
			switch {
			case isText && (key == "$ref" || key == "$dynamicRef") && !strings.HasPrefix(text, "#"):
				return fmt.Errorf("%s refers to another document", key)
			case isText && key == "$id":
				return errors.New("names itself by $id")
			case isText && key == "type" && !data && !slices.Contains(typeNames, text):
				return fmt.Errorf("%.40q is no type", text)
			}
			if err := walkSchema(e, depth+1, data || slices.Contains(valueKeys, key)); err != nil {
				return err
			}
		}
	}
	return nil
}

var (
	typeNames = []string{"array", "boolean", "integer", "null", "number", "object", "string"}
	valueKeys = []string{"const", "default", "enum", "examples"} // what they hold is no schema
)

// raw is a schema as it is offered; nil for none.
func raw(schema any) json.RawMessage {
	if schema == nil {
		return nil
	}
	data, err := json.Marshal(schema)
	if err != nil {
		return nil // it came from JSON
	}
	return bytes.Clone(data)
}

// offer returns the tool with what the operator grants. The upstream's own word only lowers it: who
// says of a tool that it destroys is believed.
func (t *tool) offer(g Grant) source.Offer {
	o := source.Offer{
		Name: t.Name, Title: t.Title, Description: t.Description, Input: raw(t.Input), Output: raw(t.Output), Digest: t.digest,
		ReadOnly: g.ReadOnly, Idempotent: g.Idempotent || g.ReadOnly, Scopes: g.Scopes, CacheTTL: g.Cache, Timeout: g.Timeout,
	}
	if a := t.Annotations; a != nil {
		if o.Title == "" {
			o.Title = a.Title
		}
		if !a.ReadOnlyHint && a.DestructiveHint != nil && *a.DestructiveHint && o.ReadOnly {
			o.ReadOnly, o.Idempotent, o.CacheTTL = false, g.Idempotent, 0
		}
	}
	o.Destructive = !o.ReadOnly
	if g.Destructive != nil && !g.ReadOnly {
		o.Destructive = *g.Destructive
	}
	return o
}
