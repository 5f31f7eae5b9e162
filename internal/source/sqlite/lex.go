package sqlite

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
)

// A statement is a caller's SQL, taken apart as far as can be done without a parser. It is only the
// first wall: what a statement may do is decided by the guard, from SQLite's own parse.
type statement struct {
	text    string          // one statement, without what follows it
	params  []string        // names of its :parameters, sorted, each once
	words   []word          // identifiers and keywords
	defines map[string]bool // if it has a WITH: all names before an opening parenthesis or an AS
}

// A word is an identifier or a keyword, in lower case.
type word struct {
	name   string
	quoted bool
	call   bool // an opening parenthesis follows
	alias  bool // it names something anew: after AS, or straight after another identifier
}

// split finds the one statement in sql, which must be a SELECT (or VALUES), by the rules of
// SQLite's tokenizer. The error has the code invalid_query.
func split(sql string) (statement, error) {
	bad := func(hint string) (statement, error) {
		return statement{}, atlas.Errorf(atlas.CodeInvalidQuery, nil, hint)
	}
	// SQLite ends at a NUL, and takes a byte order mark for white space.
	if !utf8.ValidString(sql) || strings.ContainsAny(sql, "\x00\ufeff") {
		return bad("the query is not text")
	}
	var (
		st    statement
		prev  token
		end   = -1 // where the statement ends
		count int
	)
	for i := 0; i < len(sql); {
		tok := next(sql, i)
		i = tok.end
		switch tok.kind {
		case space:
			continue
		case semicolon:
			if end < 0 {
				end = tok.start
			}
			continue
		case open:
			return bad("a quote in the query is not closed")
		case otherParam:
			return bad("write parameters as :name")
		case param:
			name := sql[tok.start+1 : tok.end]
			// SQLite takes :a(') for one parameter, and would see the quote marks after it the
			// other way round than we do.
			if !validName(name) || tok.end < len(sql) && (sql[tok.end] == '(' || sql[tok.end] == ':') {
				return bad("write parameters as :name")
			}
			st.params = append(st.params, name)
		case ident, literal, punct:
		}
		if end >= 0 {
			return bad("only one statement is allowed")
		}
		if count++; count == 1 {
			switch strings.ToLower(sql[tok.start:tok.end]) {
			case "select", "with", "values":
			default:
				return bad("only SELECT is allowed")
			}
		}
		if n := len(st.words); n > 0 && tok.kind == punct && sql[tok.start] == '(' && prev.kind == ident {
			st.words[n-1].call = true
		}
		if tok.kind == ident {
			// SQLite compares the columns of such joins without asking the authorizer, so they would
			// tell what is in columns and tables that may not be read.
			if w := strings.ToLower(sql[tok.start:tok.end]); w == "using" || w == "natural" {
				return bad("write joins with ON; NATURAL and USING are not allowed")
			}
			st.words = append(st.words, newWord(sql, tok, prev, st.words))
		}
		prev = tok
	}
	if count == 0 {
		return bad("the query is empty")
	}
	if end < 0 {
		end = len(sql)
	}
	st.text = sql[:end]
	st.defines = defines(st.words)
	slices.Sort(st.params)
	st.params = slices.Compact(st.params)
	return st, nil
}

// defines returns the names that may be those of common table expressions: more rather than fewer.
func defines(words []word) map[string]bool {
	if !slices.ContainsFunc(words, func(w word) bool { return !w.quoted && w.name == "with" }) {
		return nil
	}
	out := map[string]bool{}
	for i, w := range words {
		if w.call || i+1 < len(words) && !words[i+1].quoted && words[i+1].name == "as" {
			out[w.name] = true
		}
	}
	return out
}

func newWord(sql string, tok, prev token, before []word) word {
	w := word{quoted: tok.quoted}
	if text := sql[tok.start:tok.end]; tok.quoted {
		w.name = strings.ToLower(text[1 : len(text)-1])
	} else {
		w.name = strings.ToLower(text)
	}
	if prev.kind == ident && len(before) > 0 {
		last := before[len(before)-1]
		w.alias = last.name == "as" && !last.quoted || last.quoted || !keywords[last.name]
	}
	return w
}

func validName(s string) bool {
	for i := range len(s) {
		c := s[i]
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

type kind uint8

const (
	space kind = iota // white space and comments
	ident
	literal
	param      // :name
	otherParam // ?1 @name $name
	semicolon
	punct
	open // a quote without an end
)

// A token is a piece of SQL from start to before end.
type token struct {
	kind       kind
	quoted     bool // an identifier in quotes
	start, end int
}

// next returns the token at i.
func next(sql string, i int) token {
	tok := func(k kind, end int) token { return token{kind: k, start: i, end: end} }
	c := sql[i]
	switch {
	case c == ' ' || '\t' <= c && c <= '\r':
		return tok(space, i+1)
	case c == '-' && strings.HasPrefix(sql[i:], "--"):
		if n := strings.IndexByte(sql[i:], '\n'); n >= 0 {
			return tok(space, i+n+1)
		}
		return tok(space, len(sql))
	case c == '/' && strings.HasPrefix(sql[i:], "/*") && len(sql) > i+2:
		if n := strings.Index(sql[i+2:], "*/"); n >= 0 {
			return tok(space, i+2+n+2)
		}
		return tok(space, len(sql))
	case c == ';':
		return tok(semicolon, i+1)
	case c == '\'':
		return quoted(sql, i, '\'', literal)
	case c == '"' || c == '`':
		return quoted(sql, i, c, ident)
	case c == '[':
		if n := strings.IndexByte(sql[i:], ']'); n >= 0 {
			return token{kind: ident, quoted: true, start: i, end: i + n + 1}
		}
		return tok(open, len(sql))
	case c == ':':
		return tok(param, idEnd(sql, i+1))
	case c == '?' || c == '@' || c == '$' || c == '#':
		return tok(otherParam, idEnd(sql, i+1))
	case (c == 'x' || c == 'X') && strings.HasPrefix(sql[i+1:], "'"):
		t := quoted(sql, i+1, '\'', literal)
		t.start = i
		return t
	case '0' <= c && c <= '9':
		return tok(literal, idEnd(sql, i+1))
	case idChar(c):
		return tok(ident, idEnd(sql, i+1))
	}
	return tok(punct, i+1)
}

// quoted scans to the end of a quote; a doubled quote mark stands for itself.
func quoted(sql string, i int, mark byte, k kind) token {
	for j := i + 1; j < len(sql); j++ {
		if sql[j] != mark {
			continue
		}
		if j+1 < len(sql) && sql[j+1] == mark {
			j++
			continue
		}
		return token{kind: k, quoted: true, start: i, end: j + 1}
	}
	return token{kind: open, start: i, end: len(sql)}
}

func idChar(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '$' || c >= 0x80
}

func idEnd(sql string, i int) int {
	for i < len(sql) && idChar(sql[i]) {
		i++
	}
	return i
}
