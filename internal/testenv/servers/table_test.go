//go:build unix

package servers_test

import (
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

func TestTable(t *testing.T) {
	before := map[string]bool{}
	for _, k := range servers.Table() {
		if !regexp.MustCompile(`^[a-z][a-z0-9]+$`).MatchString(k.Name) || before[k.Name] {
			t.Errorf("%q is no name, or one twice", k.Name)
		}
		if want := "ATLAS_TEST_" + strings.ToUpper(k.Name); k.Env != want {
			t.Errorf("%s: its variable is %s, not %s", k.Name, k.Env, want)
		}
		if k.About == "" || k.Command == nil || k.Ready == nil {
			t.Errorf("%s: its row is not whole", k.Name)
		}
		if k.Before != "" && !before[k.Before] {
			t.Errorf("%s: %q does not stand above it", k.Name, k.Before)
		}
		if u, err := url.Parse(k.URL(20001)); err != nil || u.Host != "127.0.0.1:20001" {
			t.Errorf("%s: its URL is %v, %v", k.Name, u, err)
		}
		found, err := servers.Lookup(k.Name)
		if err != nil || found.Env != k.Env {
			t.Errorf("%s: found as %q, %v", k.Name, found.Env, err)
		}
		before[k.Name] = true
	}
	if _, err := servers.Lookup("mysql"); err == nil || !strings.Contains(err.Error(), "postgres, pgbouncer") {
		t.Errorf("mysql: %v", err)
	}
}
