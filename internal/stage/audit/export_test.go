package audit

import (
	"os"

	"github.com/atlas-mcp/atlas"
)

// Canonical returns a record's canonical JSON.
func Canonical(r *atlas.AuditRecord) []byte {
	b, _ := appendRecord(nil, r, r.Hash)
	return b
}

// Line returns the record's line as the log writes it.
func Line(r *atlas.AuditRecord, seq uint64, prev string) []byte {
	b, _ := seal(nil, nil, r, seq, prev)
	return b
}

// BreakDisk makes writes and syncs of the log go through the functions. It must be called before the
// log is used.
func BreakDisk(l *Log, write func(*os.File, []byte) (int, error), sync func(*os.File) error) {
	if write != nil {
		l.chain.writeTo = write
	}
	if sync != nil {
		l.chain.syncTo = sync
	}
}
