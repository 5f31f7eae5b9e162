package sqlitefile

import (
	"container/list"
	"context"
	"errors"
	"io/fs"
	"os"

	"github.com/atlas-mcp/atlas"
)

// acquire returns the tenant's open file, opening it if needed. While all places are in use it
// waits for one.
func (s *Store) acquire(ctx context.Context, tenant atlas.TenantID) (*file, error) {
	path, err := s.path(tenant)
	if err != nil {
		return nil, err
	}
	// A link could lead to another tenant's file.
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.forget(tenant)
		if s.isClosed() {
			return nil, errClosed()
		}
		return nil, ErrAbsent
	case err != nil:
		return nil, err
	case !info.Mode().IsRegular():
		return nil, atlas.Errorf(atlas.CodeSourceMisused, errors.New("tenant's file is not a regular file"), "")
	}
	if info.Size() == 0 {
		return nil, ErrAbsent // made by a writer that has not committed anything yet
	}
	if !s.isOpen(tenant) {
		if err := s.recover(ctx, path); err != nil {
			return nil, err
		}
	}
	for {
		f, wait, err := s.take(tenant, info, path)
		if f != nil || err != nil {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-wait:
		}
	}
}

func (s *Store) isOpen(tenant atlas.TenantID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.files[tenant]
	return ok
}

func (s *Store) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// take returns the tenant's file, or a channel that is closed when it makes sense to ask again.
func (s *Store) take(tenant atlas.TenantID, info os.FileInfo, path string) (*file, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, errClosed()
	}
	if e, ok := s.files[tenant]; ok {
		f := e.Value.(*file)
		if os.SameFile(f.info, info) {
			f.users++
			s.recent.MoveToFront(e)
			return f, nil, nil
		}
		s.drop(e) // replaced under our feet
	}
	if s.recent.Len() >= s.opt.MaxTenants && !s.evict() {
		return nil, s.freed, nil
	}
	params := readParams(s.opt)
	params.Set("mode", "ro")
	name, err := dsn(path, params)
	if err != nil {
		return nil, nil, err
	}
	db, err := open(name, s.opt.MaxConns)
	if err != nil {
		return nil, nil, err
	}
	f := &file{tenant: tenant, info: info, db: db, users: 1}
	s.files[tenant] = s.recent.PushFront(f)
	return f, nil, nil
}

func (s *Store) release(f *file) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.users--; f.users > 0 {
		return
	}
	if f.stale {
		_ = f.db.Close() // it was only read from
		return
	}
	if s.closed {
		return
	}
	close(s.freed)
	s.freed = make(chan struct{})
}

// forget closes the tenant's file, if it is open.
func (s *Store) forget(tenant atlas.TenantID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, ok := s.files[tenant]; ok {
		s.drop(e)
	}
}

// evict closes the file unused longest and reports whether there was one without users. The
// caller holds s.mu.
func (s *Store) evict() bool {
	for e := s.recent.Back(); e != nil; e = e.Prev() {
		if e.Value.(*file).users == 0 {
			s.drop(e)
			return true
		}
	}
	return false
}

// drop takes a file out of the store. The caller holds s.mu.
func (s *Store) drop(e *list.Element) {
	f := e.Value.(*file)
	delete(s.files, f.tenant)
	s.recent.Remove(e)
	if f.stale = true; f.users == 0 {
		_ = f.db.Close() // it was only read from
	}
}
