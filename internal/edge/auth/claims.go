package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A path leads to a claim. It is written in one of three ways, and which one is meant never depends
// on the token:
//
//	/resource_access/my.client/roles   begins with "/": a JSON Pointer (RFC 6901), with ~1 for / and ~0 for ~
//	https://atlas.example/tenant       holds "://": the name of one claim, as it stands
//	realm_access.roles                 otherwise: names, one inside the other
type path []string

func parsePath(s string) (path, error) {
	switch {
	case s == "":
		return nil, errors.New("is empty")
	case len(s) > 256:
		return nil, errors.New("is longer than 256 bytes")
	case strings.HasPrefix(s, "/"):
		p := strings.Split(s[1:], "/")
		for i, name := range p {
			if rest := strings.NewReplacer("~0", "", "~1", "").Replace(name); strings.Contains(rest, "~") {
				return nil, errors.New("has a ~ that is neither ~0 nor ~1")
			}
			p[i] = strings.ReplaceAll(strings.ReplaceAll(name, "~1", "/"), "~0", "~")
		}
		return p, wellFormed(p)
	case strings.Contains(s, "://"):
		return path{s}, nil
	default:
		p := path(strings.Split(s, "."))
		return p, wellFormed(p)
	}
}

func wellFormed(p path) error {
	if len(p) > maxDepth || slices.Contains(p, "") {
		return errors.New("has an empty name, or too many")
	}
	return nil
}

func parsePaths(list []string) ([]path, error) {
	out := make([]path, len(list))
	for i, s := range list {
		var err error
		if out[i], err = parsePath(s); err != nil {
			return nil, fmt.Errorf("%q %w", s, err)
		}
	}
	return out, nil
}

// in returns the claim that the path leads to, or nil. It goes through objects only: an index into a
// list would choose one of several values that the issuer did not rank.
func (p path) in(claims map[string]any) any {
	var v any = claims
	for _, name := range p {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

// String returns the path as it may be written in the configuration.
func (p path) String() string {
	dotted := strings.Join(p, ".")
	if again, err := parsePath(dotted); err == nil && slices.Equal(again, p) {
		return dotted
	}
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	var b strings.Builder
	for _, name := range p {
		b.WriteByte('/')
		b.WriteString(escape.Replace(name))
	}
	return b.String()
}

// words reads a claim that is one string of words or an array of strings; all else is no words.
func words(claim any) []string {
	switch c := claim.(type) {
	case string:
		return strings.Fields(c)
	case []any:
		var out []string
		for _, e := range c {
			if s, ok := e.(string); ok && s != "" {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}

// one reads a claim that is one text. If lists are allowed, a list with exactly one text is that text.
func one(claim any, lists bool) string {
	switch c := claim.(type) {
	case string:
		return c
	case []any:
		if lists && len(c) == 1 {
			s, _ := c[0].(string)
			return s
		}
	}
	return ""
}

// numericDate reads seconds since 1970, fractions allowed (RFC 7519 section 2). present is false for a
// claim that is not there.
func numericDate(claim any) (at time.Time, present bool, err error) {
	if claim == nil {
		return time.Time{}, false, nil
	}
	n, ok := claim.(json.Number)
	if !ok {
		return time.Time{}, true, errors.New("is no number")
	}
	if i, err := strconv.ParseInt(n.String(), 10, 64); err == nil && i >= 0 && i <= maxSeconds {
		return time.Unix(i, 0), true, nil
	}
	f, err := n.Float64()
	if err != nil || math.IsNaN(f) || f < 0 || f > maxSeconds {
		return time.Time{}, true, errors.New("is no time")
	}
	whole, part := math.Modf(f)
	return time.Unix(int64(whole), int64(part*1e9)), true, nil
}

// maxSeconds is the end of the year 9999: later times overflow elsewhere.
const maxSeconds = 253402300799
