package canonical_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/big"
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

const small = `{"order_id": "o_9002", "limit": 20, "include": ["items", "refunds"], "since": "2026-11-01T00:00:00Z"}`

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
