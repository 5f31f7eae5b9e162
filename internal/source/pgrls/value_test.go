package pgrls_test

import (
	"encoding/json"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
)

// The server's own values come out as callers get them, directly and through PgBouncer.
func TestValues(t *testing.T) {
	each(t, func(t *testing.T, bouncer bool) {
		db := open(t, notes(t).Connection(bouncer))
		for _, tc := range []struct {
			sql  string
			want any
		}{
			{`NULL::text`, nil},
			{`'a'`, "a"},
			{`'ä€𝄞'::varchar(9)`, "ä€𝄞"},
			{`42::smallint`, int64(42)},
			{`(-2147483648)::int`, int64(math.MinInt32)},
			{`9223372036854775807`, int64(math.MaxInt64)},
			{`0.1::real`, 0.1},
			{`0.1::float8`, 0.1},
			{`1e300::float8`, 1e300},
			{`'NaN'::float8`, nil},
			{`'-Infinity'::float8`, nil},
			{`true`, true},
			{`false`, false},
			{`12::numeric`, int64(12)},
			{`12.00::numeric(9,2)`, int64(12)},
			{`12.50::numeric(9,2)`, 12.5},
			{`-0.001::numeric`, -0.001},
			{`123456789012345.678::numeric`, "123456789012345.678"},
			{`92233720368547758080::numeric`, "92233720368547758080"},
			{`'NaN'::numeric`, nil},
			{`sum(x) FROM (VALUES (9223372036854775807), (1)) v(x)`, "9223372036854775808"},
			{`'2026-11-10 08:30:00+02'::timestamptz`, "2026-11-10T06:30:00Z"},
			{`'2026-11-10 08:30:00.123456'::timestamptz`, "2026-11-10T08:30:00.123456Z"},
			{`'2026-11-10 08:30:00.5'::timestamp`, "2026-11-10T08:30:00.5"},
			{`'infinity'::timestamptz`, "infinity"},
			{`'0044-03-15 BC'::date`, "0044-03-15 BC"},
			{`'2026-11-10'::date`, "2026-11-10"},
			{`'08:30'::time`, "08:30:00"},
			{`'\x00ff'::bytea`, "AP8="},
			{`''::bytea`, ""},
			{`'6f9619ff-8b86-d011-b42d-00cf4fc964ff'::uuid`, "6f9619ff-8b86-d011-b42d-00cf4fc964ff"},
			{`'{"a": [1, null]}'::jsonb`, `{"a": [1, null]}`},
			{`ARRAY[1, NULL, 3]`, `{1,NULL,3}`},
			{`'127.0.0.1'::inet`, "127.0.0.1"},
			{`ROW(1, 'x')`, "(1,x)"},
		} {
			got, err := ask(t, db, "acme", `SELECT `+tc.sql)
			if err != nil {
				t.Errorf("%s: %v", tc.sql, err)
				continue
			}
			if diff := cmp.Diff([][]any{{tc.want}}, got); diff != "" {
				t.Errorf("%s (-want +got)\n%s", tc.sql, diff)
			}
		}
	})
}

func TestArgs(t *testing.T) {
	each(t, func(t *testing.T, bouncer bool) {
		db := open(t, notes(t).Connection(bouncer))
		for _, tc := range []struct {
			sql  string
			arg  any
			want any
		}{
			{`SELECT $1`, "a'b\\c", "a'b\\c"},
			{`SELECT $1`, nil, nil},
			{`SELECT $1`, "", ""},
			{`SELECT $1::bigint`, int64(math.MaxInt64), int64(math.MaxInt64)},
			{`SELECT $1::bigint`, json.Number("1e3"), int64(1000)},
			{`SELECT $1::bigint`, 7.0, int64(7)},
			{`SELECT $1::float8`, 0.1, 0.1},
			{`SELECT $1::numeric`, json.Number("12345678901234567890.5"), "12345678901234567890.5"},
			{`SELECT $1::boolean`, true, true},
			{`SELECT $1 = 5`, 5, true},
			{`SELECT id FROM notes WHERE n = $1`, "2", "n2"},
			{`SELECT id FROM notes WHERE id = $1`, "n1", "n1"},
		} {
			got, err := ask(t, db, "acme", tc.sql, tc.arg)
			if err != nil {
				t.Errorf("%s %v: %v", tc.sql, tc.arg, err)
				continue
			}
			if diff := cmp.Diff([][]any{{tc.want}}, got); diff != "" {
				t.Errorf("%s %v (-want +got)\n%s", tc.sql, tc.arg, diff)
			}
		}
		for _, tc := range []struct {
			sql  string
			arg  any
			code atlas.Code
		}{
			{`SELECT $1::int`, "abc", atlas.CodeInvalidArguments},
			{`SELECT $1::int`, 1.5, atlas.CodeInvalidArguments},
			{`SELECT $1`, "a\x00b", atlas.CodeInvalidArguments},
			{`SELECT $1`, "a\xff", atlas.CodeInvalidArguments},
			{`SELECT $1`, math.NaN(), atlas.CodeInvalidArguments},
			{`SELECT $1`, []string{"a"}, atlas.CodeInvalidArguments},
			{`SELECT $1::smallint`, 100_000, atlas.CodeInvalidQuery},
		} {
			if _, err := ask(t, db, "acme", tc.sql, tc.arg); atlas.CodeOf(err) != tc.code {
				t.Errorf("%s %v: got %v, want %s", tc.sql, tc.arg, err, tc.code)
			}
		}
	})
}
