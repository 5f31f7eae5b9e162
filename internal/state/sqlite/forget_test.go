package sqlite_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/atlas-mcp/atlas/internal/state"
	"github.com/atlas-mcp/atlas/internal/state/statetest"
)

// What is forgotten of a customer is not left in the file's free pages.
func TestForgottenIsOverwritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s := openFile(t, path, state.Limits{})
	m := statetest.Memory("acme", "CUST-1", "m")
	m.Text = "a secret of the customer's"
	if err := s.AddMemory(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	for _, left := range []bool{true, false} {
		if !left {
			if n, err := s.ForgetCustomer(t.Context(), "acme", "CUST-1"); n != 1 || err != nil {
				t.Fatalf("forget: %d, %v", n, err)
			}
			if err := s.Close(); err != nil { // which ends the write-ahead log
				t.Fatal(err)
			}
		}
		found := false
		for _, file := range []string{path, path + "-wal"} {
			data, err := os.ReadFile(file)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			found = found || bytes.Contains(data, []byte(m.Text))
		}
		if found != left {
			t.Errorf("the text is in the file: %v, want %v", found, left)
		}
	}
}
