package isolation

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"regexp"
	"slices"
	"strings"
)

// Words of canaries. They are letters only, so that neither a tokenizer takes them apart nor a
// redactor takes them for a number of something.
const (
	markerTag  = "zqcanary"     // begins every marker; the side's letter follows
	commonWord = "zqcanarytext" // stands in every text of both tenants: what searches find them by
	markerTail = 20             // letters that nobody can guess
)

// A Key makes the markers of a proof. Nobody who does not have it can make one.
type Key []byte

// marker returns the word that marks one place of a side's data.
func (k Key) marker(side Side, place string) string {
	return markerTag + strings.ToLower(side.String()) + letters(k.mac("marker", side.String(), place), markerTail)
}

// numberOf returns the whole number that stands in the side's columns of numbers: small for A, and for B one
// that no sum of A's can be and that no date is. It is always the same, so that a proof over the network
// knows what another has planted.
func numberOf(side Side) int64 {
	n := int64(binary.BigEndian.Uint32(fixed.mac("number", side.String())))
	if side == A {
		return 1000 + n%8000
	}
	return 1_000_000_000 + n%500_000_000
}

func (k Key) mac(parts ...string) []byte {
	h := hmac.New(sha256.New, k)
	for _, p := range parts {
		var n [4]byte
		binary.BigEndian.PutUint32(n[:], uint32(len(p))) //nolint:gosec // a few bytes
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return h.Sum(nil)
}

// letters writes bytes as n letters from a to p, two for each byte.
func letters(b []byte, n int) string {
	out := make([]byte, 0, n)
	for _, c := range b {
		out = append(out, 'a'+c>>4, 'a'+c&15)
	}
	return string(out[:n])
}

// digits writes bytes as n digits, the first of them not 0.
func digits(b []byte, n int) string {
	out := make([]byte, n)
	for i := range out {
		out[i] = '0' + b[i]%10
	}
	out[0] = '7'
	return string(out)
}

var markerOf = [...]*regexp.Regexp{
	A: regexp.MustCompile(`(?i)` + markerTag + `a[a-p]{20}`),
	B: regexp.MustCompile(`(?i)` + markerTag + `b[a-p]{20}`),
}

// markers returns the different markers of a side in the text, in base64 of both alphabets and in hexadecimal
// too.
func markers(side Side, text string) []string {
	found := markerOf[side].FindAllString(text, -1)
	for _, word := range encoded.FindAllString(text, -1) {
		plain := strings.NewReplacer("-", "+", "_", "/").Replace(word)
		for skip := range 4 { // what stands before it without a break shifts it
			part := plain[skip:]
			part = part[:len(part)/4*4]
			if data, err := base64.StdEncoding.DecodeString(part); err == nil {
				found = append(found, markerOf[side].FindAllString(string(data), -1)...)
			}
		}
	}
	for _, word := range hexadecimal.FindAllString(text, -1) {
		for skip := range 2 {
			part := word[skip:]
			if data, err := hex.DecodeString(part[:len(part)/2*2]); err == nil {
				found = append(found, markerOf[side].FindAllString(string(data), -1)...)
			}
		}
	}
	for i, m := range found {
		found[i] = strings.ToLower(m)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

var (
	encoded     = regexp.MustCompile(`[A-Za-z0-9+/_-]{40,}`) // its padding holds nothing
	hexadecimal = regexp.MustCompile(`[0-9A-Fa-f]{58,}`)
)

// redact shows the beginning of a value of somebody else's.
func redact(s string) string {
	const shown = 12
	if r := []rune(s); len(r) > shown {
		return string(r[:shown]) + "…"
	}
	return s
}
