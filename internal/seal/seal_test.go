package seal_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas/internal/seal"
)

var key1, key2 = seal.Key{ID: "k1", Secret: bytes.Repeat([]byte{1}, 32)}, seal.Key{ID: "k2", Secret: bytes.Repeat([]byte{2}, 32)}

func ring(t testing.TB, purpose string, keys ...seal.Key) *seal.Ring {
	t.Helper()
	r, err := seal.New(purpose, keys...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWhatIsSealedOpensForItsBindingOnly(t *testing.T) {
	r := ring(t, "test", key1)
	rapid.Check(t, func(t *rapid.T) {
		plain, bound := rapid.SliceOf(rapid.Byte()).Draw(t, "plain"), rapid.SliceOf(rapid.Byte()).Draw(t, "bound")
		text := r.Seal(plain, bound)
		if len(text) != r.Len(len(plain)) {
			t.Fatalf("%d characters, Len says %d", len(text), r.Len(len(plain)))
		}
		got, err := r.Open(text, bound)
		if err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%x, %v", got, err)
		}
		if _, err := r.Open(text, append(bound, 0)); !errors.Is(err, seal.ErrSealed) {
			t.Fatalf("opened beside another binding: %v", err)
		}
		raw, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		raw[rapid.IntRange(0, len(raw)-1).Draw(t, "at")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := r.Open(base64.RawURLEncoding.EncodeToString(raw), bound); !errors.Is(err, seal.ErrSealed) {
			t.Fatalf("opened with a flipped bit: %v", err)
		}
	})
}

func TestKeysAndPurposes(t *testing.T) {
	old := ring(t, "test", key1)
	text := old.Seal([]byte("x"), nil)
	for name, c := range map[string]struct {
		ring  *seal.Ring
		opens bool
	}{
		"same keys":             {ring(t, "test", key1), true},
		"after a change":        {ring(t, "test", key2, key1), true},
		"key gone":              {ring(t, "test", key2), false},
		"another key of the id": {ring(t, "test", seal.Key{ID: "k1", Secret: key2.Secret}), false},
		"another purpose":       {ring(t, "test2", key1), false},
	} {
		if _, err := c.ring.Open(text, nil); (err == nil) != c.opens {
			t.Errorf("%s: %v", name, err)
		}
	}
	if one, two := old.Seal(nil, nil), old.Seal(nil, nil); one == two {
		t.Error("equal texts sealed alike")
	}
	for name, keys := range map[string][]seal.Key{
		"none": {}, "no id": {{Secret: key1.Secret}}, "long id": {{ID: string(make([]byte, 33)), Secret: key1.Secret}},
		"short": {{ID: "k", Secret: make([]byte, 31)}}, "twice": {key1, key1},
	} {
		if _, err := seal.New("test", keys...); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzOpen(f *testing.F) {
	r := ring(f, "test", key1)
	f.Add(r.Seal([]byte("state"), []byte("bound")))
	f.Add("")
	f.Add("AQI")
	f.Add("AQJrMQ")
	f.Fuzz(func(t *testing.T, text string) {
		// Sealed texts of the seeds are bound to something else, so nothing may open.
		if _, err := r.Open(text, []byte("other")); err == nil {
			t.Errorf("%q opened", text)
		}
	})
}
