package fact

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Kinds of record that an id's form gives away. A record of another form has [Record].
const (
	Customer = "customer"
	Order    = "order"
	Ticket   = "ticket"
	Document = "document"
	Record   = "record"
)

// An ID is an identifier found in text.
type ID struct {
	Value string // canonical: upper case for PREFIX-1 forms, lower case for prefix_1 forms
	Kind  string // Customer, Order, Ticket, Document or Record
	Pos   int    // byte offset in the text
	End   int    // byte offset behind it
}

// The whole token must match: "CUST-1001" is one id, "customer" and "accounting" are none.
var idForms = []struct {
	kind  string
	form  *regexp.Regexp
	upper bool
}{
	{Customer, regexp.MustCompile(`^(?i)CUST-[0-9]{1,18}$`), true},
	{Order, regexp.MustCompile(`^(?i)o_[0-9]{1,18}$`), false},
	{Ticket, regexp.MustCompile(`^(?i)t_[0-9]{1,18}$`), false},
	{Document, regexp.MustCompile(`^(?i)doc_[a-z0-9_]{1,60}$`), false},
	{Record, regexp.MustCompile(`^[A-Z]{2,10}-[0-9]{2,18}$`), true},
	{Record, regexp.MustCompile(`^[a-z]{1,10}_[0-9]{1,18}$`), false},
}

// KindOfID returns the kind and the canonical form of an id, and whether s is one as a whole.
func KindOfID(s string) (kind, canonical string, ok bool) {
	for _, f := range idForms {
		if f.form.MatchString(s) {
			if f.upper {
				return f.kind, strings.ToUpper(s), true
			}
			return f.kind, strings.ToLower(s), true
		}
	}
	return "", "", false
}

// IDs returns the ids in text, in order, repeats included.
func IDs(text string) []ID {
	var out []ID
	for pos := 0; pos < len(text); {
		r, size := utf8.DecodeRuneInString(text[pos:])
		if !idRune(r) {
			pos += size
			continue
		}
		end := pos
		for end < len(text) {
			r, size := utf8.DecodeRuneInString(text[end:])
			if !idRune(r) && r != '-' {
				break
			}
			end += size
		}
		token := strings.TrimRight(text[pos:end], "-_")
		if kind, canonical, ok := KindOfID(token); ok {
			out = append(out, ID{Value: canonical, Kind: kind, Pos: pos, End: pos + len(token)})
		}
		pos = end
	}
	return out
}

func idRune(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }
