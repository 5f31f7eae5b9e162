package policy_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"

	"github.com/atlas-mcp/atlas/internal/stage/policy"
)

// TestConditions runs testdata/conditions/<name>.txtar for every row of the table. A file holds
// policies, each with the calls that it decides or the exact error of loading it.
func TestConditions(t *testing.T) {
	for _, c := range policy.Conditions() {
		t.Run(c.Name, func(t *testing.T) {
			if c.Doc == "" || c.Type == "" {
				t.Error("the condition is not documented")
			}
			seen := runPolicies(t, filepath.Join("testdata", "conditions", c.Name+".txtar"), c.Name)
			for _, want := range []string{"allow", "deny", "malformed"} {
				if seen[want] == 0 {
					t.Errorf("no example of %s", want)
				}
			}
		})
	}
}

// TestNoStrayConditionFiles finds files of conditions that are no more.
func TestNoStrayConditionFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/conditions/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != len(policy.Conditions()) {
		t.Errorf("%d files for %d conditions", len(files), len(policy.Conditions()))
	}
}

// runPolicies runs one txtar file and counts what it showed. Every policy must mention the word.
func runPolicies(t *testing.T, path, word string) map[string]int {
	t.Helper()
	archive, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range archive.Files {
		files[f.Name] = string(f.Data)
	}
	seen := map[string]int{}
	ts := tools()
	for _, f := range archive.Files {
		base, isPolicy := strings.CutSuffix(f.Name, ".yaml")
		if !isPolicy {
			continue
		}
		if !strings.Contains(string(f.Data), word) {
			t.Errorf("%s does not use %s", f.Name, word)
		}
		e, err := policy.Load(f.Name, f.Data, policy.Deps{Tools: list(ts), PII: fakePII})
		if want, ok := files[base+".error"]; ok {
			seen["malformed"]++
			if err == nil {
				t.Errorf("%s: loaded, want an error", f.Name)
			} else if diff := cmp.Diff(strings.TrimSpace(want), err.Error()); diff != "" {
				t.Errorf("%s: error (-want +got):\n%s", f.Name, diff)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", f.Name, err)
			continue
		}
		calls, ok := files[base+".calls"]
		if !ok {
			t.Errorf("%s has neither calls nor error", f.Name)
		}
		for line := range strings.Lines(calls) {
			line = strings.TrimSpace(line)
			if line == "" {
				continue
			}
			call, want, ok := cutLast(line, " -> ")
			fields := strings.SplitN(call, " ", 3)
			if !ok || len(fields) != 3 || ts[fields[1]] == nil {
				t.Fatalf("%s: cannot read %q", f.Name, line)
			}
			d := decide(t, e, callOf(t, ts[fields[1]], who(fields[0]), fields[2]))
			got := "deny"
			if d.Allowed {
				got = "allow"
			}
			wantVerdict, wantRule, named := strings.Cut(want, " ")
			seen[wantVerdict]++
			if got != wantVerdict || named && d.Rule != wantRule || !named && wantVerdict == "deny" && d.Rule != "" {
				t.Errorf("%s: %s: got %s %s (%v)", f.Name, line, got, d.Rule, d.Err())
			}
		}
	}
	return seen
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
