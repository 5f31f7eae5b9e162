package pgvector

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas/internal/source"
)

// Whatever a caller filters by stands in parameters only: the statement's text is the same for all,
// the tenant is its first parameter, and an array parameter is one element for each value.
func FuzzFilter(f *testing.F) {
	for _, key := range []string{
		"kind", "id", "tenant_id", "", "a.b", `"`, `'`, `\`, `"}','x'); --`, "kind) OR true --", "\x00", "\xff", "$1", "{}", `","`, `\",\"`, "NULL",
	} {
		f.Add(key, "globex", false)
		f.Add("kind", key, true)
		f.Add("id", key, true)
	}
	plain := statement("t", "e", question{tenant: "globex", vector: []float32{1}, conditions: []source.Condition{{Name: "kind", Values: []any{"x"}}}, k: 1}, 1)
	byID := statement("t", "e", question{tenant: "globex", vector: []float32{1}, conditions: []source.Condition{{Name: "id", Values: []any{"x"}}}, k: 1}, 1)
	f.Fuzz(func(t *testing.T, key, value string, list bool) {
		filters := map[string]any{key: value}
		if list {
			filters[key] = []any{value, "acme", 1, true}
		}
		conditions, err := source.Conditions(filters)
		if err != nil {
			t.Fatal(err)
		}
		st := statement("t", "e", question{tenant: "globex", vector: []float32{1}, conditions: conditions, k: 1}, 1)
		want := plain
		if key == source.FilterID {
			want = byID
		}
		if st.SQL != want.SQL || st.Args[0] != "globex" || len(st.Args) != 6 {
			t.Fatalf("%s\n%v", st.SQL, st.Args)
		}
		elements, ok := parseArray(st.Args[5].(string))
		if !ok {
			t.Fatalf("%q is no array", st.Args[5])
		}
		holds := func(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }
		values := conditions[0].Values
		i := 0
		for _, v := range values {
			s, text := v.(string)
			if text && !holds(s) || !holds(key) || key == source.FilterID && !text {
				continue // left out: nothing has it
			}
			if i == len(elements) {
				t.Fatalf("%v is not in %q", v, elements)
			}
			got := elements[i]
			i++
			if key == source.FilterID {
				if got != s {
					t.Fatalf("got %q, want %q", got, s)
				}
				continue
			}
			var object map[string]any
			if err := json.Unmarshal([]byte(got), &object); err != nil || len(object) != 1 {
				t.Fatalf("%q: %v", got, err)
			}
			if back, _ := source.Scalar(object[key]); back != v {
				t.Fatalf("%q: got %v, want %v", got, back, v)
			}
		}
		if i != len(elements) {
			t.Fatalf("%q has more than %v", elements, values)
		}
	})
}

// parseArray reads an array of quoted elements as Postgres does (manual, section 8.15.6).
func parseArray(s string) ([]string, bool) {
	if !strings.HasPrefix(s, "{") || !strings.HasSuffix(s, "}") || len(s) < 2 {
		return nil, false
	}
	s = s[1 : len(s)-1]
	var out []string
	for s != "" {
		if s[0] != '"' {
			return nil, false
		}
		var b strings.Builder
		i := 1
		for ; i < len(s) && s[i] != '"'; i++ {
			if s[i] == '\\' {
				i++
			}
			if i < len(s) {
				b.WriteByte(s[i])
			}
		}
		if i >= len(s) {
			return nil, false
		}
		out = append(out, b.String())
		s = s[i+1:]
		if s == "" {
			return out, true
		}
		if s[0] != ',' || len(s) == 1 {
			return nil, false
		}
		s = s[1:]
	}
	return out, true
}

func TestVersion(t *testing.T) {
	for version, want := range map[string]bool{"0.8.0": true, "0.8": true, "0.10.1": true, "1.0": true, "0.7.4": false, "": false, "x": false} {
		if got := atLeast(version, 0, 8); got != want {
			t.Errorf("%q: got %v", version, got)
		}
	}
}
