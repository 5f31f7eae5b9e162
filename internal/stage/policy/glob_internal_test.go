package policy

import (
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, seps string
		yes, no       []string
	}{
		{"tool:crm:read", actionSep, []string{"tool:crm:read"}, []string{"tool:crm:reads", "tool:crm", "tool:crm:read:x"}},
		{"tool:crm:*", actionSep, []string{"tool:crm:read", "tool:crm:a:b"}, []string{"tool:crm", "tool:crmx:read"}},
		{"tool:*:read", actionSep, []string{"tool:crm:read", "tool:a/b:read"}, []string{"tool:a:b:read", "tool:crm:write"}},
		{"tool:*", actionSep, []string{"tool:x", "tool:crm:read"}, []string{"tool", "approval:x"}},
		{"*", actionSep, []string{"a", "tool:crm:read"}, nil},
		{"*:read", actionSep, []string{"x:read"}, []string{"tool:crm:read"}},
		{"tenant:*/*", resourceSep, []string{"tenant:acme/crm", "tenant:acme/files/a/b"}, []string{"tenant:acme", "other:acme/crm"}},
		{"tenant:acme/*", resourceSep, []string{"tenant:acme/crm/x", "tenant:acme/"}, []string{"tenant:acme2/crm/x", "tenant:acme"}},
		{"tenant:acme*/crm/*", resourceSep, []string{"tenant:acme/crm/x", "tenant:acme2/crm/x", "tenant:acme-eu/crm/x/y"}, []string{"tenant:acme/evil/crm/x", "tenant:bacme/crm/x"}},
		{"tenant:acme/files/*.txt", resourceSep, []string{"tenant:acme/files/a.txt", "tenant:acme/files/.txt"}, []string{"tenant:acme/files/a/b.txt", "tenant:acme/files/a.txt.exe"}},
		{"tenant:acme/files/a*", resourceSep, []string{"tenant:acme/files/a", "tenant:acme/files/abc"}, []string{"tenant:acme/files/a/b", "tenant:acme/files/b"}},
		{"tenant:acme/*/x", resourceSep, []string{"tenant:acme/crm/x"}, []string{"tenant:acme/x", "tenant:acme/a/b/x"}},
		{"tenant:a*b*c/*", resourceSep, []string{"tenant:abbbcbc/x", "tenant:abc/x"}, []string{"tenant:ab/c", "tenant:acb/x"}},
		{"role:sup*", subjectSep, []string{"role:support", "role:sup"}, []string{"role:sup:x", "role:sup/x", "user:support"}},
		{"user:*", subjectSep, []string{"user:a", "user:https://idp/x"}, []string{"role:a"}},
		{"user:https://idp/*", subjectSep, []string{"user:https://idp/x"}, []string{"user:https://idp2/x"}},
	} {
		g, err := compileGlob(c.pattern, c.seps)
		if err != nil {
			t.Errorf("%s: %v", c.pattern, err)
			continue
		}
		for _, s := range c.yes {
			if !g.match(s) {
				t.Errorf("%s does not match %s", c.pattern, s)
			}
		}
		for _, s := range c.no {
			if g.match(s) {
				t.Errorf("%s matches %s", c.pattern, s)
			}
		}
	}
}

// model is the definition of a glob, slow and plain: segment by segment.
func model(pattern, s, sep string) bool {
	have, want := strings.Split(s, sep), strings.Split(pattern, sep)
	for i, w := range want {
		if i >= len(have) {
			return false
		}
		if i == len(want)-1 && w == "*" {
			return true
		}
		if !segment(w, have[i]) {
			return false
		}
	}
	return len(have) == len(want)
}

func segment(p, s string) bool {
	switch {
	case p == "":
		return s == ""
	case p[0] == '*':
		return segment(p[1:], s) || s != "" && segment(p, s[1:])
	}
	return s != "" && p[0] == s[0] && segment(p[1:], s[1:])
}

func TestGlobNeverCrossesSegments(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := strings.Join(rapid.SliceOfN(rapid.StringMatching(`[ab]{0,2}\*?[ab]{0,2}(\*[ab])?`), 1, 4).Draw(t, "pattern"), "/")
		g, err := compileGlob(pattern, resourceSep)
		if err != nil {
			t.Skip("not a pattern")
		}
		s := strings.Join(rapid.SliceOfN(rapid.StringMatching(`[ab]{0,4}`), 1, 5).Draw(t, "string"), "/")
		if got, want := g.match(s), model(pattern, s, resourceSep); got != want {
			t.Fatalf("%q on %q: got %v, want %v", pattern, s, got, want)
		}
		if !g.rest && g.match(s) && strings.Count(s, "/") != strings.Count(pattern, "/") {
			t.Fatalf("%q matches %q with another number of segments", pattern, s)
		}
	})
}

// TestReach checks reaches against match: none matches nothing below the source, all matches
// everything.
func TestReach(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pattern := "tenant:" + strings.Join(rapid.SliceOfN(rapid.StringMatching(`[ab]?\*?|\*`), 2, 4).Draw(t, "pattern"), "/")
		g, err := compileGlob(pattern, resourceSep)
		if err != nil {
			t.Skip("not a pattern")
		}
		tenant, source := rapid.StringMatching(`[ab]{1,2}`).Draw(t, "tenant"), rapid.StringMatching(`[ab]{1,2}`).Draw(t, "source")
		item := strings.Join(rapid.SliceOfN(rapid.StringMatching(`[ab]{0,2}`), 1, 3).Draw(t, "item"), "/")
		matched := g.match("tenant:" + tenant + "/" + source + "/" + item)
		switch g.reaches(tenant, source) {
		case reachNone:
			if matched {
				t.Fatalf("%s reaches nothing of %s/%s, but %s", pattern, tenant, source, item)
			}
		case reachAll:
			if !matched {
				t.Fatalf("%s reaches all of %s/%s, but not %s", pattern, tenant, source, item)
			}
		case reachSome:
		}
		if anySource := g.reaches(tenant, ""); matched && anySource == reachNone {
			t.Fatalf("%s reaches nothing of %s, but %s/%s", pattern, tenant, source, item)
		}
	})
}
