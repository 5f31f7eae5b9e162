package sqlguard_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
)

// Nothing crashes the guard; what passes, passes again as it was rewritten and reads the same; and
// the parser still works afterwards.
func FuzzCheck(f *testing.F) {
	for _, sql := range good {
		f.Add(sql)
	}
	for _, tc := range bad {
		f.Add(tc.sql)
	}
	g := open(f, config())
	allowed := map[string]bool{}
	for table, cols := range config().Tables {
		allowed[table] = true
		for _, c := range cols {
			allowed[c] = true
		}
	}
	f.Fuzz(func(t *testing.T, sql string) {
		v, err := g.Check(t.Context(), tenant, sql)
		if err != nil {
			switch atlas.CodeOf(err) {
			case atlas.CodeInvalidQuery, atlas.CodeTooLarge:
			default:
				t.Errorf("code %s: %v", atlas.CodeOf(err), err)
			}
			return
		}
		for _, name := range append(v.Tables, v.Columns...) {
			if !allowed[name] {
				t.Errorf("reads %s", name)
			}
		}
		for _, part := range []string{"ssn", "vault", "set_config", "pg_sleep", "regclass"} {
			// As a name; in a literal it may stand.
			if !strings.Contains(v.SQL, "'") && !strings.Contains(strings.ToLower(sql), part) && strings.Contains(v.SQL, part) {
				t.Errorf("%q came into %q", part, v.SQL)
			}
		}
		again, err := g.Check(t.Context(), tenant, v.SQL)
		if atlas.CodeOf(err) == atlas.CodeTooLarge {
			return
		}
		if err != nil {
			t.Fatalf("%q is allowed, but not as %q: %v", sql, v.SQL, err)
		}
		again.SQL, v.SQL = "", ""
		if diff := cmp.Diff(v, again); diff != "" {
			t.Errorf("its own text is not the same (-want +got):\n%s", diff)
		}
	})
}
