//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/atlas-mcp/atlas/internal/testenv/servers"
)

// A standing stack is the one that `up` keeps. Its state is a file that only the holder of
// the lock beside it may change; every change is written at once, so that nothing runs that the file
// does not know.
type standing struct {
	dir    string // with state.json, lock and logs
	unlock func()

	mu      sync.Mutex // servers are started side by side
	records []servers.Record
}

// openStanding takes the lock, waiting for whoever has it, and reads the state.
func openStanding(ctx context.Context, p *program) (*standing, error) {
	s, err := readStanding(p)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(s.dir, "logs"), 0o750); err != nil {
		return nil, err
	}
	if s.unlock, err = servers.Lock(ctx, filepath.Join(s.dir, "lock")); err != nil {
		return nil, err
	}
	// Read again: another run may have changed it before we had the lock.
	again, err := readStanding(p)
	if err != nil {
		s.unlock()
		return nil, err
	}
	s.records = again.records
	return s, nil
}

// readStanding reads the state without the lock, for words that only look.
func readStanding(p *program) (*standing, error) {
	dir, err := filepath.Abs(p.state)
	if err != nil {
		return nil, err
	}
	s := &standing{dir: dir, unlock: func() {}}
	data, err := os.ReadFile(s.file())
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &s.records); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; end its servers by hand and remove it", s.file(), err)
	}
	return s, nil
}

func (s *standing) file() string { return filepath.Join(s.dir, "state.json") }

func (s *standing) log(name string) string { return filepath.Join(s.dir, "logs", name+".log") }

// note keeps the record of a server, in place of the one of the same name.
func (s *standing) note(r servers.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = slices.DeleteFunc(s.records, func(o servers.Record) bool { return o.Name == r.Name })
	s.records = append(s.records, r)
	return s.save()
}

// forget drops the record of the server.
func (s *standing) forget(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = slices.DeleteFunc(s.records, func(o servers.Record) bool { return o.Name == name })
	return s.save()
}

// save writes the state, whole or not at all; the caller holds mu.
func (s *standing) save() error {
	if len(s.records) == 0 {
		if err := os.Remove(s.file()); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	data, err := json.MarshalIndent(s.records, "", "  ")
	if err != nil {
		return err
	}
	beside := s.file() + ".new"
	if err := os.WriteFile(beside, append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(beside, s.file())
}

// adopt returns the servers of the records, in the order of the table.
func (s *standing) adopt() ([]*servers.Server, error) {
	var all []*servers.Server
	for _, k := range append(servers.Table(), s.atlas()) {
		for _, r := range s.records {
			if r.Name != k.Name {
				continue
			}
			own, err := servers.Adopt(k, r)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.file(), err)
			}
			all = append(all, own)
		}
	}
	if len(all) != len(s.records) {
		return nil, fmt.Errorf("%s tells of a server that this program does not know", s.file())
	}
	return all, nil
}
