package validation

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/canonical"
)

// compiled is what the stage keeps of a tool.
type compiled struct {
	name         string
	version      string
	input        *jsonschema.Schema
	quick        *quick             // of input; nil: it is not of the plain kind
	output       *jsonschema.Schema // nil: answers are not checked
	quickOutput  *quick             // of output; nil: it is not of the plain kind
	defaults     []defaultValue
	defaultBytes int      // room that the defaults take in the canonical form
	known        []string // names of the arguments, sorted
}

type defaultValue struct {
	name  string
	value any // shared by all calls, like everything in Args.Values read-only
}

func compile(t *atlas.Tool, checkOutput bool) (*compiled, error) {
	doc, compiler, err := load(t.Input)
	if err != nil {
		return nil, fmt.Errorf("input schema: %w", err)
	}
	input, err := compiler.Compile(schemaURL)
	if err != nil {
		return nil, fmt.Errorf("input schema: %w", err)
	}
	if doc["type"] != "object" {
		return nil, errors.New(`input schema: type must be "object"`)
	}
	if doc["additionalProperties"] != false {
		return nil, errors.New("input schema: additionalProperties must be false, or misspelt arguments would be ignored in silence")
	}
	c := &compiled{name: t.Name, version: t.Version, input: input, quick: newQuick(input)}
	properties, _ := doc["properties"].(map[string]any)
	c.known = slices.Sorted(maps.Keys(properties))
	if t.Items != "" && slices.Contains(c.known, "cursor") {
		return nil, errors.New("input schema: a tool with items must not declare cursor; Atlas adds and takes that argument itself")
	}
	if err := c.addDefaults(compiler, properties); err != nil {
		return nil, err
	}
	if checkOutput && len(t.Output) > 0 {
		_, compiler, err := load(t.Output)
		if err != nil {
			return nil, fmt.Errorf("output schema: %w", err)
		}
		if c.output, err = compiler.Compile(schemaURL); err != nil {
			return nil, fmt.Errorf("output schema: %w", err)
		}
		c.quickOutput = newQuick(c.output)
	}
	return c, nil
}

// addDefaults checks each default by its own schema: a wrong one would refuse every caller's call.
func (c *compiled) addDefaults(compiler *jsonschema.Compiler, properties map[string]any) error {
	for _, name := range c.known {
		property, _ := properties[name].(map[string]any)
		value, ok := property["default"]
		if !ok {
			continue
		}
		sub, err := compiler.Compile(schemaURL + "#/properties/" + pointerToken(name))
		if err != nil {
			return fmt.Errorf("input schema: %s: %w", name, err)
		}
		if err := sub.Validate(value); err != nil {
			return fmt.Errorf("input schema: the default of %s does not fit its own schema", name)
		}
		// Through the strict reader, so that a default is spelt like an argument that was sent.
		raw, err := canonical.Append(nil, value)
		if err != nil {
			return fmt.Errorf("input schema: the default of %s: %w", name, err)
		}
		if value, err = canonical.Decode(raw, 0); err != nil {
			return fmt.Errorf("input schema: the default of %s: %w", name, err)
		}
		c.defaults = append(c.defaults, defaultValue{name, value})
		c.defaultBytes += len(name) + len(raw) + len(`"":,`)
	}
	return nil
}

// CheckSchema reports what is wrong with a JSON Schema, by the same rules by which [New] compiles
// a tool's.
func CheckSchema(schema json.RawMessage) error {
	_, compiler, err := load(schema)
	if err != nil {
		return err
	}
	_, err = compiler.Compile(schemaURL)
	return err
}

// schemaURL names the one document of a compiler. It is never fetched.
const schemaURL = "https://schema.invalid/tool.json"

// load reads a schema and makes a compiler that knows it, and nothing else.
func load(schema json.RawMessage) (map[string]any, *jsonschema.Compiler, error) {
	if len(schema) == 0 {
		return nil, nil, errors.New("there is none")
	}
	v, err := canonical.Decode(schema, 0)
	if err != nil {
		return nil, nil, err
	}
	doc, ok := v.(map[string]any)
	if !ok {
		return nil, nil, errors.New("it must be an object")
	}
	compiler := jsonschema.NewCompiler()
	compiler.DefaultDraft(jsonschema.Draft2020)
	compiler.AssertFormat()
	compiler.UseLoader(noLoader{})
	if err := compiler.AddResource(schemaURL, doc); err != nil {
		return nil, nil, err
	}
	return doc, compiler, nil
}

// noLoader refuses every $ref out of the schema: neither files nor hosts may be reached by a
// configuration's text.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, fmt.Errorf("a schema must not refer to other documents, such as %s", url)
}

func pointerToken(s string) string {
	s = strings.NewReplacer("~", "~0", "/", "~1").Replace(s)
	// The compiler reads the fragment as part of a URL.
	return strings.NewReplacer("%", "%25", "#", "%23", " ", "%20", `"`, "%22").Replace(s)
}
