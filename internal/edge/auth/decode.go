package auth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// maxToken bounds what is parsed before anything is known about a token, in bytes. Tokens with two
	// hundred groups have 11 KB.
	maxToken = 16 << 10
	maxDepth = 16 // of JSON in tokens and in answers of issuers
)

// base64url is the encoding of RFC 7515 section 2. Strict: a signature must have one spelling, or a
// token that is revoked by its text could be respelt.
var base64url = base64.RawURLEncoding.Strict()

// A jws is a JSON Web Signature in compact form (RFC 7515 section 7.1) whose parts are well-formed
// and about which nothing else is known.
type jws struct {
	header, claims map[string]any
	alg, typ, kid  string
	signed         string // what the signature is over
	signature      []byte
}

var errEncrypted = errors.New("it is encrypted (JWE)")

// parseJWS takes a token apart. A header or a payload with a duplicate name is refused (RFC 7515
// section 4, RFC 8725 section 2.4): two readers could take different values for the truth.
func parseJWS(token string) (*jws, error) {
	switch n := strings.Count(token, "."); n {
	case 2:
	case 4:
		return nil, errEncrypted
	default:
		return nil, fmt.Errorf("it has %d parts instead of 3", n+1)
	}
	last := strings.LastIndexByte(token, '.')
	head, payload, _ := strings.Cut(token[:last], ".")
	t := &jws{signed: token[:last]}
	var err error
	if t.header, err = decodePart(head); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if t.claims, err = decodePart(payload); err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	if t.signature, err = base64url.DecodeString(token[last+1:]); err != nil {
		return nil, errors.New("signature: is not base64url")
	}
	if len(t.signature) == 0 {
		return nil, errors.New("signature: is missing")
	}
	t.alg, _ = t.header["alg"].(string)
	t.kid, _ = t.header["kid"].(string)
	typ, _ := t.header["typ"].(string)
	// RFC 7515 section 4.1.9: the "application/" prefix may be left out; media types have no case.
	t.typ = strings.TrimPrefix(strings.ToLower(typ), "application/")
	return t, nil
}

func decodePart(part string) (map[string]any, error) {
	raw, err := base64url.DecodeString(part)
	if err != nil {
		return nil, errors.New("is not base64url")
	}
	return decodeObject(raw)
}

// verify checks the signature with the key. The algorithm must be one that is allowed here, and of
// the key's own kind: RFC 7518 section 3.4 binds ES256 to P-256, and so on.
func (t *jws) verify(key any) error {
	m := jwt.GetSigningMethod(t.alg)
	if m == nil {
		return errors.New("unknown algorithm")
	}
	if err := fits(m, key); err != nil {
		return err
	}
	return m.Verify(t.signed, t.signature, key)
}

// decodeObject decodes one JSON object, strictly: no duplicate names at any depth, no bytes that are
// not UTF-8, nothing behind it, and no more than maxDepth levels. Numbers are [json.Number].
func decodeObject(raw []byte) (map[string]any, error) {
	if !utf8.Valid(raw) {
		return nil, errors.New("is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	v, err := decodeValue(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("has something behind the JSON")
	}
	m, ok := v.(map[string]any)
	if !ok {
		return nil, errors.New("is no JSON object")
	}
	return m, nil
}

func decodeValue(dec *json.Decoder, depth int) (any, error) {
	tok, err := dec.Token()
	if err != nil {
		return nil, errors.New("is not JSON")
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return tok, nil
	}
	if depth == maxDepth {
		return nil, errors.New("is nested too deeply")
	}
	if delim == '[' {
		list := []any{}
		for dec.More() {
			v, err := decodeValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, closing(dec)
	}
	object := map[string]any{}
	for dec.More() {
		tok, err := dec.Token()
		name, ok := tok.(string)
		if err != nil || !ok {
			return nil, errors.New("is not JSON")
		}
		if _, twice := object[name]; twice {
			return nil, fmt.Errorf("has the name %.40q twice", name)
		}
		if object[name], err = decodeValue(dec, depth+1); err != nil {
			return nil, err
		}
	}
	return object, closing(dec)
}

func closing(dec *json.Decoder) error {
	if _, err := dec.Token(); err != nil {
		return errors.New("is not JSON")
	}
	return nil
}
