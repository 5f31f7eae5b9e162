//go:build unix

package servers

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
)

// ownerFile is in the folder of a server that does not stay, and tells who started it.
const ownerFile = "owner.json"

// An owner is a process of this machine.
type owner struct {
	PID int    `json:"pid"`
	ID  string `json:"id"`
}

// claim writes who owns the folder: this process.
func claim(dir string) error {
	me := owner{PID: os.Getpid(), ID: identity(os.Getpid())}
	data, err := json.Marshal(me)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, ownerFile), data, 0o600)
}

// Sweep removes the folders of servers whose owners were killed before they could do so.
func Sweep() error {
	var errs []error
	for _, k := range Table() {
		dirs, err := filepath.Glob(filepath.Join(os.TempDir(), prefix(k)+"*"))
		errs = append(errs, err)
		for _, dir := range dirs {
			if abandoned(dir) {
				errs = append(errs, os.RemoveAll(dir))
			}
		}
	}
	return errors.Join(errs...)
}

// abandoned reports whether the folder's owner has ended. A folder without one is of a server that stays,
// or of somebody else.
func abandoned(dir string) bool {
	data, err := os.ReadFile(filepath.Join(dir, ownerFile)) //nolint:gosec // one of ours, or it does not parse
	if err != nil {
		return false
	}
	var who owner
	return json.Unmarshal(data, &who) == nil && who.PID > 1 && who.ID != "" && identity(who.PID) != who.ID
}
