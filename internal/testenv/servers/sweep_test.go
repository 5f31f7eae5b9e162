//go:build unix

package servers

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestSweep(t *testing.T) {
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	mine := start(t, fakeKind("serve"), Options{})
	if abandoned(mine.Dir()) {
		t.Error("a server that runs is abandoned")
	}
	for name, tc := range map[string]struct {
		owner string
		gone  bool
	}{
		"atlas-redis-dead":    {`{"pid": 2147483647, "id": "1@x"}`, true},
		"atlas-postgres-else": {`{"pid": 1234567, "id": "1@x"}`, true},
		"atlas-redis-stays":   {"", false},
		"atlas-redis-strange": {`{"pid": "x"}`, false},
		"atlas-redis-nobody":  {`{"pid": 0, "id": ""}`, false},
		"atlas-other-dead":    {`{"pid": 2147483647, "id": "1@x"}`, false},
		"another-redis-dead":  {`{"pid": 2147483647, "id": "1@x"}`, false},
	} {
		dir := filepath.Join(tmp, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if tc.owner != "" {
			if err := os.WriteFile(filepath.Join(dir, ownerFile), []byte(tc.owner), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := Sweep(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) != tc.gone {
			t.Errorf("%s: %v", name, err)
		}
	}
}
