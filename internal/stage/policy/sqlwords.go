package policy

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// isWord reports whether w can stand for one word of SQL.
func isWord(w string) bool {
	if w == "" || w[0] >= '0' && w[0] <= '9' {
		return false
	}
	return !strings.ContainsFunc(w, func(r rune) bool { return !wordRune(r) })
}

func wordRune(r rune) bool {
	return r == '_' || r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsDigit(r))
}

// sqlHasWord reports whether sql holds one of the words (lower case) outside of string literals.
//
// It leaves a literal out only where every dialect agrees on where the literal ends. Where they
// differ (backslashes, dollar quotes, backticks, nested or executable comments, an unclosed
// literal) the whole text counts, so that the difference cannot hide a word. Words in comments and
// in quoted identifiers always count.
func sqlHasWord(sql string, words []string) bool {
	if spans, clear := literals(sql); clear {
		at := 0
		for _, s := range spans {
			if textHasWord(sql[at:s[0]], words) {
				return true
			}
			at = s[1]
		}
		return textHasWord(sql[at:], words)
	}
	return textHasWord(sql, words)
}

// literals returns where the string literals of sql stand, and false if the dialects differ on it.
func literals(sql string) (spans [][2]int, clear bool) {
	if strings.ContainsAny(sql, "\\`\x00") {
		return nil, false
	}
	for i := 0; i < len(sql); {
		switch c := sql[i]; {
		case c == '\'' || c == '"':
			end := strings.IndexByte(sql[i+1:], c)
			if end < 0 {
				return nil, false
			}
			end += i + 2
			// A doubled quote stands for one: the next round reads the rest as one more literal.
			if c == '\'' {
				spans = append(spans, [2]int{i, end})
			}
			i = end
		case c == '$' && (i+1 == len(sql) || sql[i+1] < '0' || sql[i+1] > '9'):
			return nil, false // a dollar quote of PostgreSQL
		case c == '[':
			// An identifier in SQLite, a subscript in PostgreSQL.
			end := strings.IndexByte(sql[i:], ']')
			if end < 0 || strings.ContainsAny(sql[i:i+end], "'\"") || strings.Contains(sql[i:i+end], "--") || strings.Contains(sql[i:i+end], "/*") {
				return nil, false
			}
			i += end + 1
		case c == '-' && strings.HasPrefix(sql[i:], "--"):
			// A carriage return ends a comment in PostgreSQL and not in SQLite.
			end := strings.IndexAny(sql[i:], "\r\n")
			if end < 0 {
				return spans, true
			}
			if sql[i+end] == '\r' && !strings.HasPrefix(sql[i+end:], "\r\n") {
				return nil, false
			}
			i += end + 1
		case c == '/' && strings.HasPrefix(sql[i:], "/*"):
			end := strings.Index(sql[i+2:], "*/")
			if end < 0 {
				return nil, false
			}
			inside := sql[i+2 : i+2+end]
			// PostgreSQL nests comments, SQLite does not; MySQL runs /*! … */.
			if strings.Contains(inside, "/*") || strings.HasSuffix(inside, "/") || strings.HasPrefix(inside, "!") {
				return nil, false
			}
			i += 2 + end + 2
		default:
			i++
		}
	}
	return spans, true
}

// textHasWord looks for whole words, in any case.
func textHasWord(s string, words []string) bool {
	for len(s) > 0 {
		start := strings.IndexFunc(s, wordRune)
		if start < 0 {
			return false
		}
		s = s[start:]
		end := strings.IndexFunc(s, func(r rune) bool { return !wordRune(r) })
		if end < 0 {
			end = len(s)
		}
		word := s[:end]
		s = s[end:]
		numeric := word[0] >= '0' && word[0] <= '9'
		for _, w := range words {
			if len(word) < len(w) {
				continue
			}
			if strings.EqualFold(word, w) {
				return true
			}
			// 1DROP is 1 and DROP to a lenient lexer.
			if numeric && strings.EqualFold(word[len(word)-len(w):], w) {
				return true
			}
		}
	}
	return false
}
