package message

import (
	"encoding/json"
	"testing"
)

// goodInfo says what encoding/json says of the SDK's type.
func FuzzGoodInfo(f *testing.F) {
	for _, seed := range []string{
		`{}`, `[]`, `null`, `{"name":1}`, `{"NAME":1}`, `{"name":null}`, `{"de\u017fcription":1}`, `{"title":"x","version":[1]}`,
		`{"x":{"name":1}}`, `{"name":"a","version":"1","websiteUrl":7}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := scanner{b: raw}
		if len(raw) == 0 || raw[0] <= ' ' || s.value(true) != nil || s.i != len(raw) {
			return // never gets there
		}
		var info struct{ Name, Title, Version, Description string }
		if want := raw[0] == '{' && json.Unmarshal(raw, &info) == nil; goodInfo(raw) != want {
			t.Errorf("%s: want %v", raw, want)
		}
	})
}
