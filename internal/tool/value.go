package tool

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
)

// values returns the arguments of a call, which the validation stage has decoded.
func values(call atlas.Call) (map[string]any, error) {
	if call.Args.Values != nil || len(call.Args.Raw) == 0 {
		return call.Args.Values, nil
	}
	var v map[string]any
	d := json.NewDecoder(bytes.NewReader(call.Args.Raw))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, atlas.Errorf(atlas.CodeInvalidArguments, err, "the arguments are not a JSON object")
	}
	return v, nil
}

func str(v map[string]any, key string) string {
	s, _ := v[key].(string)
	return s
}

// num returns an integer argument from 1 to most, as its schema has it too.
func num(v map[string]any, key string, most, fallback int) int {
	n, ok := v[key].(json.Number)
	if !ok {
		return fallback
	}
	f, err := n.Float64() // 1e2 and 100.0 are integers to JSON Schema
	if err != nil {
		return fallback
	}
	return int(min(max(f, 1), float64(most)))
}

// plain turns JSON numbers, alone or in a list, into int64 or float64.
func plain(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i
		}
		f, err := v.Float64()
		if err != nil {
			return v.String()
		}
		return f
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = plain(e)
		}
		return out
	}
	return v
}

func plainMap(v any) map[string]any {
	m, ok := v.(map[string]any)
	if !ok || len(m) == 0 {
		return nil
	}
	out := make(map[string]any, len(m))
	for k, e := range m {
		out[k] = plain(e)
	}
	return out
}

// inText returns an argument as it stands in running text.
func inText(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	return ""
}

// encode writes v as JSON without escaping <, > and &, which would cost the reader tokens.
func encode(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

// answer returns v as the result of a call.
func answer(v any) (atlas.Result, error) {
	out := encode(v)
	if out == nil {
		return atlas.Result{}, atlas.Errorf(atlas.CodeSourceError, nil, "the source's answer cannot be written as JSON")
	}
	return atlas.Result{Structured: out}, nil
}

// appendValue appends a value of [source.Rows] as JSON. Rows are written by hand because their
// columns keep the order of the query, which a map would lose, and because they are the bulk of
// what goes through Atlas.
func appendValue(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...)
	case string:
		return appendString(b, v)
	case int64:
		return strconv.AppendInt(b, v, 10)
	case int:
		return strconv.AppendInt(b, int64(v), 10)
	case bool:
		return strconv.AppendBool(b, v)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return append(b, "null"...)
		}
		// The shortest form that reads back the same, as encoding/json has it.
		if a := math.Abs(v); a != 0 && (a < 1e-6 || a >= 1e21) {
			return strconv.AppendFloat(b, v, 'e', -1, 64)
		}
		return strconv.AppendFloat(b, v, 'f', -1, 64)
	}
	if e := encode(v); e != nil {
		return append(b, e...)
	}
	return append(b, "null"...)
}

// appendString appends s as a JSON string; bytes that are not UTF-8 become U+FFFD.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= utf8.RuneSelf {
			r, size := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && size == 1 {
				b = append(append(b, s[start:i]...), "\ufffd"...)
				start = i + 1
			}
			i += size
			continue
		}
		if c >= 0x20 && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[start:i]...)
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
		i++
		start = i
	}
	return append(append(b, s[start:]...), '"')
}
