package tool

import (
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func mustURI(t testing.TB, s string) uriTemplate {
	t.Helper()
	u, err := parseURI(s)
	if err != nil {
		t.Fatal(s, err)
	}
	return u
}

func TestURITemplatesThatAreRefused(t *testing.T) {
	for _, s := range []string{
		"", "files", "/files", "://x", "atlas:files", "atlas://", "atlas:///x", "Atlas://x", "https://x/y", "http://x", "file://x/y",
		"atlas://{x}", "atlas://x{y}", "atlas://{x}/y", "atlas://x/{y", "atlas://x/y}", "atlas://x/{}", "atlas://x/{Y}", "atlas://x/{y*}",
		"atlas://x/{y:3}", "atlas://x/{y,z}", "atlas://x/{/y}", "atlas://x/{?y}", "atlas://x/{#y}", "atlas://x/{y}{z}", "atlas://x/{y}-{z}",
		"atlas://x/{+y}/z", "atlas://x/{y}/{y}", "atlas://x/../y", "atlas://x//y", "atlas://x/./y", "atlas://x/y#z", "atlas://x/%41", "atlas://x/a b",
		"atlas://x/ü", "atlas://x/{y}/", "atlas://x/" + strings.Repeat("a", 600), "atlas://x" + strings.Repeat("/{a}", 2),
		"atlas://x/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}", "atlas://x/a\x00", "atlas://x/{{y}}",
	} {
		if _, err := parseURI(s); err == nil {
			t.Errorf("%q is a template", s)
		}
	}
}

func TestURIMatch(t *testing.T) {
	for _, c := range []struct {
		template, uri string
		want          map[string]string // nil: no match
	}{
		{"atlas://crm/schema", "atlas://crm/schema", map[string]string{}},
		{"atlas://crm/schema", "atlas://crm/schema/", nil},
		{"atlas://crm/schema", "ATLAS://crm/schema", nil},
		{"atlas://crm/schema", "atlas://CRM/schema", nil},
		{"atlas://crm/schema", "atlas://crm/%73chema", nil},
		{"atlas://o/{id}", "atlas://o/o_9002", map[string]string{"id": "o_9002"}},
		{"atlas://o/{id}", "atlas://o/", nil},
		{"atlas://o/{id}", "atlas://o/a/b", nil},
		{"atlas://o/{id}", "atlas://o/a%2Fb", nil}, // a slash in disguise
		{"atlas://o/{id}", "atlas://o/a%5Cb", nil}, // a backslash in disguise
		{"atlas://o/{id}", "atlas://o/a?x=1", nil},
		{"atlas://o/{id}", "atlas://o/a#x", nil},
		{"atlas://o/{id}", "atlas://o/..", nil},
		{"atlas://o/{id}", "atlas://o/.", nil},
		{"atlas://o/{id}", "atlas://o/%2E%2E", nil},
		{"atlas://o/{id}", "atlas://o/a%00", nil},
		{"atlas://o/{id}", "atlas://o/a%0A", nil},
		{"atlas://o/{id}", "atlas://o/a%C2%85", nil}, // a control character beyond ASCII
		{"atlas://o/{id}", "atlas://o/a%FF", nil},    // not UTF-8
		{"atlas://o/{id}", "atlas://o/%61", nil},     // another spelling of a
		{"atlas://o/{id}", "atlas://o/a%c3%bc", nil}, // another spelling of ü
		{"atlas://o/{id}", "atlas://o/a%C3%BC", map[string]string{"id": "aü"}},
		{"atlas://o/{id}", "atlas://o/aü", nil},
		{"atlas://o/{id}", "atlas://o/a%20b", map[string]string{"id": "a b"}},
		{"atlas://o/{id}", "atlas://o/a+b", nil},
		{"atlas://o/{id}", "atlas://o/%252E%252E", map[string]string{"id": "%2E%2E"}}, // decoded once, and only once
		{"atlas://o/{id}", "atlas://o/%252Fetc", map[string]string{"id": "%2Fetc"}},
		{"atlas://o/{id}", "atlas://o/%", nil},
		{"atlas://o/{id}", "atlas://o/%4", nil},
		{"atlas://o/{id}", "atlas://o/%GG", nil},
		{"atlas://o/{id}", "atlas://o/" + strings.Repeat("a", 1024), map[string]string{"id": strings.Repeat("a", 1024)}},
		{"atlas://o/{id}", "atlas://o/" + strings.Repeat("a", 1025), nil},
		{"atlas://o/{id}", "atlas://o/" + strings.Repeat("%20", 1024), map[string]string{"id": strings.Repeat(" ", 1024)}},
		{"atlas://o/{id}", "atlas://o/" + strings.Repeat("%20", 5000), nil},
		{"test://template/{id}/data", "test://template/123/data", map[string]string{"id": "123"}},
		{"test://template/{id}/data", "test://template//data", nil},
		{"test://template/{id}/data", "test://template/123/data/data", nil},
		{"atlas://c/{a}/{b}", "atlas://c/1/2", map[string]string{"a": "1", "b": "2"}},
		{"atlas://c/{a}:{b}", "atlas://c/1:2", map[string]string{"a": "1", "b": "2"}},
		{"atlas://c/{a}:{b}", "atlas://c/1:2:3", nil},
		{"atlas://f/{+key}", "atlas://f/docs/a.md", map[string]string{"key": "docs/a.md"}},
		{"atlas://f/{+key}", "atlas://f/docs%2Fa.md", nil},
		{"atlas://f/{+key}", "atlas://f/docs/../a", nil},
		{"atlas://f/{+key}", "atlas://f/../a", nil},
		{"atlas://f/{+key}", "atlas://f/docs/%2E%2E/a", nil},
		{"atlas://f/{+key}", "atlas://f//a", nil},
		{"atlas://f/{+key}", "atlas://f/a/", nil},
		{"atlas://f/{+key}", "atlas://f/a//b", nil},
		{"atlas://f/{+key}", "atlas://f/a%20b", map[string]string{"key": "a b"}},
		{"atlas://f/{+key}", "atlas://f/a%2520b", map[string]string{"key": "a%20b"}},
		{"atlas://f/{+key}", "atlas://f/a..b/..c", map[string]string{"key": "a..b/..c"}},
	} {
		got, ok := mustURI(t, c.template).match(c.uri)
		if ok != (c.want != nil) || ok && !maps.Equal(got, c.want) {
			t.Errorf("%s matches %q: %v, %v; want %v", c.template, c.uri, got, ok, c.want)
		}
	}
}

func TestURIOverlap(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"atlas://a/b", "atlas://a/b", true},
		{"atlas://a/b", "atlas://a/c", false},
		{"atlas://a/{x}", "atlas://a/b", true},
		{"atlas://a/{x}", "atlas://a/b/c", false},
		{"atlas://a/{+x}", "atlas://a/b/c", true},
		{"atlas://a/{+x}", "atlas://a/{y}", true},
		{"atlas://a/{x}/b", "atlas://a/{y}/c", false},
		{"atlas://a/{x}/b", "atlas://a/c/{y}", true},
		{"atlas://a/{x}:{y}", "atlas://a/{z}", false},
		{"atlas://a/{+x}", "atlas://ab/{+x}", false},
		{"atlas://a/docs/{+x}", "atlas://a/{+x}", true},
	} {
		a, b := mustURI(t, c.a), mustURI(t, c.b)
		if a.overlaps(b) != c.want || b.overlaps(a) != c.want {
			t.Errorf("%s and %s: overlap is not %v", c.a, c.b, c.want)
		}
	}
}

var uriTemplates = []string{"atlas://f/{+key}", "atlas://o/{id}", "test://template/{id}/data", "atlas://c/{a}/{b}/{+c}", "atlas://c/{a}:{b}", "atlas://s/s"}

// What a template makes of sound values, it takes apart again, and the other way round.
func TestURIRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		u := mustURI(t, rapid.SampledFrom(uriTemplates).Draw(rt, "template"))
		values := map[string]string{}
		for _, name := range u.variables() {
			values[name] = rapid.String().Draw(rt, name)
		}
		uri, ok := u.expand(values)
		if !ok {
			return
		}
		got, ok := u.match(uri)
		if !ok || !maps.Equal(got, values) {
			rt.Fatalf("%s: %v makes %q, which is %v, %v", u.text, values, uri, got, ok)
		}
	})
}

func FuzzURIMatch(f *testing.F) {
	for _, seed := range []string{
		"atlas://f/docs/a.md", "atlas://o/%252E%252E", "atlas://f/%2e%2e/a", "test://template/a%20b/data", "atlas://c/1/2/3/4", "atlas://c/a:b",
		"atlas://s/s", "atlas://f/a\x00", "atlas://o/%C3%BC", "atlas://o/%C3", "atlas://f/../../etc/passwd", "atlas://f/%5C..%5C",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		for _, s := range uriTemplates {
			u := mustURI(t, s)
			values, ok := u.match(uri)
			if !ok {
				continue
			}
			back, ok := u.expand(values)
			if !ok || back != uri {
				t.Errorf("%s: %q is %v, which makes %q, %v", s, uri, values, back, ok)
			}
			for name, v := range values {
				if v == "" || len(v) > maxVariable || strings.ContainsAny(v, "\x00\\\n") || strings.Contains("/"+v+"/", "/../") {
					t.Errorf("%s: %q gives %s the value %q", s, uri, name, v)
				}
			}
		}
	})
}

// What overlaps says is true of all URIs: whatever matches two templates, they overlap.
func TestURIOverlapIsComplete(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a := mustURI(t, rapid.SampledFrom(uriTemplates).Draw(rt, "a"))
		b := mustURI(t, rapid.SampledFrom([]string{"atlas://f/a/{x}", "atlas://o/{+y}", "test://template/{x}", "test://template/{+x}", "atlas://c/1/{x}/{y}", "atlas://c/{x}"}).Draw(rt, "b"))
		values := map[string]string{}
		for _, name := range b.variables() {
			values[name] = rapid.StringMatching(`[a1:]{1,2}(/[a1]{1,2})?(/data)?`).Draw(rt, name)
		}
		uri, ok := b.expand(values)
		if !ok {
			return
		}
		if _, ok := a.match(uri); ok && !a.overlaps(b) {
			rt.Fatalf("%s and %s both match %s", a.text, b.text, uri)
		}
	})
}
