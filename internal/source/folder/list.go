package folder

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// maxDepth is how deep folders are searched: a key has at most 1024 bytes.
const maxDepth = 512

// List implements source.ObjectStore: the objects whose keys begin with prefix (any string, as in
// S3, not only a folder), sorted by key, at most limit of them (0 means the configured limit).
func (f *Folder) List(ctx context.Context, tenant atlas.TenantID, prefix string, limit int) ([]source.ObjectInfo, error) {
	var out []source.ObjectInfo
	err := f.do(ctx, func() error {
		if err := source.CheckPrefix(prefix); err != nil {
			return err
		}
		if limit < 0 {
			return atlas.Errorf(atlas.CodeInvalidArguments, nil, "limit is negative").With("argument", "limit")
		}
		if limit == 0 || limit > f.cfg.MaxList {
			limit = f.cfg.MaxList
		}
		root, err := f.tenant(tenant)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer root.Close() //nolint:errcheck // only read
		w := walk{ctx: ctx, root: root, prefix: prefix, limit: limit}
		start := "."
		if i := strings.LastIndexByte(prefix, '/'); i >= 0 {
			start = prefix[:i]
		}
		err = w.folder(start, 0)
		out = w.out
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// A walk collects objects in the order of their keys.
type walk struct {
	ctx    context.Context
	root   *os.Root
	prefix string
	limit  int
	out    []source.ObjectInfo
}

func (w *walk) folder(dir string, depth int) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if depth > maxDepth {
		return nil
	}
	entries, err := readDir(w.root, dir)
	if err != nil {
		// It is gone, is no folder, or is a link that leads out: nothing to list here.
		if errors.Is(failure(escape(err)), &atlas.Error{Code: atlas.CodeNotFound}) {
			return nil
		}
		return err
	}
	// The order of keys: "a-b" comes before "a/b", so a folder counts with its slash.
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(sortName(a), sortName(b)) })
	for _, e := range entries {
		if len(w.out) >= w.limit {
			return nil
		}
		if err := w.ctx.Err(); err != nil {
			return err
		}
		key := path.Join(dir, e.Name())
		if checkKey(key) != nil {
			continue // not an object: it could not be asked for
		}
		switch {
		case e.IsDir():
			if strings.HasPrefix(key+"/", w.prefix) || strings.HasPrefix(w.prefix, key+"/") {
				if err := w.folder(key, depth+1); err != nil {
					return err
				}
			}
		case e.Type().IsRegular() && strings.HasPrefix(key, w.prefix):
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed since
			}
			if err != nil {
				return err
			}
			w.out = append(w.out, source.ObjectInfo{Key: key, Size: info.Size(), Modified: info.ModTime().UTC()})
		}
	}
	return nil
}

// readDir returns what is in dir, which must be a folder and not a link to one.
func readDir(root *os.Root, dir string) ([]fs.DirEntry, error) {
	info, err := root.Lstat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fs.ErrNotExist
	}
	// Should a named pipe have taken its place, opening it would wait for its other end.
	f, err := root.OpenFile(dir, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	return f.ReadDir(-1)
}

func sortName(e fs.DirEntry) string {
	if e.IsDir() {
		return e.Name() + "/"
	}
	return e.Name()
}
