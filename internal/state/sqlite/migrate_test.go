package sqlite

import (
	"database/sql"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A file of version 1 does not say whose its approvals are. None of them may be used, hold up a new
// one or count against a limit; what was decided stays in the history.
func TestApprovalsOfVersion1End(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	old, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := old.ExecContext(t.Context(), fmt.Sprintf(`PRAGMA application_id = %d;
		CREATE TABLE schema_version (version INTEGER PRIMARY KEY, applied INTEGER NOT NULL) STRICT;
		INSERT INTO schema_version VALUES (1, 0);`, applicationID)+migrations[0]); err != nil {
		t.Fatal(err)
	}
	later := time.Now().Add(time.Hour)
	want := map[string]atlas.ApprovalState{
		"pending": atlas.ApprovalExpired, "approved": atlas.ApprovalExpired,
		"denied": atlas.ApprovalDenied, "used": atlas.ApprovalUsed, "expired": atlas.ApprovalExpired,
	}
	for state := range want {
		if _, err := old.ExecContext(t.Context(), `INSERT INTO approval VALUES (?, 'acme', 'alice', '', 'files_put', 'v1', 'p1', ?, '', ?, '', '', 1, ?, 0, ?)`,
			state, state, state, later.UnixNano(), live(atlas.ApprovalState(state))); err != nil {
			t.Fatal(err)
		}
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}

	s, err := Open(t.Context(), Config{Path: path}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	for id, state := range want {
		a, err := s.GetApproval(t.Context(), "acme", id)
		if err != nil || a.State != state || a.HomeTenant != "" || a.Issuer != "" {
			t.Errorf("%s is now %+v, %v; want %s", id, a, err, state)
		}
		for _, home := range []atlas.TenantID{"", "acme"} {
			b := a
			b.HomeTenant = home
			if _, found, err := s.FindApproval(t.Context(), b); found || err != nil {
				t.Errorf("%s of home tenant %q is live (%v)", id, home, err)
			}
		}
	}
	next := atlas.Approval{
		ID: "new", Tenant: "acme", HomeTenant: "acme", Subject: "alice", Tool: "files_put", Version: "v1", PolicyHash: "p1",
		ArgsDigest: "pending", State: atlas.ApprovalPending, Created: time.Now(), Expires: later,
	}
	if got, err := s.AddApproval(t.Context(), next, 1, 1); err != nil || got.ID != "new" {
		t.Errorf("a new approval: %+v, %v", got, err)
	}
}
