package postgres

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
)

// A statement is a caller's SQL, taken apart as far as can be done without a parser: where its one
// statement ends, and where its parameters are. What the statement may do is decided by the guard,
// from Postgres's own grammar, and by the rights of the role.
type statement struct {
	text   string // without what follows the last token, so that it can be put into parentheses
	params []param
	words  []word
}

// A param is a :name.
type param struct {
	name       string
	start, end int // in the text
}

// A word is an identifier or a keyword, as Postgres folds it.
type word struct {
	name   string
	quoted bool
	call   bool // an opening parenthesis follows
	alias  bool // it names something anew: after AS, or straight after another identifier
}

// split finds the one statement in sql, which must be a SELECT (or VALUES, or TABLE), by the rules
// of Postgres's scanner with standard_conforming_strings on. The error has the code invalid_query.
func split(sql string) (statement, error) {
	bad := func(hint string) (statement, error) {
		return statement{}, atlas.Errorf(atlas.CodeInvalidQuery, nil, hint)
	}
	if !utf8.ValidString(sql) || strings.ContainsRune(sql, 0) {
		return bad("the query is not text")
	}
	var (
		st    statement
		prev  token
		ended bool
		depth int
		count int
		first string
	)
	for i := 0; i < len(sql); {
		tok := next(sql, i)
		i = tok.end
		switch tok.kind {
		case space:
			continue
		case semicolon:
			ended = ended || count > 0
			continue
		case open:
			return bad("a quote in the query is not closed")
		case otherParam:
			return bad("write parameters as :name")
		case named:
			st.params = append(st.params, param{sql[tok.start+1 : tok.end], tok.start, tok.end})
		case literal:
			// Postgres joins two texts with a line break between them, and reads the second by the
			// rules of the first.
			if prev.kind == literal && prev.quoted && tok.quoted {
				return bad("write one text, or join two with ||")
			}
		case ident, punct:
		}
		if ended {
			return bad("only one statement is allowed")
		}
		count++
		switch sql[tok.start:tok.end] {
		case "(":
			depth++
			if n := len(st.words); n > 0 && prev.kind == ident {
				st.words[n-1].call = true
			}
		case ")":
			if depth--; depth < 0 {
				return bad("a parenthesis in the query is closed that was not opened")
			}
		default:
			if first == "" {
				first = strings.ToLower(sql[tok.start:tok.end])
			}
		}
		if tok.kind == ident {
			st.words = append(st.words, newWord(sql, tok, prev, st.words))
		}
		prev = tok
	}
	switch {
	case count == 0:
		return bad("the query is empty")
	case depth > 0:
		return bad("a parenthesis in the query is not closed")
	case count == 1:
		return bad("the query selects nothing")
	case first != "select" && first != "with" && first != "values" && first != "table":
		return bad("only SELECT is allowed")
	}
	st.text = sql[:prev.end]
	return st, nil
}

// names returns the names of the parameters, sorted, each once.
func (st statement) names() []string {
	out := make([]string, len(st.params))
	for i, p := range st.params {
		out[i] = p.name
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func newWord(sql string, tok, prev token, before []word) word {
	w := word{quoted: tok.quoted}
	if text := sql[tok.start:tok.end]; tok.quoted {
		w.name = strings.ReplaceAll(text[1:len(text)-1], `""`, `"`)
	} else {
		w.name = lower(text)
	}
	if prev.kind == ident && len(before) > 0 {
		last := before[len(before)-1]
		w.alias = last.name == "as" && !last.quoted || last.quoted || !keywords[last.name]
	}
	return w
}

// lower folds A to Z, as Postgres does for names that are not quoted.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

type kind uint8

const (
	space kind = iota // white space and comments
	ident
	literal
	named      // :name
	otherParam // $1
	semicolon
	punct
	open // a quote without an end
)

// A token is a piece of SQL from start to before end.
type token struct {
	kind       kind
	quoted     bool // an identifier or a text in quotes
	start, end int
}

// next returns the token at i.
func next(sql string, i int) token {
	tok := func(k kind, end int) token { return token{kind: k, start: i, end: end} }
	c := sql[i]
	after := func(n int) byte {
		if i+n < len(sql) {
			return sql[i+n]
		}
		return 0
	}
	switch {
	case c == ' ' || '\t' <= c && c <= '\r':
		return tok(space, i+1)
	case c == '-' && after(1) == '-':
		if n := strings.IndexAny(sql[i:], "\n\r"); n >= 0 {
			return tok(space, i+n+1)
		}
		return tok(space, len(sql))
	case c == '/' && after(1) == '*':
		return tok(space, comment(sql, i))
	case c == ';':
		return tok(semicolon, i+1)
	case c == '\'':
		return quoted(sql, i, i, '\'', false, literal)
	case c == '"':
		return quoted(sql, i, i, '"', false, ident)
	case (c == 'e' || c == 'E') && after(1) == '\'':
		return quoted(sql, i, i+1, '\'', true, literal)
	case (c == 'b' || c == 'B' || c == 'x' || c == 'X' || c == 'n' || c == 'N') && after(1) == '\'':
		return quoted(sql, i, i+1, '\'', false, literal)
	case (c == 'u' || c == 'U') && after(1) == '&' && (after(2) == '\'' || after(2) == '"'):
		// Escapes in them would hide names and texts from us, and nobody needs them.
		return tok(open, len(sql))
	case c == '$':
		return dollar(sql, i)
	case c == ':' && after(1) == ':':
		return tok(punct, i+2)
	case c == ':' && after(1) == '=':
		return tok(punct, i+2)
	case c == ':' && letter(after(1)):
		end := i + 1
		for end < len(sql) && (letter(sql[end]) || digit(sql[end])) {
			end++
		}
		if end < len(sql) && idChar(sql[end]) { // :naïve, :a$b
			return tok(otherParam, end)
		}
		return tok(named, end)
	case digit(c) || c == '.' && digit(after(1)):
		end := i + 1
		for end < len(sql) && (idStart(sql[end]) || digit(sql[end]) || sql[end] == '.') {
			end++
		}
		return tok(literal, end)
	case idStart(c):
		end := i + 1
		for end < len(sql) && idChar(sql[end]) {
			end++
		}
		return tok(ident, end)
	}
	return tok(punct, i+1)
}

// comment returns the end of the comment at i. Comments nest in Postgres; one that is not closed
// reaches to the end.
func comment(sql string, i int) int {
	depth := 0
	for i < len(sql) {
		switch {
		case strings.HasPrefix(sql[i:], "/*"):
			depth++
			i += 2
		case strings.HasPrefix(sql[i:], "*/"):
			i += 2
			if depth--; depth == 0 {
				return i
			}
		default:
			i++
		}
	}
	return len(sql)
}

// quoted scans from the mark at q to its end; a doubled mark stands for itself, and with escapes
// what a backslash stands before.
func quoted(sql string, start, q int, mark byte, escapes bool, k kind) token {
	for j := q + 1; j < len(sql); j++ {
		switch {
		case escapes && sql[j] == '\\':
			j++
		case sql[j] != mark:
		case j+1 < len(sql) && sql[j+1] == mark:
			j++
		default:
			return token{kind: k, quoted: true, start: start, end: j + 1}
		}
	}
	return token{kind: open, start: start, end: len(sql)}
}

// dollar scans a text in dollar quotes, or a $1.
func dollar(sql string, i int) token {
	j := i + 1
	for j < len(sql) && (idStart(sql[j]) || j > i+1 && digit(sql[j])) {
		j++
	}
	if j >= len(sql) || sql[j] != '$' {
		return token{kind: otherParam, start: i, end: j}
	}
	tag := sql[i : j+1]
	n := strings.Index(sql[j+1:], tag)
	if n < 0 {
		return token{kind: open, start: i, end: len(sql)}
	}
	return token{kind: literal, quoted: true, start: i, end: j + 1 + n + len(tag)}
}

func digit(c byte) bool   { return '0' <= c && c <= '9' }
func letter(c byte) bool  { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' }
func idStart(c byte) bool { return letter(c) || c >= 0x80 }
func idChar(c byte) bool  { return idStart(c) || digit(c) || c == '$' }
