package guard_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/seal"
	"github.com/atlas-mcp/atlas/internal/stage/guard"
)

var key1, key2 = seal.Key{ID: "k1", Secret: bytes.Repeat([]byte{1}, 32)}, seal.Key{ID: "k2", Secret: bytes.Repeat([]byte{2}, 32)}

func newGuard(t testing.TB, cfg guard.Config, keys ...seal.Key) *guard.Guard {
	t.Helper()
	if keys == nil {
		keys = []seal.Key{key1}
	}
	g, err := guard.New(cfg, keys)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// answers is a tool that always gives the same answer.
func answers(structured string) atlas.Handler {
	return func(context.Context, atlas.Call) (atlas.Result, error) {
		return atlas.Result{Structured: json.RawMessage(structured), Notes: atlas.Notes{Cache: "hit"}}, nil
	}
}

func fails(err error) atlas.Handler {
	return func(context.Context, atlas.Call) (atlas.Result, error) {
		return atlas.Result{Structured: json.RawMessage(`{"half":"done"}`), Notes: atlas.Notes{Attempts: 3}}, err
	}
}

// newCall is a call by ann of acme.
func newCall(args string) atlas.Call {
	return atlas.Call{
		Op: atlas.OpCall, Name: "crm_query", Tenant: "acme", Args: atlas.Args{Raw: json.RawMessage(args)},
		Principal: &atlas.Principal{Tenant: "acme", Subject: "ann"},
		Tool:      &atlas.Tool{Name: "crm_query", Version: "v1", Items: "rows", Reads: atlas.ReadsPrivate},
	}
}

// rows returns an answer of n rows, numbered from 0.
func rows(n int) string {
	var b strings.Builder
	b.WriteString(`{"columns":["id","note"],"rows":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":%d,"note":"a [b] {c}, \"d\""}`, i)
	}
	b.WriteString(`],"took":3}`)
	return b.String()
}

type answer struct {
	Columns    []string `json:"columns"`
	Rows       []row    `json:"rows"`
	Took       int      `json:"took"`
	Truncated  bool     `json:"truncated"`
	NextCursor string   `json:"next_cursor"`
}

type row struct {
	ID   int    `json:"id"`
	Note string `json:"note"`
}

func decode(t testing.TB, res atlas.Result) answer {
	t.Helper()
	var a answer
	if err := json.Unmarshal(res.Structured, &a); err != nil {
		t.Fatalf("%s: %v", res.Structured, err)
	}
	return a
}

func withCursor(args, cursor string) string {
	sep := ","
	if args == "{}" {
		sep = ""
	}
	return strings.TrimSuffix(args, "}") + sep + `"cursor":"` + cursor + `"}`
}

func TestAnswersUnderTheLimitsAreUntouched(t *testing.T) {
	for _, s := range []string{rows(50), rows(0), `{}`, ` { "rows" : [ ] } `, `{"rows":null}`, `{"rows":{"a":[1]}}`, `[1,2]`, `{"x":` + strings.Repeat(" ", 100) + `1}`} {
		res, err := newGuard(t, guard.Config{}).Stage(answers(s))(t.Context(), newCall(`{}`))
		if err != nil || string(res.Structured) != s || res.Truncated || res.NextCursor != "" || res.Notes.Cache != "hit" {
			t.Errorf("%s became %s, %+v, %v", s, res.Structured, res, err)
		}
	}
}

func TestLongAnswersArePagedByWholeItems(t *testing.T) {
	tests := []struct {
		name  string
		cfg   guard.Config
		n     int
		pages []int
	}{
		{"items", guard.Config{MaxItems: 20}, 45, []int{20, 20, 5}},
		{"exactly", guard.Config{MaxItems: 20}, 40, []int{20, 20}},
		{"default items", guard.Config{}, 51, []int{50, 1}},
		{"bytes", guard.Config{MaxBytes: 1024}, 40, nil},
		{"tokens", guard.Config{MaxTokens: 512}, 60, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := newGuard(t, tt.cfg)
			inner := 0
			h := g.Stage(func(_ context.Context, c atlas.Call) (atlas.Result, error) {
				inner++
				if string(c.Args.Raw) != `{"limit":100}` {
					t.Errorf("the inner stages see %s", c.Args.Raw)
				}
				return atlas.Result{Structured: json.RawMessage(rows(tt.n))}, nil
			})
			args := `{"limit":100}`
			next, seen := 0, []int{}
			for {
				res, err := h(t.Context(), newCall(args))
				if err != nil {
					t.Fatal(err)
				}
				a := decode(t, res)
				if diff := cmp.Diff([]string{"id", "note"}, a.Columns); diff != "" || a.Took != 3 {
					t.Errorf("the rest of the answer changed: %s", res.Structured)
				}
				for _, r := range a.Rows {
					if r != (row{next, `a [b] {c}, "d"`}) {
						t.Fatalf("row %d is %+v", next, r)
					}
					next++
				}
				seen = append(seen, len(a.Rows))
				if a.NextCursor != res.NextCursor || a.Truncated != res.Truncated || (a.NextCursor != "") != a.Truncated {
					t.Errorf("answer says %t %q, result %t %q", a.Truncated, a.NextCursor, res.Truncated, res.NextCursor)
				}
				if tt.cfg.MaxBytes > 0 && len(res.Structured) > tt.cfg.MaxBytes {
					t.Errorf("page of %d bytes", len(res.Structured))
				}
				if tt.cfg.MaxTokens > 0 && guard.EstimateTokens(res.Structured) > tt.cfg.MaxTokens {
					t.Errorf("page of %d tokens", guard.EstimateTokens(res.Structured))
				}
				if res.NextCursor == "" {
					break
				}
				args = withCursor(`{"limit":100}`, res.NextCursor)
			}
			if next != tt.n {
				t.Errorf("%d rows on pages %v, want %d", next, seen, tt.n)
			}
			if len(seen) < 2 || tt.pages != nil && !cmp.Equal(seen, tt.pages) {
				t.Errorf("pages %v, want %v", seen, tt.pages)
			}
			if inner != len(seen) {
				t.Errorf("%d pages, %d calls inside", len(seen), inner)
			}
		})
	}
}

// Every row comes on exactly one page, in order, whatever the limits and the rows are.
func TestPagesTogetherAreTheAnswer(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cfg := guard.Config{
			MaxItems:  rapid.IntRange(1, 30).Draw(rt, "items"),
			MaxBytes:  rapid.IntRange(1024, 4000).Draw(rt, "bytes"),
			MaxTokens: rapid.IntRange(512, 2000).Draw(rt, "tokens"),
		}
		list := rapid.SliceOfN(rapid.StringMatching(`[a-z\\"{}\[\], é日]{0,40}`), 0, 200).Draw(rt, "rows")
		raw, err := json.Marshal(map[string]any{"rows": list, "a": "[]", "z": map[string]any{"rows": []int{1}}})
		if err != nil {
			rt.Fatal(err)
		}
		h := newGuard(t, cfg).Stage(answers(string(raw)))
		var got []string
		for args := "{}"; ; {
			res, err := h(t.Context(), newCall(args))
			if err != nil {
				rt.Fatal(err)
			}
			var page struct {
				Rows []string `json:"rows"`
			}
			if err := json.Unmarshal(res.Structured, &page); err != nil {
				rt.Fatalf("%s: %v", res.Structured, err)
			}
			if len(page.Rows) > cfg.MaxItems || len(res.Structured) > cfg.MaxBytes || guard.EstimateTokens(res.Structured) > cfg.MaxTokens {
				rt.Fatalf("page of %d rows, %d bytes, %d tokens is over %+v", len(page.Rows), len(res.Structured), guard.EstimateTokens(res.Structured), cfg)
			}
			got = append(got, page.Rows...)
			if res.NextCursor == "" {
				break
			}
			args = withCursor("{}", res.NextCursor)
		}
		if len(got) != len(list) || len(got) > 0 && !cmp.Equal(got, list) {
			rt.Fatalf("pages gave %q, want %q", got, list)
		}
	})
}

func TestTruncatedBySourceStaysTruncated(t *testing.T) {
	inner := `{"rows":[1,2,3],"truncated":true,"next_cursor":"theirs"}`
	h := newGuard(t, guard.Config{MaxItems: 2}).Stage(answers(inner))
	first, err := h(t.Context(), newCall(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	last, err := h(t.Context(), newCall(withCursor(`{}`, first.NextCursor)))
	if want := `{"rows":[3],"truncated":true}`; err != nil || string(last.Structured) != want || last.NextCursor != "" {
		t.Errorf("got %s, %v, want %s", last.Structured, err, want)
	}
}

func TestWhatCannotBePaged(t *testing.T) {
	big := strings.Repeat("x ", 2000)
	tests := []struct {
		name, answer, items string
		cfg                 guard.Config
		limit               string
	}{
		{"no items", `{"text":"` + big + `"}`, "", guard.Config{MaxBytes: 1024}, "bytes"},
		{"no items, tokens", `{"text":"` + big + `"}`, "", guard.Config{MaxTokens: 512}, "tokens"},
		{"items missing", `{"text":"` + big + `"}`, "rows", guard.Config{MaxBytes: 1024}, "bytes"},
		{"items are no list", `{"rows":{"text":"` + big + `"}}`, "rows", guard.Config{MaxBytes: 1024}, "bytes"},
		{"one item too large", `{"rows":["` + big + `","x"]}`, "rows", guard.Config{MaxBytes: 1024}, "bytes"},
		{"one item too large, tokens", `{"rows":["` + big + `"]}`, "rows", guard.Config{MaxTokens: 512}, "tokens"},
		{"the rest too large", `{"text":"` + big + `","rows":[]}`, "rows", guard.Config{MaxBytes: 1024}, "bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			call := newCall(`{}`)
			call.Tool.Items = tt.items
			res, err := newGuard(t, tt.cfg).Stage(answers(tt.answer))(t.Context(), call)
			e := atlas.ErrorOf(err)
			if e == nil || e.Code != atlas.CodeTooLarge || e.Hint == "" || e.Context["limit"] != tt.limit {
				t.Errorf("got %v", err)
			}
			if res.Structured != nil || res.Notes.Cache != "hit" {
				t.Errorf("result beside the error: %+v", res)
			}
		})
	}
}

func TestAnswersThatAreNotJSON(t *testing.T) {
	long := strings.Repeat("1,", 100)
	for _, s := range []string{`{"rows":"unclosed`, `{"rows":[` + long + `]`, `{"rows":[` + long + `}`, `{"rows":[` + long + `1]}x`, `{"rows":[` + long + `[}]]}`, `{"rows":[` + long + `1 2]}`, `{` + long, `{"a" ` + long, `{"rows":[` + long + `]}`} {
		_, err := newGuard(t, guard.Config{}).Stage(answers(s))(t.Context(), newCall(`{}`))
		if atlas.CodeOf(err) != atlas.CodeInternal {
			t.Errorf("%s: got %v, want internal_error", s, err)
		}
	}
}

func TestCursorIsBoundToItsCall(t *testing.T) {
	g := newGuard(t, guard.Config{MaxItems: 2})
	h := g.Stage(answers(rows(9)))
	first, err := h(t.Context(), newCall(`{"q":"x","n":1}`))
	if err != nil {
		t.Fatal(err)
	}
	c := first.NextCursor
	good := newCall(withCursor(`{ "n" : 1.0, "q":"\u0078" }`, c)) // the same arguments
	if res, err := h(t.Context(), good); err != nil || decode(t, res).Rows[0].ID != 2 {
		t.Fatalf("the owner's own cursor: %v", err)
	}
	with := func(change func(*atlas.Call)) atlas.Call {
		call := newCall(withCursor(`{"q":"x","n":1}`, c))
		change(&call)
		return call
	}
	raw := func(s string) func(*atlas.Call) {
		return func(call *atlas.Call) { call.Args.Raw = json.RawMessage(s) }
	}
	bad := map[string]atlas.Call{
		"another tenant":         with(func(c *atlas.Call) { c.Tenant, c.Principal.Tenant = "globex", "globex" }),
		"another tenant's guest": with(func(c *atlas.Call) { c.Principal.Tenant = "globex" }),
		"guest in another":       with(func(c *atlas.Call) { c.Tenant = "globex" }),
		"another subject":        with(func(c *atlas.Call) { c.Principal.Subject = "bob" }),
		"another actor":          with(func(c *atlas.Call) { c.Principal.Delegator = "agent" }),
		"another tool":           with(func(c *atlas.Call) { c.Tool.Name = "crm_other" }),
		"another version":        with(func(c *atlas.Call) { c.Tool.Version = "v2" }),
		"names run together":     with(func(c *atlas.Call) { c.Principal.Subject, c.Tool.Name = "annc", "rm_query" }),
		"other arguments":        with(raw(withCursor(`{"q":"y","n":1}`, c))),
		"fewer arguments":        with(raw(withCursor(`{"q":"x"}`, c))),
		"more arguments":         with(raw(withCursor(`{"q":"x","n":1,"m":2}`, c))),
		"cut":                    with(raw(withCursor(`{"q":"x","n":1}`, c[:len(c)-1]))),
		"longer":                 with(raw(withCursor(`{"q":"x","n":1}`, c+"A"))),
		"padded":                 with(raw(withCursor(`{"q":"x","n":1}`, c+"="))),
		"not base64":             with(raw(withCursor(`{"q":"x","n":1}`, "%%%"))),
		"short":                  with(raw(withCursor(`{"q":"x","n":1}`, "AQ"))),
		"long key id":            with(raw(withCursor(`{"q":"x","n":1}`, "Af8"))),
		"huge":                   with(raw(withCursor(`{"q":"x","n":1}`, strings.Repeat("A", 10_000)))),
		"number":                 with(raw(`{"q":"x","n":1,"cursor":2}`)),
		"object":                 with(raw(`{"q":"x","n":1,"cursor":{"offset":2}}`)),
	}
	for i := range c { // each character changed
		other := byte('A')
		if c[i] == 'A' {
			other = 'B'
		}
		bad[fmt.Sprint("character ", i)] = with(raw(withCursor(`{"q":"x","n":1}`, c[:i]+string(other)+c[i+1:])))
	}
	var want []byte
	for name, call := range bad {
		reached := false
		h := g.Stage(func(context.Context, atlas.Call) (atlas.Result, error) {
			reached = true
			return atlas.Result{}, nil
		})
		_, err := h(t.Context(), call)
		if atlas.CodeOf(err) != atlas.CodeInvalidCursor || reached {
			t.Errorf("%s: got %v, inner stages reached: %t", name, err, reached)
			continue
		}
		// One and the same failure, so that nobody learns which cursors exist.
		got, jsonErr := json.Marshal(atlas.ErrorOf(err).Failure("r"))
		if want == nil {
			want = got
		}
		if jsonErr != nil || !bytes.Equal(got, want) || err.Error() != string(atlas.CodeInvalidCursor) {
			t.Errorf("%s: %s differs from %s (%v)", name, got, want, err)
		}
	}
}

func TestCursorHidesItsContent(t *testing.T) {
	h := newGuard(t, guard.Config{MaxItems: 2}).Stage(answers(rows(9)))
	seen := map[string]bool{}
	for range 20 {
		res, err := h(t.Context(), newCall(`{}`))
		if err != nil || seen[res.NextCursor] {
			t.Fatalf("%v, or a cursor was given twice", err)
		}
		seen[res.NextCursor] = true
	}
}

func TestCursorExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newGuard(t, guard.Config{MaxItems: 2, CursorTTL: time.Minute}).Stage(answers(rows(9)))
		first, err := h(t.Context(), newCall(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		call := newCall(withCursor(`{}`, first.NextCursor))
		time.Sleep(time.Minute - time.Millisecond)
		if _, err := h(t.Context(), call); err != nil {
			t.Errorf("just before its end: %v", err)
		}
		time.Sleep(time.Millisecond)
		if _, err := h(t.Context(), call); atlas.CodeOf(err) != atlas.CodeInvalidCursor {
			t.Errorf("at its end: %v", err)
		}
	})
}

func TestKeysCanBeChanged(t *testing.T) {
	cfg := guard.Config{MaxItems: 2}
	first, err := newGuard(t, cfg, key1).Stage(answers(rows(9)))(t.Context(), newCall(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	call := newCall(withCursor(`{}`, first.NextCursor))
	for name, keys := range map[string][]seal.Key{"after a restart": {key1}, "after a change": {key2, key1}} {
		if _, err := newGuard(t, cfg, keys...).Stage(answers(rows(9)))(t.Context(), call); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	impostor := seal.Key{ID: "k1", Secret: key2.Secret}
	for name, keys := range map[string][]seal.Key{"key gone": {key2}, "other key of that name": {impostor}} {
		if _, err := newGuard(t, cfg, keys...).Stage(answers(rows(9)))(t.Context(), call); atlas.CodeOf(err) != atlas.CodeInvalidCursor {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, keys := range map[string][]seal.Key{
		"none": {}, "no id": {{Secret: key1.Secret}}, "long id": {{ID: strings.Repeat("x", 33), Secret: key1.Secret}},
		"short secret": {{ID: "k", Secret: make([]byte, 31)}}, "twice": {key1, key1},
	} {
		if _, err := guard.New(cfg, keys); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestWhatHappensToTheCursorArgument(t *testing.T) {
	tests := []struct{ name, raw, items, want string }{
		{"none", `{"a":1}`, "rows", `{"a":1}`},
		{"null", `{"a":1,"cursor":null}`, "rows", `{"a":1}`},
		{"empty", `{"cursor":"","a":1}`, "rows", `{"a":1}`},
		{"deeper", `{"a":{"cursor":"x"}}`, "rows", `{"a":{"cursor":"x"}}`},
		{"tool without items", `{"cursor":"x"}`, "", `{"cursor":"x"}`},
		{"not JSON", `{"cursor":"x"`, "rows", `{"cursor":"x"`},
		{"not an object", `["cursor"]`, "rows", `["cursor"]`},
		{"twice", `{"cursor":"x","cursor":"y"}`, "rows", `{"cursor":"x","cursor":"y"}`},
		{"huge", `{"cursor":"` + strings.Repeat("x", 2<<20) + `"}`, "rows", `{"cursor":"` + strings.Repeat("x", 2<<20) + `"}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			call := newCall(tt.raw)
			call.Tool.Items = tt.items
			got := ""
			_, err := newGuard(t, guard.Config{}).Stage(func(_ context.Context, c atlas.Call) (atlas.Result, error) {
				got = string(c.Args.Raw)
				return atlas.Result{Structured: json.RawMessage(`{}`)}, nil
			})(t.Context(), call)
			if err != nil || got != tt.want {
				t.Errorf("inner stages see %.80s, %v", got, err)
			}
		})
	}
}

func TestOffsetBehindTheEndGivesAnEmptyPage(t *testing.T) {
	g := newGuard(t, guard.Config{MaxItems: 5})
	first, err := g.Stage(answers(rows(9)))(t.Context(), newCall(`{}`))
	if err != nil {
		t.Fatal(err)
	}
	call := newCall(withCursor(`{}`, first.NextCursor))
	res, err := g.Stage(answers(rows(3)))(t.Context(), call) // rows went in the meantime
	if want := `{"columns":["id","note"],"took":3,"rows":[]}`; err != nil || string(res.Structured) != want {
		t.Errorf("got %s, %v, want %s", res.Structured, err, want)
	}
}

func TestPagesAreRedacted(t *testing.T) {
	secret := "ghp_" + letters36
	var list []string
	for range 30 {
		list = append(list, secret)
	}
	raw, err := json.Marshal(map[string]any{"rows": list, "note": secret})
	if err != nil {
		t.Fatal(err)
	}
	res, err := newGuard(t, guard.Config{MaxItems: 10}).Stage(answers(string(raw)))(t.Context(), newCall(`{}`))
	if err != nil || strings.Contains(string(res.Structured), secret) || res.Notes.Redacted != 11 {
		t.Errorf("%d redacted in %s, %v; want 10 rows and a note", res.Notes.Redacted, res.Structured, err)
	}
	// What stands for a value may be longer than it, and push an answer over its limit.
	list = list[:0]
	for range 40 {
		list = append(list, "4111111111111111 ")
	}
	if raw, err = json.Marshal(map[string]any{"rows": list}); err != nil {
		t.Fatal(err)
	}
	cfg := guard.Config{MaxBytes: max(1024, len(raw))}
	res, err = newGuard(t, cfg).Stage(answers(string(raw)))(t.Context(), newCall(`{}`))
	if err != nil || len(res.Structured) > cfg.MaxBytes || !res.Truncated || strings.Contains(string(res.Structured), "4111") {
		t.Errorf("%d bytes, truncated %t, %v", len(res.Structured), res.Truncated, err)
	}
}

func TestChildCallsAreRedactedAndNotPaged(t *testing.T) {
	call := newCall(`{"cursor":"x"}`)
	call.Parent = &atlas.Parent{ID: "p", Depth: 1}
	raw := strings.Replace(rows(500), `"took":3`, `"token":"ghp_`+letters36+`"`, 1)
	res, err := newGuard(t, guard.Config{}).Stage(answers(raw))(t.Context(), call)
	if err != nil || res.Truncated || len(decode(t, res).Rows) != 500 || strings.Contains(string(res.Structured), letters36) {
		t.Errorf("got %d bytes, truncated %t, %v", len(res.Structured), res.Truncated, err)
	}
}

func TestErrorsAreGuarded(t *testing.T) {
	secret := "ghp_" + letters36
	cause := errors.New("dial postgres://app:pa55word@db.internal")
	shared := &atlas.Error{
		Code: atlas.CodeSourceError, Hint: "use " + secret + "\u202e and 4111111111111111", Err: cause, RetryAfter: time.Second,
		Context: map[string]any{
			"token": secret, "limit": 5, "list": []string{"ok", secret}, "deep": map[string]any{"x": []any{secret, 1}},
			"struct": struct {
				Path string `json:"path"`
			}{"/a"}, "odd": make(chan int),
		},
	}
	res, err := newGuard(t, guard.Config{}).Stage(fails(fmt.Errorf("query: %w", shared)))(t.Context(), newCall(`{}`))
	e, ok := err.(*atlas.Error) //nolint:errorlint // the type itself is promised
	if !ok || e.Code != atlas.CodeSourceError || e.RetryAfter != time.Second || !errors.Is(err, cause) {
		t.Fatalf("got %v", err)
	}
	if want := "use [redacted:GITHUB_TOKEN] and [redacted:CREDIT_CARD]"; e.Hint != want {
		t.Errorf("hint %q, want %q", e.Hint, want)
	}
	shown, jsonErr := json.Marshal(e.Failure("r"))
	if jsonErr != nil || bytes.Contains(shown, []byte(letters36)) || !bytes.Contains(shown, []byte(`"limit":5`)) || !bytes.Contains(shown, []byte(`"path":"/a"`)) || bytes.Contains(shown, []byte("pa55word")) {
		t.Errorf("failure %s, %v", shown, jsonErr)
	}
	if res.Structured != nil || res.Notes.Attempts != 3 {
		t.Errorf("result beside the error: %+v", res)
	}
	if shared.Context["token"] != secret || !strings.Contains(shared.Hint, secret) {
		t.Error("the shared error was changed")
	}
}

func TestEveryErrorBecomesAnAtlasError(t *testing.T) {
	list := newCall(`{}`)
	list.Op, list.Tool = atlas.OpList, nil
	for _, call := range []atlas.Call{newCall(`{}`), list} {
		for want, err := range map[atlas.Code]error{
			atlas.CodeInternal: io.ErrUnexpectedEOF, atlas.CodeCanceled: fmt.Errorf("x: %w", context.Canceled), atlas.CodeTimeout: context.DeadlineExceeded,
		} {
			_, got := newGuard(t, guard.Config{}).Stage(fails(err))(t.Context(), call)
			if e, ok := got.(*atlas.Error); !ok || e.Code != want || !errors.Is(got, err) { //nolint:errorlint // as above
				t.Errorf("%v: got %#v, want %s", err, got, want)
			}
		}
	}
}

func TestHintsAreCutToThreeHundredCharacters(t *testing.T) {
	for _, hint := range []string{strings.Repeat("é", 301), strings.Repeat("word ", 100), strings.Repeat("x", 290) + " ghp_" + letters36} {
		_, err := newGuard(t, guard.Config{}).Stage(fails(atlas.Errorf(atlas.CodeSourceError, nil, hint)))(t.Context(), newCall(`{}`))
		got := atlas.ErrorOf(err).Hint
		if n := len([]rune(got)); n > 300 || n < 250 || !strings.HasSuffix(got, "…") || strings.Contains(got, "ghp_") {
			t.Errorf("hint of %d characters: %s", n, got)
		}
	}
	short := strings.Repeat("é", 300)
	_, err := newGuard(t, guard.Config{}).Stage(fails(atlas.Errorf(atlas.CodeSourceError, nil, short)))(t.Context(), newCall(`{}`))
	if got := atlas.ErrorOf(err).Hint; got != short {
		t.Errorf("a hint of 300 characters became %q", got)
	}
}

func TestListsPass(t *testing.T) {
	call := newCall(`{}`)
	call.Op, call.Tool = atlas.OpList, nil
	tools := []*atlas.Tool{{Name: "a"}}
	res, err := newGuard(t, guard.Config{}).Stage(func(context.Context, atlas.Call) (atlas.Result, error) { return atlas.Result{Tools: tools}, nil })(t.Context(), call)
	if err != nil || len(res.Tools) != 1 {
		t.Errorf("got %v, %v", res.Tools, err)
	}
	call.Op = atlas.OpCall
	if _, err := newGuard(t, guard.Config{}).Stage(answers(`{}`))(t.Context(), call); atlas.CodeOf(err) != atlas.CodeInternal {
		t.Errorf("a call without a tool: %v", err)
	}
}

func TestConfigTellsAllMistakes(t *testing.T) {
	err := guard.Config{MaxItems: -1, MaxBytes: 10, MaxTokens: 10, CursorTTL: -1, PII: []string{"SHOE_SIZE", "US_SSN", "US_SSN"}}.Validate()
	for _, want := range []string{"max_items", "max_bytes", "max_tokens", "cursor_ttl", `"SHOE_SIZE"`, "US_SSN is named twice"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	if err := (guard.Config{}).Validate(); err != nil {
		t.Errorf("the zero Config: %v", err)
	}
	if _, err := guard.New(guard.Config{MaxItems: -1}, []seal.Key{key1}); err == nil {
		t.Error("New took a bad Config")
	}
}

func TestEstimateTokens(t *testing.T) {
	for _, tt := range []struct {
		text string
		want int
	}{{"", 0}, {"word", 1}, {"the refund is pending now", 7}, {"12345678", 4}, {`{"id":1}`, 4}, {"日本", 3}} {
		if got := guard.EstimateTokens([]byte(tt.text)); got != tt.want {
			t.Errorf("%q: %d, want %d", tt.text, got, tt.want)
		}
	}
}

func BenchmarkStage(b *testing.B) {
	order := `{"columns":["id","customer_id","status","total_cents","currency","created_at"],"rows":[{"id":"o_9002","customer_id":"CUST-1001","status":"refund_pending","total_cents":4900,"currency":"USD","created_at":"2026-10-21T09:30:00Z","note":"Returned item arrived on 2026-11-10."}],"truncated":false}`
	var ticket strings.Builder
	ticket.WriteString(`{"rows":[`)
	for i := range 20 {
		if i > 0 {
			ticket.WriteByte(',')
		}
		fmt.Fprintf(&ticket, `{"id":"t_%d","subject":"Refund for order o_9002 on hold: card closed","body":"The returned kettle of order o_9002 arrived at the warehouse on 2026-11-10.\nThe card that paid for the order was closed, so the bank sent the refund of $49.00 back – Payments holds it until the customer names another account. alicia@example.com"}`, i)
	}
	ticket.WriteString(`]}`)
	for _, bb := range []struct {
		name, answer string
		reads        atlas.Reads
	}{
		{"order_300B", order, atlas.ReadsPrivate},
		{"tickets_6KB_untrusted", ticket.String(), atlas.ReadsUntrusted},
		{"tickets_6KB_redacted", strings.Replace(ticket.String(), "alicia@example.com", "4111 1111 1111 1111", 1), atlas.ReadsPrivate},
		{"paged_200_rows", rows(200), atlas.ReadsPrivate},
	} {
		b.Run(bb.name, func(b *testing.B) {
			h := newGuard(b, guard.Config{}).Stage(answers(bb.answer))
			call := newCall(`{"order_id":"o_9002"}`)
			call.Tool.Reads = bb.reads
			b.SetBytes(int64(len(bb.answer)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := h(b.Context(), call); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestBlocksAreGuardedToo(t *testing.T) {
	const card = "4111 1111 1111 1111"
	serve := func(blocks ...atlas.Content) atlas.Handler {
		return func(context.Context, atlas.Call) (atlas.Result, error) {
			return atlas.Result{Content: blocks}, nil
		}
	}
	g := newGuard(t, guard.Config{MaxData: 8})
	blocks := []atlas.Content{
		{Type: atlas.ContentText, Text: "card " + card},
		{Type: atlas.ContentResource, URI: "atlas://files/a", Text: "card " + card},
		{Type: atlas.ContentResourceLink, URI: "atlas://files/b", Title: card, Description: card, Name: card},
		{Type: atlas.ContentImage, Data: []byte("12345678")},
	}
	res, err := g.Stage(serve(blocks...))(t.Context(), newCall(`{}`))
	if err != nil || res.Notes.Redacted != 5 {
		t.Fatalf("%d redacted, %v", res.Notes.Redacted, err)
	}
	if out := fmt.Sprint(res.Content); strings.Contains(out, "4111") {
		t.Errorf("a card number went out: %s", out)
	}
	if !strings.Contains(blocks[0].Text, card) {
		t.Error("the tool's own blocks were changed")
	}
	long := strings.Repeat("x", 64<<10+1)
	for name, block := range map[string]atlas.Content{
		"bytes": {Text: long}, "tokens": {Text: strings.Repeat("1", 40_000)}, "data": {Data: []byte("123456789")},
	} {
		_, err := g.Stage(serve(block))(t.Context(), newCall(`{}`))
		if e := atlas.ErrorOf(err); e == nil || e.Code != atlas.CodeTooLarge || e.Context["limit"] != name {
			t.Errorf("%s: %v", name, err)
		}
	}
	child := newCall(`{}`)
	child.Parent = &atlas.Parent{ID: "req_p", Tool: "outer"}
	if _, err := g.Stage(serve(atlas.Content{Text: long}))(t.Context(), child); err != nil {
		t.Errorf("a child's block: %v", err)
	}
}

func TestQuestionsAreGuardedToo(t *testing.T) {
	ask := &atlas.Ask{State: []byte("sealed"), Requests: map[string]atlas.ClientRequest{
		"q": {Method: "elicitation/create", Params: json.RawMessage(`{"message":"Close the card 4111 1111 1111 1111?"}`)},
	}}
	h := newGuard(t, guard.Config{}).Stage(func(context.Context, atlas.Call) (atlas.Result, error) {
		return atlas.Result{Ask: ask}, nil
	})
	res, err := h(t.Context(), newCall(`{}`))
	if err != nil || res.Ask == nil || string(res.Ask.State) != "sealed" {
		t.Fatalf("%+v, %v", res, err)
	}
	if p := string(res.Ask.Requests["q"].Params); strings.Contains(p, "4111") || !strings.Contains(string(ask.Requests["q"].Params), "4111") {
		t.Errorf("asked %s", p)
	}
}
