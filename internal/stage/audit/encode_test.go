package audit_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gowebpki/jcs"
	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/audit"
)

// fill sets every field of the record, by reflection so that a field added later is not forgotten.
func fill(t *rapid.T, r *atlas.AuditRecord) {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{
		"", "\x00\x1f\"\\/<>&\u2028\u2029\b\t\n\f\r\x7f", "é𝄞", `,"hash":"`, "o_9002", "\u00e9\ufffd",
	}))
	v := reflect.ValueOf(r).Elem()
	for i := range v.NumField() {
		f, name := v.Field(i), v.Type().Field(i).Name
		switch f.Interface().(type) {
		case time.Time:
			f.Set(reflect.ValueOf(time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, name), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC()))
		case []string:
			f.Set(reflect.ValueOf(rapid.SliceOfN(text, 0, 3).Draw(t, name)))
		case bool:
			f.SetBool(rapid.Bool().Draw(t, name))
		case uint64:
			f.SetUint(rapid.Uint64Range(0, 1<<53).Draw(t, name)) // beyond, RFC 8785 cannot say integers
		case int, int64:
			f.SetInt(rapid.Int64Range(-1<<53, 1<<53).Draw(t, name))
		default:
			f.SetString(text.Draw(t, name))
		}
	}
}

// The hand-written encoder says what encoding/json and a general RFC 8785 canonicaliser say.
func TestCanonicalForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r atlas.AuditRecord
		fill(t, &r)
		if r.Hash == "" {
			r.Hash = "h" // the encoder leaves an empty hash out, which is how it is hashed
		}
		plain, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		want, err := jcs.Transform(plain)
		if err != nil {
			t.Fatal(err)
		}
		if got := audit.Canonical(&r); string(got) != string(want) {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
	})
}

func TestInvalidUTF8(t *testing.T) {
	r := atlas.AuditRecord{Tool: "a\xffb", Hash: "h"}
	var back atlas.AuditRecord
	if err := json.Unmarshal(audit.Canonical(&r), &back); err != nil || back.Tool != "a\ufffdb" {
		t.Errorf("%q, %v", back.Tool, err)
	}
	if strings.Contains(string(audit.Canonical(&r)), "\xff") {
		t.Error("the line is not valid UTF-8")
	}
}

// The line in the log is the canonical form of the whole record, and its hash is over the canonical
// form of the record without hash: anyone can check it with a general canonicaliser.
func TestLine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r, back atlas.AuditRecord
		fill(t, &r)
		line := audit.Line(&r, 7, strings.Repeat("ab", 32))
		if err := json.Unmarshal(line, &back); err != nil {
			t.Fatal(err)
		}
		if whole := audit.Canonical(&r); string(whole)+"\n" != string(line) {
			t.Fatalf("got  %s\nwant %s", line, whole)
		}
		var members map[string]any
		dec := json.NewDecoder(bytes.NewReader(line))
		dec.UseNumber()
		if err := dec.Decode(&members); err != nil {
			t.Fatal(err)
		}
		delete(members, "hash")
		rest, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		rest, err = jcs.Transform(rest)
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(rest); hex.EncodeToString(sum[:]) != back.Hash || back.Seq != 7 {
			t.Fatalf("hash %s of record %d does not fit %s", back.Hash, back.Seq, rest)
		}
	})
}
