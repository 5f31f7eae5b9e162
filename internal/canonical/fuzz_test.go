package canonical_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gowebpki/jcs"
	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas/internal/canonical"
)

func ratOf(t *rapid.T, s string) *big.Rat {
	r, ok := new(big.Rat).SetString(s)
	if !ok {
		t.Fatalf("not a number: %s", s)
	}
	return r
}

// FuzzTransform holds our canonical form against another implementation's.
func FuzzTransform(f *testing.F) {
	for _, s := range []string{
		`{"b":1,"a":[true,false,null,"x\u00e9\ud83d\ude00\n"],"c":{"":0}}`, `[1e21,1e-7,0.1,-0,123456789012345678]`,
		`{"\ud83d\ude00":1,"\ufb33":2,"\ue000":3}`, `"\ud800"`, `{"a":1,"\u0061":2}`, "\"\xff\"", ` 1 `, `[[[[]]]]`, `1e400`, `{}x`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := canonical.Transform(raw)
		want, wantErr := jcs.Transform(raw)
		if e, ok := errors.AsType[*canonical.Error](err); ok && e.Kind == canonical.Depth {
			return // the other one allows ten times our depth
		}
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%q: ours %v, theirs %v", raw, err, wantErr)
		}
		if err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%q: ours %s, theirs %s", raw, got, want)
		}
	})
}

// FuzzParse checks what must hold of everything that Parse accepts.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.50,"x"],"b":{"c":null}}`, `9007199254740993`, `1E+2`, `"\/\u0000"`, `[-0.0e-0]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		v, canon, err := canonical.Parse(raw, 64)
		if err != nil {
			return
		}
		if !json.Valid(raw) || !json.Valid(canon) {
			t.Fatalf("%q is not JSON to encoding/json, or its form %q is not", raw, canon)
		}
		again, twice, err := canonical.Parse(canon, 64)
		if err != nil || !bytes.Equal(canon, twice) {
			t.Fatalf("the form %q of %q becomes %q, %v", canon, raw, twice, err)
		}
		if diff := cmp.Diff(v, again); diff != "" {
			t.Fatalf("%q and its form read differently\n%s", raw, diff)
		}
	})
}

// FuzzText holds the form without the value against the one beside it: equal bytes, and equal errors.
func FuzzText(f *testing.F) {
	for _, s := range []string{
		small, `{"a":1,"b":[2,{"d":3,"c":"x"}]}`, `{"b":{"z":1,"y":2},"a":"é😀"}`, ` [ ] `, `{"a":1,"a":2}`, `{"b":1,"a":2,"b":3}`, `"\n"`, `-0`, `01`, `-`,
		`123456789012345`, `1234567890123456`, `1.0`, `1e2`, "\"\xff\"", `{"\uFFFD":1,"😀":2}`, `truefalse`, `[1,]`, `{"a":}`, `{,}`, `[`, `{"a"`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		before := bytes.Clone(raw)
		got, err := canonical.Text(raw)
		_, want, wantErr := canonical.Parse(raw, 0)
		if fmt.Sprint(err) != fmt.Sprint(wantErr) {
			t.Fatalf("%q: %v, want %v", raw, err, wantErr)
		}
		if err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%q: %s, want %s", raw, got, want)
		}
		if !bytes.Equal(raw, before) {
			t.Fatalf("%q was changed to %q", before, raw)
		}
	})
}

// Plain objects, in any order and with blanks: what quick is for.
func TestTextOfPlainObjects(t *testing.T) {
	plain := rapid.Custom(func(t *rapid.T) any {
		return rapid.OneOf(
			rapid.Map(rapid.StringMatching(`[a-zé😀ﬀ ]{0,3}`), func(s string) any { return s }),
			rapid.Map(rapid.IntRange(-1000, 1000), func(n int) any { return n }),
			rapid.Map(rapid.Bool(), func(b bool) any { return b }),
		).Draw(t, "leaf")
	})
	key := rapid.StringMatching(`[a-c😀ﬀ]{0,2}`)
	object := rapid.MapOf(key, rapid.OneOf(plain, rapid.Map(rapid.MapOf(key, plain), func(m map[string]any) any { return m }),
		rapid.Map(rapid.SliceOfN(plain, 0, 3), func(l []any) any { return l })))
	rapid.Check(t, func(t *rapid.T) {
		m := object.Draw(t, "object")
		var raw bytes.Buffer // in an order of its own
		raw.WriteByte('{')
		for i, k := range rapid.Permutation(slices.Sorted(maps.Keys(m))).Draw(t, "order") {
			if i > 0 {
				raw.WriteString(" ,\n")
			}
			name, err := json.Marshal(k)
			if err != nil {
				t.Fatal(err)
			}
			value, err := json.MarshalIndent(m[k], "", " ")
			if err != nil {
				t.Fatal(err)
			}
			raw.Write(name)
			raw.WriteString(": ")
			raw.Write(value)
		}
		raw.WriteByte('}')
		got, err := canonical.Text(raw.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		want, err := jcs.Transform(raw.Bytes())
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: %s, want %s, %v", raw.Bytes(), got, want, err)
		}
	})
}

// Text that is canonical already is not copied.
func TestTextOfCanonicalTextIsTheSame(t *testing.T) {
	raw := []byte(`{"limit":20,"order_id":"o_9002"}`)
	got, err := canonical.Text(raw)
	if err != nil || &got[0] != &raw[0] {
		t.Errorf("%s, %v", got, err)
	}
}

const small = `{"order_id": "o_9002", "limit": 20, "include": ["items", "refunds"], "since": "2026-11-01T00:00:00Z"}`

func BenchmarkText(b *testing.B) {
	b.ReportAllocs()
	raw := []byte(small)
	for b.Loop() {
		if _, err := canonical.Text(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	b.ReportAllocs()
	raw := []byte(small)
	for b.Loop() {
		if _, _, err := canonical.Parse(raw, 32); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkOthers is the same work with the standard library and jcs.
func BenchmarkOthers(b *testing.B) {
	b.ReportAllocs()
	raw := []byte(small)
	for b.Loop() {
		dec := json.NewDecoder(bytes.NewReader(raw))
		dec.UseNumber()
		var v any
		if err := dec.Decode(&v); err != nil {
			b.Fatal(err)
		}
		if _, err := jcs.Transform(raw); err != nil {
			b.Fatal(err)
		}
	}
}
