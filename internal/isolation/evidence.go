package isolation

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// A judge finds what is one side's in what the other side got.
type judge struct {
	seen   [2]*known
	public map[string]bool // ids that the tools' own descriptions name, as examples
}

// evidence returns what in the answer to one side is the other side's, in words that show no more of it
// than is needed to find it. Asked is all that the side has sent: what it said itself, it may hear again.
func (j *judge) evidence(to Side, asked string, a *Answer) []string {
	from := to.Other()
	var out []string
	for _, m := range markers(from, a.Text) {
		if !strings.Contains(strings.ToLower(asked), m) {
			out = append(out, "the marker "+redact(m)+" of "+from.String())
		}
	}
	text := a.Text
	for _, id := range j.seen[from].all() {
		if !strings.Contains(text, id) || j.public[id] && !j.seen[from].exact[id] || j.seen[to].knows(id) && !j.seen[from].exact[id] {
			continue
		}
		if !strings.Contains(asked, id) && whole(text, id) {
			out = append(out, "the id "+redact(id)+", which only "+from.String()+" has")
		}
	}
	if to == A {
		if n, ok := sumOfB(a.Structured); ok {
			out = append(out, fmt.Sprintf("the number %d, of which B's numbers are a part", n))
		}
	}
	return out
}

// whole reports whether the id stands in the text by itself, and not as a part of a longer one.
func whole(text, id string) bool {
	for rest := text; ; {
		i := strings.Index(rest, id)
		if i < 0 {
			return false
		}
		before, after := byte(' '), byte(' ')
		if i > 0 {
			before = rest[i-1]
		}
		if i+len(id) < len(rest) {
			after = rest[i+len(id)]
		}
		if !isWord(before) && !isWord(after) {
			return true
		}
		rest = rest[i+len(id):]
	}
}

func isWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

// maxRows is how many of a side's numbers a sum may hold and still be recognised.
const maxRows = 64

// sumOfB finds a number in the answer that is a sum with numbers of B in it.
func sumOfB(structured json.RawMessage) (int64, bool) {
	big, small := numberOf(B), numberOf(A)
	d := json.NewDecoder(bytes.NewReader(structured))
	d.UseNumber()
	for {
		token, err := d.Token()
		if err != nil {
			return 0, false
		}
		text, ok := token.(json.Number)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(text.String(), 10, 64)
		if err != nil {
			f, ferr := text.Float64()
			if ferr != nil || f != float64(int64(f)) {
				continue
			}
			n = int64(f)
		}
		if k := n / big; k >= 1 && k <= maxRows {
			if rest := n % big; rest%small == 0 && rest/small <= maxRows {
				return n, true
			}
		}
	}
}
