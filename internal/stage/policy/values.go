package policy

import (
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/cedar-policy/cedar-go/types"

	"github.com/atlas-mcp/atlas"
)

var errNoCedarForm = errors.New("has no Cedar form")

// toCedar converts a decoded JSON value. The shape decides between Long and decimal, so that the
// same argument has the same type in every call.
func toCedar(v any, s *shape, depth int) (types.Value, error) {
	if depth > maxShape {
		return nil, errNoCedarForm
	}
	switch v := v.(type) {
	case string:
		return types.String(v), nil
	case bool:
		return types.Boolean(v), nil
	case json.Number:
		return number(string(v), s.kind)
	case int64:
		return number(strconv.FormatInt(v, 10), s.kind)
	case float64:
		return number(strconv.FormatFloat(v, 'f', -1, 64), s.kind)
	case []any:
		items := s.items
		if items == nil {
			items = &shape{}
		}
		list := make([]types.Value, len(v))
		for i, e := range v {
			c, err := toCedar(e, items, depth+1) // null is an error here: a Set cannot leave it out
			if err != nil {
				return nil, err
			}
			list[i] = c
		}
		return types.NewSet(list...), nil
	case map[string]any:
		m := make(types.RecordMap, len(v))
		for name, e := range v {
			if e == nil {
				continue
			}
			f := &shape{}
			if known, ok := s.fields[name]; ok {
				f = &known.shape
			}
			c, err := toCedar(e, f, depth+1)
			if err != nil {
				return nil, err
			}
			m[types.String(name)] = c
		}
		return types.NewRecord(m), nil
	}
	return nil, errNoCedarForm
}

// number converts a JSON number. Cedar has 64-bit integers and decimals of four places.
func number(n string, k kind) (types.Value, error) {
	if strings.ContainsAny(n, "eE") {
		f, err := strconv.ParseFloat(n, 64)
		if err != nil || f > 1e15 || f < -1e15 {
			return nil, errNoCedarForm
		}
		n = strconv.FormatFloat(f, 'f', -1, 64)
	}
	whole, fraction, _ := strings.Cut(n, ".")
	fraction = strings.TrimRight(fraction, "0")
	if k != kindDecimal && fraction == "" {
		i, err := strconv.ParseInt(whole, 10, 64)
		if err != nil {
			return nil, errNoCedarForm
		}
		return types.Long(i), nil
	}
	if fraction == "" {
		fraction = "0"
	}
	d, err := types.ParseDecimal(whole + "." + fraction)
	if err != nil {
		return nil, errNoCedarForm
	}
	return d, nil
}

func stringSet(list []string) types.Set {
	values := make([]types.Value, len(list))
	for i, s := range list {
		values[i] = types.String(s)
	}
	return types.NewSet(values...)
}

// toolRecord is what a when sees of a tool.
func toolRecord(t *atlas.Tool) types.Record {
	return types.NewRecord(types.RecordMap{
		"name": types.String(t.Name), "level": types.String(t.Level), "source": types.String(t.Source),
		"reads": types.String(t.Reads), "effects": types.String(t.Effects),
		"read_only": types.Boolean(t.ReadOnly), "destructive": types.Boolean(t.Destructive),
	})
}

// factsRecord is what a when sees of the facts.
func factsRecord(f *atlas.Facts) types.Record {
	return types.NewRecord(types.RecordMap{
		"sql": types.String(f.SQL), "tables": stringSet(f.Tables),
		"columns": stringSet(f.Columns), "pii": stringSet(f.PII),
	})
}

var noFacts = factsRecord(&atlas.Facts{})
