package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// applicationID marks a database file as Atlas's state (PRAGMA application_id): "ATLS".
const applicationID = 0x41544c53

// migrations bring a file from version i to i+1. A released one never changes.
//
// Times are nanoseconds since the Unix epoch, 0 for none. approval.live is 1 for the one row that
// decides the fate of its binding; the index makes it one. kv_use is kept by triggers, so that
// the limits of a space are checked without counting its rows.
var migrations = []string{
	`CREATE TABLE approval (
		id        TEXT PRIMARY KEY,
		tenant    TEXT NOT NULL,
		subject   TEXT NOT NULL,
		delegator TEXT NOT NULL,
		tool      TEXT NOT NULL,
		version   TEXT NOT NULL,
		policy    TEXT NOT NULL,
		args      TEXT NOT NULL,
		preview   TEXT NOT NULL,
		state     TEXT NOT NULL,
		approver  TEXT NOT NULL,
		reason    TEXT NOT NULL,
		created   INTEGER NOT NULL,
		expires   INTEGER NOT NULL,
		decided   INTEGER NOT NULL,
		live      INTEGER NOT NULL
	) STRICT;
	CREATE UNIQUE INDEX approval_live ON approval (tenant, subject, delegator, tool, version, policy, args) WHERE live = 1;
	CREATE INDEX approval_list ON approval (tenant, created);
	CREATE INDEX approval_expires ON approval (expires);

	CREATE TABLE kv (
		space   TEXT NOT NULL,
		key     TEXT NOT NULL,
		value   BLOB NOT NULL,
		version INTEGER NOT NULL,
		expires INTEGER NOT NULL,
		PRIMARY KEY (space, key)
	) STRICT;
	CREATE INDEX kv_expires ON kv (expires) WHERE expires > 0;
	CREATE TABLE kv_use (
		space TEXT PRIMARY KEY,
		n     INTEGER NOT NULL,
		bytes INTEGER NOT NULL
	) STRICT, WITHOUT ROWID;
	CREATE TRIGGER kv_insert AFTER INSERT ON kv BEGIN
		INSERT INTO kv_use VALUES (new.space, 1, length(new.value))
			ON CONFLICT DO UPDATE SET n = n + 1, bytes = bytes + excluded.bytes;
	END;
	CREATE TRIGGER kv_update AFTER UPDATE OF value ON kv BEGIN
		UPDATE kv_use SET bytes = bytes + length(new.value) - length(old.value) WHERE space = new.space;
	END;
	CREATE TRIGGER kv_delete AFTER DELETE ON kv BEGIN
		UPDATE kv_use SET n = n - 1, bytes = bytes - length(old.value) WHERE space = old.space;
		DELETE FROM kv_use WHERE space = old.space AND n = 0;
	END;`,

	// Version 1 bound approvals to a subject, but not to the home tenant and issuer that say whose.
	// Nobody can tell now, so those that wait or were given end here: the calls ask again.
	`ALTER TABLE approval ADD COLUMN home_tenant TEXT NOT NULL DEFAULT '';
	ALTER TABLE approval ADD COLUMN issuer TEXT NOT NULL DEFAULT '';
	UPDATE approval SET state = 'expired' WHERE state IN ('pending', 'approved');
	UPDATE approval SET live = 0;
	DROP INDEX approval_live;
	CREATE UNIQUE INDEX approval_live ON approval
		(tenant, home_tenant, issuer, subject, delegator, tool, version, policy, args) WHERE live = 1;`,

	// What is deleted of a customer is overwritten (PRAGMA secure_delete, see open).
	`CREATE TABLE memory (
		tenant   TEXT NOT NULL,
		id       TEXT NOT NULL,
		customer TEXT NOT NULL,
		text     TEXT NOT NULL,
		call     TEXT NOT NULL,
		created  INTEGER NOT NULL,
		expires  INTEGER NOT NULL,
		PRIMARY KEY (tenant, id)
	) STRICT;
	CREATE INDEX memory_customer ON memory (tenant, customer, created);
	CREATE INDEX memory_list ON memory (tenant, created);
	CREATE INDEX memory_expires ON memory (expires) WHERE expires > 0;`,
}

// migrate brings the file to the newest version. The immediate transaction makes a second process
// that opens the file at the same moment wait, and then find the work done.
func migrate(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // after Commit it does nothing

	var id, tables int
	if err := tx.QueryRowContext(ctx, `PRAGMA application_id`).Scan(&id); err != nil {
		return err
	}
	if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema`).Scan(&tables); err != nil {
		return err
	}
	if id != applicationID && (id != 0 || tables > 0) {
		return errForeign
	}
	if _, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA application_id = %d;
		CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY, applied INTEGER NOT NULL) STRICT;`, applicationID)); err != nil {
		return err
	}
	var version int
	if err := tx.QueryRowContext(ctx, `SELECT coalesce(max(version), 0) FROM schema_version`).Scan(&version); err != nil {
		return err
	}
	if version > len(migrations) {
		return errNewer
	}
	for i, m := range migrations[version:] {
		if _, err := tx.ExecContext(ctx, m); err != nil {
			return fmt.Errorf("migrate to version %d: %w", version+i+1, err)
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO schema_version VALUES (?, ?)`, version+i+1, time.Now().UnixNano()); err != nil {
			return err
		}
	}
	return tx.Commit()
}
