package sourcetest

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

var objectSuite = suite{
	open: openCompany,
	has:  func(s source.Source) bool { _, ok := s.(source.ObjectStore); return ok },
	call: func(ctx context.Context, src source.Source, tenant atlas.TenantID) error {
		_, err := src.(source.ObjectStore).List(ctx, tenant, "", 0)
		return err
	},
	laws: []law{
		{"Get", "Get gives an object's content, size, time and type", objectGet},
		{"Absent", "an object that is not there is not_found, as is a folder", objectAbsent},
		{"Truncated", "Get gives at most maxBytes and says whether there is more", objectTruncated},
		{"Put", "Put makes or replaces an object, whole", objectPut},
		{"TooLarge", "Put of more than the limit is too_large and changes nothing", objectTooLarge},
		{"Keys", "what is no key is invalid_arguments, and leads nowhere", objectKeys},
		{"List", "List gives the objects whose keys begin with the prefix, sorted by key, at most limit", objectList},
		{"Isolation", "nothing of one tenant is read, listed, overwritten or inferred by another", objectIsolation},
		{"Together", "two tenants at once each get their own, and never half an object", objectTogether},
		{"Nobody", "a tenant without data has no objects", objectNobody},
	},
}

func get(t *testing.T, src source.Source, tenant atlas.TenantID, key string) source.Object {
	t.Helper()
	o, err := src.(source.ObjectStore).Get(t.Context(), tenant, key, 0)
	if err != nil {
		t.Fatalf("get %q: %v", key, err)
	}
	return o
}

func getErr(t *testing.T, src source.Source, tenant atlas.TenantID, key string) error {
	t.Helper()
	o, err := src.(source.ObjectStore).Get(t.Context(), tenant, key, 0)
	if err == nil {
		t.Errorf("get %q: got %q", key, o.Content)
	}
	return err
}

func list(t *testing.T, src source.Source, tenant atlas.TenantID, prefix string, limit int) []string {
	t.Helper()
	infos, err := src.(source.ObjectStore).List(t.Context(), tenant, prefix, limit)
	if err != nil {
		t.Fatalf("list %q: %v", prefix, err)
	}
	keys := []string{}
	for _, i := range infos {
		keys = append(keys, i.Key)
	}
	return keys
}

func put(t *testing.T, src source.Source, tenant atlas.TenantID, key, content string) {
	t.Helper()
	if err := src.(source.ObjectStore).Put(t.Context(), tenant, key, source.Object{Content: []byte(content)}); err != nil {
		t.Fatalf("put %q: %v", key, err)
	}
}

func objectGet(t *testing.T, h Harness) {
	src := openCompany(t, h)
	for _, want := range data(A).Objects {
		got := get(t, src, A, want.Key)
		if !bytes.Equal(got.Content, want.Content) || got.Key != want.Key || got.Size != want.Size || got.Modified.IsZero() || got.Truncated {
			t.Errorf("%s: got %s", want.Key, text(t, got))
		}
	}
	for key, want := range map[string]string{"docs/policy.md": "text/markdown", "docs/policy-b.txt": "text/plain", "tickets/t_7301.json": "application/json"} {
		if got := get(t, src, A, key).ContentType; !strings.HasPrefix(got, want) {
			t.Errorf("%s: type %q, want %q", key, got, want)
		}
	}
}

func objectAbsent(t *testing.T, h Harness) {
	src := openCompany(t, h)
	for _, key := range []string{"nosuch", "docs", "docs/policy", "docs/nosuch.md", "docs/policy.md/x", "readme/x/y", "docs/policy.m", "DOCS/policy.md"} {
		refused(t, getErr(t, src, A, key), atlas.CodeNotFound)
	}
}

func objectTruncated(t *testing.T, h Harness) {
	src := openCompany(t, h)
	whole := get(t, src, A, "docs/policy.md").Content
	for _, n := range []int64{1, int64(len(whole)) - 1, int64(len(whole)), int64(len(whole)) + 1, 1 << 50} {
		got, err := src.(source.ObjectStore).Get(t.Context(), A, "docs/policy.md", n)
		if err != nil {
			t.Fatal(err)
		}
		want := whole[:min(n, int64(len(whole)))]
		if !bytes.Equal(got.Content, want) || got.Truncated != (len(want) < len(whole)) || got.Size != int64(len(whole)) {
			t.Errorf("at most %d: got %d bytes, truncated %v, size %d", n, len(got.Content), got.Truncated, got.Size)
		}
	}
	_, err := src.(source.ObjectStore).Get(t.Context(), A, "docs/policy.md", -1)
	refused(t, err, atlas.CodeInvalidArguments)
}

func objectPut(t *testing.T, h Harness) {
	src := openCompany(t, h)
	for _, key := range []string{"new.txt", "a/b/c/d.txt", "docs/policy.md", "ü/日本.txt", "with space/~tilde", "..x/x..", "%2e%2e/%00", strings.Repeat("k", 200)} {
		for _, content := range []string{"first " + key, "", "second, longer, " + key} {
			put(t, src, A, key, content)
			if got := get(t, src, A, key); string(got.Content) != content || got.Size != int64(len(content)) {
				t.Errorf("%q: got %q, want %q", key, got.Content, content)
			}
		}
	}
	put(t, src, Nobody, "first.txt", "of a new tenant")
	if got := list(t, src, Nobody, "", 0); !cmp.Equal(got, []string{"first.txt"}) {
		t.Errorf("got %v", got)
	}
}

func objectTooLarge(t *testing.T, h Harness) {
	if h.MaxObjectBytes <= 0 || h.MaxObjectBytes > 1<<20 {
		t.Fatal("the harness needs a MaxObjectBytes of at most 1 MiB")
	}
	src := openCompany(t, h)
	put(t, src, A, "full", strings.Repeat("x", int(h.MaxObjectBytes)))
	before := list(t, src, A, "", 0)
	big := source.Object{Content: bytes.Repeat([]byte("x"), int(h.MaxObjectBytes)+1)}
	for _, key := range []string{"new", "readme"} {
		refused(t, src.(source.ObjectStore).Put(t.Context(), A, key, big), atlas.CodeTooLarge)
	}
	if diff := cmp.Diff(before, list(t, src, A, "", 0)); diff != "" || string(get(t, src, A, "readme").Content) != "none "+mark(A) {
		t.Errorf("something changed: %s", diff)
	}
}

func objectKeys(t *testing.T, h Harness) {
	src := openCompany(t, h)
	for _, key := range []string{
		"", "/", "/readme", "readme/", ".", "..", "../" + string(B) + "/readme", "docs/../readme", "docs/./policy.md", "docs//policy.md",
		"docs/..", `docs\policy.md`, `..\` + string(B), "a\x00b", "a\nb", "\x7f", "a/\u0085", "\xff", strings.Repeat("k", 1025), "/etc/passwd",
	} {
		refused(t, getErr(t, src, A, key), atlas.CodeInvalidArguments)
		refused(t, src.(source.ObjectStore).Put(t.Context(), A, key, source.Object{Content: []byte("x")}), atlas.CodeInvalidArguments)
	}
	for _, prefix := range []string{"/", "../", "../" + string(B), "docs/../", "docs//", `docs\`, "a\x00", "./", strings.Repeat("k", 1025)} {
		got, err := src.(source.ObjectStore).List(t.Context(), A, prefix, 0)
		if err == nil {
			t.Errorf("list %q: got %v", prefix, got)
			continue
		}
		refused(t, err, atlas.CodeInvalidArguments)
	}
	_, err := src.(source.ObjectStore).List(t.Context(), A, "", -1)
	refused(t, err, atlas.CodeInvalidArguments)
}

func objectList(t *testing.T, h Harness) {
	src := openCompany(t, h)
	all := []string{"docs/policy-b.txt", "docs/policy.md", "docs/policy/old.md", "own/only-acme.txt", "readme", "tickets/t_7301.json"}
	for _, tc := range []struct {
		prefix string
		limit  int
		want   []string
	}{
		{"", 0, all},
		{"", 1, all[:1]},
		{"", 4, all[:4]},
		{"", 1 << 40, all},
		{"docs/", 0, all[:3]},
		{"docs", 0, all[:3]},
		{"do", 2, all[:2]},
		{"docs/policy", 0, all[:3]},
		{"docs/policy.", 0, all[1:2]},
		{"docs/policy/", 0, all[2:3]},
		{"docs/policy.md", 0, all[1:2]},
		{"docs/policy.md/", 0, []string{}},
		{"readme", 0, all[4:5]},
		{"nosuch", 0, []string{}},
		{"docs/nosuch/", 0, []string{}},
		{"D", 0, []string{}},
		{"*", 0, []string{}},
		{".", 0, []string{}},
		{"docs/.", 0, []string{}},
		{"docs/..", 0, []string{}},
	} {
		if diff := cmp.Diff(tc.want, list(t, src, A, tc.prefix, tc.limit)); diff != "" {
			t.Errorf("%q, %d (-want +got)\n%s", tc.prefix, tc.limit, diff)
		}
	}
	infos, err := src.(source.ObjectStore).List(t.Context(), A, "readme", 0)
	if err != nil || len(infos) != 1 {
		t.Fatalf("got %v, %v", infos, err)
	}
	if got := get(t, src, A, "readme"); got.ObjectInfo != infos[0] {
		t.Errorf("listed %v, got %v", infos[0], got.ObjectInfo)
	}
}

func objectIsolation(t *testing.T, h Harness) {
	src := openCompany(t, h)
	for _, o := range data(A).Objects {
		if strings.Contains(o.Key, "only-acme") {
			only := refused(t, getErr(t, src, B, o.Key), atlas.CodeNotFound)
			none := refused(t, getErr(t, src, B, "own/only-none.txt"), atlas.CodeNotFound)
			if only != strings.ReplaceAll(none, "only-none", "only-acme") {
				t.Errorf("A's key and nobody's key differ for B:\n%s\n%s", only, none)
			}
			continue
		}
		if got := get(t, src, B, o.Key); !strings.Contains(string(got.Content), mark(B)) {
			t.Errorf("%s: B is given %q", o.Key, got.Content)
		}
	}
	for _, prefix := range []string{"", "own/", "own/only-a", "acme", "acme/"} {
		for _, key := range list(t, src, B, prefix, 0) {
			if strings.Contains(key, "acme") {
				t.Errorf("B lists %s", key)
			}
		}
	}
	put(t, src, B, "readme", "B was here")
	put(t, src, B, "own/only-acme.txt", "B was here too")
	put(t, src, B, "acme/readme", "B was here as well")
	for _, o := range data(A).Objects {
		if got := get(t, src, A, o.Key); !bytes.Equal(got.Content, o.Content) {
			t.Errorf("%s: A has %q", o.Key, got.Content)
		}
	}
	if got := list(t, src, A, "", 0); len(got) != len(data(A).Objects) {
		t.Errorf("A lists %v", got)
	}
}

func objectTogether(t *testing.T, h Harness) {
	src := openCompany(t, h)
	s := src.(source.ObjectStore)
	together(t, func(tenant atlas.TenantID, i int) {
		content := strings.Repeat(mark(tenant)+"\n", 1+i*20)
		if err := s.Put(t.Context(), tenant, "shared/key.txt", source.Object{Content: []byte(content)}); err != nil {
			t.Errorf("put: %v", err)
		}
		got, err := s.Get(t.Context(), tenant, "shared/key.txt", 0)
		if err != nil {
			t.Errorf("get: %v", err)
			return
		}
		lines := strings.Split(strings.TrimSuffix(string(got.Content), "\n"), "\n")
		for _, l := range lines {
			if l != mark(tenant) {
				t.Errorf("%s was given %q", tenant, l)
				return
			}
		}
		if (len(lines)-1)%20 != 0 {
			t.Errorf("half an object: %d lines", len(lines))
		}
		infos, err := s.List(t.Context(), tenant, "", 0)
		if err != nil || len(infos) != len(data(tenant).Objects)+1 {
			t.Errorf("list: %d objects, %v (an object being written is not listed)", len(infos), err)
		}
	})
}

func objectNobody(t *testing.T, h Harness) {
	src := openCompany(t, h)
	for range 2 {
		if got := list(t, src, Nobody, "", 0); len(got) != 0 {
			t.Errorf("got %v", got)
		}
		a := refused(t, getErr(t, src, Nobody, "readme"), atlas.CodeNotFound)
		b := refused(t, getErr(t, src, B, "nosuch"), atlas.CodeNotFound)
		if a != strings.ReplaceAll(b, "nosuch", "readme") {
			t.Errorf("no tenant and no object differ:\n%s\n%s", a, b)
		}
	}
}
