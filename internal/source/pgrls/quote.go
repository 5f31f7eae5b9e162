package pgrls

import "strings"

// Identifier quotes names, joined by dots: "public"."orders".
func Identifier(names ...string) string {
	var b strings.Builder
	for i, n := range names {
		if i > 0 {
			b.WriteByte('.')
		}
		b.WriteByte('"')
		b.WriteString(strings.ReplaceAll(strings.ReplaceAll(n, "\x00", ""), `"`, `""`))
		b.WriteByte('"')
	}
	return b.String()
}

// Literal quotes a text as a string constant, whatever standard_conforming_strings says.
func Literal(s string) string {
	s = strings.ReplaceAll(strings.ReplaceAll(s, "\x00", ""), `'`, `''`)
	if strings.Contains(s, `\`) {
		return ` E'` + strings.ReplaceAll(s, `\`, `\\`) + `'`
	}
	return `'` + s + `'`
}

// name quotes a name only where it needs it, for statements that people read.
func name(names ...string) string {
	out := make([]string, len(names))
	for i, n := range names {
		if out[i] = n; !plainName.MatchString(n) || strings.ToLower(n) != n || reserved[n] {
			out[i] = Identifier(n)
		}
	}
	return strings.Join(out, ".")
}

// reserved are the keywords of Postgres that cannot name a table or role without quotes and are
// likely to be tried.
var reserved = map[string]bool{
	"all": true, "analyse": true, "analyze": true, "and": true, "any": true, "as": true, "asc": true, "both": true, "case": true, "cast": true,
	"check": true, "column": true, "constraint": true, "create": true, "default": true, "desc": true, "distinct": true, "do": true, "else": true,
	"end": true, "for": true, "foreign": true, "from": true, "grant": true, "group": true, "having": true, "in": true, "into": true, "limit": true,
	"not": true, "null": true, "offset": true, "on": true, "only": true, "or": true, "order": true, "primary": true, "references": true,
	"select": true, "session_user": true, "table": true, "then": true, "to": true, "union": true, "unique": true, "user": true, "using": true,
	"when": true, "where": true, "window": true, "with": true, "public": false,
}

// role names a role in a GRANT or REVOKE; "" is everybody.
func role(n string) string {
	if n == "" {
		return "PUBLIC"
	}
	if n == "public" {
		return `"public"`
	}
	return name(n)
}
