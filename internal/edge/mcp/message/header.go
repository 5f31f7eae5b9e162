package message

import (
	"encoding/base64"
	"errors"
	"math"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"github.com/atlas-mcp/atlas"
)

const headerAnnotation = "x-mcp-header"

// A ParamHeader is an argument that clients mirror in a header field, so that proxies can route by it
// without reading the body (SEP-2243).
type ParamHeader struct {
	Path []string // of keys, from the arguments down
	Name string   // of the header field, in its canonical form
}

// paramHeaders returns the annotations of a schema, sorted by field. It reports false if one of them
// is wrong: not on a string, an integer or a boolean, no token, or of a field that another names too.
func paramHeaders(schema map[string]any) (found []ParamHeader, ok bool) {
	ok = true
	var walk func(schema map[string]any, path []string)
	walk = func(schema map[string]any, path []string) {
		props, _ := schema["properties"].(map[string]any)
		for name, p := range props {
			prop, _ := p.(map[string]any)
			at := append(slices.Clone(path), name)
			if a, annotated := prop[headerAnnotation]; annotated {
				field, isText := a.(string)
				typ, _ := prop["type"].(string)
				if !isText || !isToken(field) || !slices.Contains([]string{"string", "integer", "boolean"}, typ) {
					ok = false
				}
				found = append(found, ParamHeader{at, textproto.CanonicalMIMEHeaderKey(headerParam + field)})
			}
			walk(prop, at)
		}
	}
	walk(schema, nil)
	slices.SortFunc(found, func(a, b ParamHeader) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(found); i++ {
		ok = ok && found[i-1].Name != found[i].Name
	}
	if !ok {
		return nil, false
	}
	return found, true
}

func dropHeaders(schema map[string]any) {
	props, _ := schema["properties"].(map[string]any)
	for _, p := range props {
		if prop, isObject := p.(map[string]any); isObject {
			delete(prop, headerAnnotation)
			dropHeaders(prop)
		}
	}
}

// isToken reports whether s can be a part of a field's name (RFC 9110 section 5.6.2).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return s != ""
}

// decodeHeader returns what a field's value means: base64 between =?base64? and ?=, for text that a
// field cannot hold, else itself.
func decodeHeader(v string) (string, bool) {
	encoded, ok := strings.CutPrefix(v, "=?base64?")
	if !ok {
		return v, true
	}
	if encoded, ok = strings.CutSuffix(encoded, "?="); !ok {
		return v, true
	}
	b, err := base64.StdEncoding.DecodeString(encoded)
	return string(b), err == nil
}

// one returns the value of a field that may be there once at most. Of two, a proxy may have gone by
// the other one than is read here.
func one(h http.Header, name string) (v string, ok bool) {
	switch vs := h[name]; len(vs) {
	case 0:
		return "", true
	case 1:
		return vs[0], true
	}
	return "", false
}

func mismatch(text string) *Error {
	return &Error{Code: CodeHeaderMismatch, Message: text, Status: http.StatusBadRequest}
}

// Revision returns the revision that the header names; empty if it names none.
func Revision(h http.Header) (string, *Error) {
	v, ok := one(h, HeaderVersion)
	if !ok {
		return "", mismatch("two MCP-Protocol-Version headers")
	}
	return v, nil
}

// CheckHeader reports what is wrong with the fields that repeat parts of a request of the newer era
// (SEP-2243): a field that is missing, is there twice or says something else than the body.
func (r *Request) CheckHeader(h http.Header) *Error {
	switch v, ok := one(h, HeaderMethod); {
	case !ok:
		return mismatch("two Mcp-Method headers")
	case v == "":
		return mismatch("the Mcp-Method header is required")
	case v != r.Method:
		return mismatch("the Mcp-Method header does not match the body")
	}
	target, ok := r.Target()
	if !ok {
		return nil
	}
	switch v, ok := one(h, HeaderName); {
	case !ok:
		return mismatch("two Mcp-Name headers")
	case v == "":
		return mismatch("the Mcp-Name header is required")
	default:
		if v, ok = decodeHeader(v); !ok || v != string(target) {
			return mismatch("the Mcp-Name header does not match the body")
		}
	}
	return nil
}

// Check reports what is wrong with a request that came over HTTP with the header, whose revision is
// that of [Revision]: required fields and _meta that are missing or say other things than the body
// (SEP-2243, SEP-2575), a revision that Atlas does not speak, and r.Fault.
func (r *Request) Check(h http.Header, revision string) *Error {
	if r.Method == MethodCall && r.Params == nil && r.Fault == nil {
		return errParams
	}
	body := r.Meta.Version
	if revision >= FirstModern || len(body) > 0 {
		switch {
		case revision == "":
			return mismatch("the MCP-Protocol-Version header is required")
		case len(body) == 0:
			return &Error{Code: CodeInvalidParams, Message: `_meta must hold "` + metaVersion + `"`, Status: http.StatusBadRequest}
		case revision != string(body):
			return mismatch("the MCP-Protocol-Version header does not match the body")
		}
	}
	if revision < FirstModern {
		if revision != "" && !Known(revision) {
			return UnsupportedVersion(revision)
		}
		return r.Fault
	}
	if err := r.CheckHeader(h); err != nil {
		return err
	}
	switch {
	case r.Fault != nil:
		return r.Fault
	case r.Meta.BadInfo:
		return invalidParams(`_meta "` + metaClient + `" is not valid`)
	case !r.Meta.HasCaps:
		return invalidParams(`_meta must hold "` + metaCapabilities + `"`)
	case !Known(revision):
		return UnsupportedVersion(revision)
	}
	return nil
}

// errParamHeader marks the failure of [CheckParamHeaders].
var errParamHeader = errors.New("a mirrored header does not match the body")

// CheckParamHeaders compares the fields that mirror arguments with the arguments. What it finds is a
// fault for the pipeline to refuse the call with, so that a tool that the caller may not see fails as
// one that does not exist, whatever the fields say.
func CheckParamHeaders(h http.Header, params []ParamHeader, args []byte) *atlas.Error {
	for _, p := range params {
		if fault := checkParamHeader(h, p, args); fault != "" {
			return &atlas.Error{Code: atlas.CodeInvalidArguments, Hint: "the " + p.Name + " header " + fault, Err: errParamHeader}
		}
	}
	return nil
}

func checkParamHeader(h http.Header, p ParamHeader, args []byte) (fault string) {
	field, ok := one(h, p.Name)
	if !ok {
		return "is there twice"
	}
	raw := lookUp(args, p.Path)
	if raw == nil || string(raw) == "null" {
		if field != "" {
			return "stands for an argument that is not there"
		}
		return ""
	}
	if field == "" {
		return "is required"
	}
	if field, ok = decodeHeader(field); !ok {
		return "is not valid base64"
	}
	switch {
	case raw[0] == '"':
		ok = string(unquote(raw)) == field
	case string(raw) == "true" || string(raw) == "false":
		ok = string(raw) == field
	default:
		ok = sameInteger(raw, field)
	}
	if !ok {
		return "does not match the body"
	}
	return ""
}

// sameInteger reports whether a JSON value and the text of a field are one integer that a 64-bit float
// holds exactly. The field's must be a number as JSON has it: a hexadecimal one, which Go would take as
// well, is text to a proxy.
func sameInteger(value []byte, field string) bool {
	s := scanner{b: []byte(field)}
	if c := s.next(); c != '-' && (c < '0' || c > '9') || s.number() != nil || s.i != len(field) {
		return false
	}
	x, errx := strconv.ParseFloat(string(value), 64)
	y, erry := strconv.ParseFloat(field, 64)
	return errx == nil && erry == nil && x == y && x == math.Trunc(x) && math.Abs(x) < 1<<53
}

// lookUp returns the value at the path of keys, or nil. Of a key that is there twice it takes the
// last; the validation stage refuses such arguments anyway.
func lookUp(raw []byte, path []string) []byte {
	for _, key := range path {
		s := scanner{b: raw}
		if s.next() != '{' {
			return nil
		}
		raw = nil
		err := s.members(false, func(k []byte) *Error {
			hit := string(k) == key
			v, err := s.raw(false)
			if hit {
				raw = v
			}
			return err
		})
		if err != nil {
			return nil
		}
	}
	return raw
}
