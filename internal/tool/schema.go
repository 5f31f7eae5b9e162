package tool

import (
	"encoding/json"
	"maps"
	"slices"
)

// A schema is a JSON Schema under construction. encoding/json writes its keys sorted, so equal
// schemas have equal bytes.
type schema = map[string]any

// object returns the schema of an object of just these properties.
func object(properties schema, required ...string) schema {
	if required == nil {
		required = []string{}
	}
	slices.Sort(required)
	return schema{"type": "object", "properties": properties, "required": required, "additionalProperties": false}
}

func text(description string, maxLength int) schema {
	return schema{"type": "string", "description": description, "maxLength": maxLength}
}

// integer is a number from 1 to most.
func integer(description string, most, fallback int) schema {
	return schema{"type": "integer", "description": description, "minimum": 1, "maximum": most, "default": fallback}
}

func array(items schema) schema { return schema{"type": "array", "items": items} }

// with returns s with one more keyword.
func with(s schema, key string, value any) schema {
	s = maps.Clone(s)
	s[key] = value
	return s
}

// paged returns the schema of an answer whose list may be cut by the guard stage, which then tells
// so in truncated and next_cursor.
func paged(properties schema, required ...string) schema {
	properties = maps.Clone(properties)
	properties["truncated"] = schema{"type": "boolean", "description": "more was there"}
	properties["next_cursor"] = schema{"type": "string", "description": "fetches the rest"}
	return object(properties, required...)
}

// raw encodes a schema.
func raw(s schema) json.RawMessage { return encode(s) }

// Patterns of names and keys. They are written in the common part of RE2 and ECMA-262.
const (
	attributePattern = `^[A-Za-z_][A-Za-z0-9_]{0,63}$`

	// A segment is anything without slashes, backslashes and control characters but "", "." and
	// "..", which source.CheckKey refuses too: RE2 has no look-ahead to say it in fewer words.
	keyChar    = `[^/\\\x00-\x1f\x7f-\x9f]`
	keySegment = `(?:\.?[^./\\\x00-\x1f\x7f-\x9f]` + keyChar + `*|\.\.` + keyChar + `+)`
	keyPattern = `^` + keySegment + `(?:/` + keySegment + `)*$`

	prefixPattern = `^(?:` + keySegment + `(?:/` + keySegment + `)*/?)?$`

	// No userinfo, no IPv6 literal, ASCII host names only: what policy matches is what is dialled.
	urlPattern = `^https://[A-Za-z0-9.-]{1,253}(?::[0-9]{1,5})?(?:[/?][^#\s\\]*)?$`
)

// filterSchema is the schema of exact matches by attribute.
func filterSchema() schema {
	scalar := schema{"type": []string{"string", "number", "boolean"}}
	return schema{
		"type":          "object",
		"description":   "exact matches by attribute; a list matches any of its values",
		"maxProperties": 10,
		"propertyNames": schema{"pattern": attributePattern},
		"additionalProperties": schema{"anyOf": []any{
			schema{"type": []string{"string", "number", "boolean"}},
			schema{"type": "array", "items": scalar, "minItems": 1, "maxItems": 50},
		}},
	}
}
