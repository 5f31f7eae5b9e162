// Package folder is the object store of the embedded profile: a folder for each tenant, opened as
// an [os.Root], so that no key and no symbolic link leads out of it. An object is a file; nothing
// is stored beside it, so people may put files there themselves.
package folder

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// staging is the folder for objects being written, within the tenant's: a rename must not cross
// file systems. No key leads into it.
const staging = ".atlas-staging"

// Config are the driver's settings.
type Config struct {
	Dir            string `yaml:"dir"`              // holds a folder for each tenant; default: the source's name in the data directory
	MaxObjectBytes int64  `yaml:"max_object_bytes"` // largest object to write, and most bytes of one to read; 0 means 16 MiB
	MaxList        int    `yaml:"max_list"`         // most objects in one list; 0 means 1000
}

func (c Config) withDefaults(deps source.Deps) Config {
	c.Dir = cmp.Or(c.Dir, filepath.Join(deps.DataDir, deps.Name))
	c.MaxObjectBytes = cmp.Or(c.MaxObjectBytes, 16<<20)
	c.MaxList = cmp.Or(c.MaxList, 1000)
	return c
}

// Validate reports all mistakes, joined.
func (c *Config) Validate() error {
	var errs []error
	if c.MaxObjectBytes < 0 || c.MaxObjectBytes > 1<<30 {
		errs = append(errs, fmt.Errorf("max_object_bytes must be between 1 and 1073741824, is %d", c.MaxObjectBytes))
	}
	if c.MaxList < 0 || c.MaxList > 10_000 {
		errs = append(errs, fmt.Errorf("max_list must be between 1 and 10000, is %d", c.MaxList))
	}
	return errors.Join(errs...)
}

// Open opens the folder, making it if it is missing.
func (c *Config) Open(ctx context.Context, deps source.Deps) (source.Source, error) {
	if err := errors.Join(c.Validate(), ctx.Err()); err != nil {
		return nil, err
	}
	cfg := c.withDefaults(deps)
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	base, err := os.OpenRoot(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open folder: %w", err)
	}
	return &Folder{cfg: cfg, base: base}, nil
}

// A Folder is an open folder of objects. It implements source.ObjectStore and source.Loader.
type Folder struct {
	cfg Config

	mu     sync.RWMutex // held for reading by every call; guards closed
	closed bool
	base   *os.Root
}

// Ping asks whether the folder is there.
func (f *Folder) Ping(ctx context.Context) error {
	return f.do(ctx, func() error {
		if _, err := f.base.Stat("."); err != nil {
			return err
		}
		_, err := os.Stat(f.cfg.Dir) // the open root would outlive its removal
		return err
	})
}

// Close lets running calls end and closes the folder.
func (f *Folder) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	return f.base.Close()
}

// do runs fn unless the folder is closed or ctx has ended, and gives its failure a code.
func (f *Folder) do(ctx context.Context, fn func() error) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.closed {
		return atlas.Errorf(atlas.CodeSourceUnavailable, errors.New("source is closed"), "")
	}
	if err := ctx.Err(); err != nil {
		return atlas.ErrorOf(err)
	}
	return failure(fn())
}

func failure(err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*atlas.Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return atlas.ErrorOf(err)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR),
		errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.ELOOP):
		return atlas.Errorf(atlas.CodeNotFound, err, "")
	}
	return atlas.Errorf(atlas.CodeSourceUnavailable, err, "")
}

// tenant opens the tenant's folder; fs.ErrNotExist if there is none.
func (f *Folder) tenant(tenant atlas.TenantID) (*os.Root, error) {
	if _, err := atlas.ParseTenantID(string(tenant)); err != nil {
		return nil, atlas.Errorf(atlas.CodeInternal, err, "")
	}
	// A link could lead to another tenant's folder without leaving the base.
	info, err := f.base.Lstat(string(tenant))
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, atlas.Errorf(atlas.CodeSourceMisused, errors.New("tenant's folder is not a directory"), "")
	}
	return f.base.OpenRoot(string(tenant))
}

func checkKey(key string) error {
	if err := source.CheckKey(key); err != nil {
		return err
	}
	if top, _, _ := strings.Cut(key, "/"); top == staging {
		return atlas.Errorf(atlas.CodeInvalidArguments, nil, "key is reserved").With("argument", "key")
	}
	return nil
}

// Get implements source.ObjectStore. It returns at most maxBytes of the content (0 means the
// configured limit) and sets Truncated if there is more.
func (f *Folder) Get(ctx context.Context, tenant atlas.TenantID, key string, maxBytes int64) (source.Object, error) {
	var o source.Object
	err := f.do(ctx, func() error {
		if err := checkKey(key); err != nil {
			return err
		}
		if maxBytes < 0 {
			return atlas.Errorf(atlas.CodeInvalidArguments, nil, "max_bytes is negative").With("argument", "max_bytes")
		}
		root, err := f.tenant(tenant)
		if err != nil {
			return err
		}
		defer root.Close() //nolint:errcheck // only read, or closed before
		// Opening a named pipe would wait for its other end for ever.
		info, err := root.Lstat(key)
		if err != nil {
			return escape(err)
		}
		if !info.Mode().IsRegular() {
			return fs.ErrNotExist
		}
		file, err := root.OpenFile(key, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return escape(err)
		}
		defer file.Close() //nolint:errcheck // only read, or closed before
		limit := f.cfg.MaxObjectBytes
		if maxBytes > 0 {
			limit = min(limit, maxBytes)
		}
		content, err := io.ReadAll(io.LimitReader(&reader{ctx, file}, limit+1))
		if err != nil {
			return err
		}
		o = source.Object{
			ObjectInfo:  source.ObjectInfo{Key: key, Size: info.Size(), Modified: info.ModTime().UTC()},
			ContentType: source.ContentType(key), Content: content,
		}
		if int64(len(content)) > limit {
			o.Content, o.Truncated = content[:limit], true
		}
		return nil
	})
	if err != nil {
		return source.Object{}, err
	}
	return o, nil
}

// A reader stops when its context ends.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// escape makes a link that leads out of the root look like no object: os.Root has no error value
// of its own for it, so what is no other failure is one.
func escape(err error) error {
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		if _, isErrno := errors.AsType[syscall.Errno](pe.Err); !isErrno {
			return fs.ErrNotExist
		}
	}
	return err
}

// Put implements source.ObjectStore: the object is there whole or not at all. The content type is
// what the key's extension says. Codes: too_large; invalid_arguments if an object is in the way (a
// key below another object's key, or the reverse).
func (f *Folder) Put(ctx context.Context, tenant atlas.TenantID, key string, o source.Object) error {
	return f.do(ctx, func() error {
		if err := checkKey(key); err != nil {
			return err
		}
		if int64(len(o.Content)) > f.cfg.MaxObjectBytes {
			return atlas.Errorf(atlas.CodeTooLarge, nil, "the object is larger than the limit").
				With("limit_bytes", f.cfg.MaxObjectBytes)
		}
		if _, err := atlas.ParseTenantID(string(tenant)); err != nil {
			return atlas.Errorf(atlas.CodeInternal, err, "")
		}
		if err := f.base.Mkdir(string(tenant), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		root, err := f.tenant(tenant)
		if err != nil {
			return err
		}
		defer root.Close() //nolint:errcheck // only read, or closed before
		return put(ctx, root, key, o.Content)
	})
}

func put(ctx context.Context, root *os.Root, key string, content []byte) (err error) {
	if err := root.MkdirAll(staging, 0o700); err != nil {
		return err
	}
	temp := staging + "/" + rand.Text()
	file, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = root.Remove(temp) // the failure is what counts
		}
	}()
	if _, err := file.Write(content); err != nil {
		_ = file.Close()
		return err
	}
	if err := errors.Join(file.Sync(), file.Close(), ctx.Err()); err != nil {
		return err
	}
	if dir := path.Dir(key); dir != "." {
		if err := root.MkdirAll(dir, 0o700); err != nil {
			return blocked(err)
		}
	}
	if err := root.Rename(temp, key); err != nil {
		return blocked(err)
	}
	return nil
}

// blocked says that an object is in the way of another one's key.
func blocked(err error) error {
	for _, e := range []error{syscall.ENOTDIR, syscall.EISDIR, syscall.EEXIST, syscall.ENOTEMPTY, syscall.ENAMETOOLONG} {
		if errors.Is(err, e) {
			return atlas.Errorf(atlas.CodeInvalidArguments, err, "an object cannot have this key: it is too long, or another object is in the way").
				With("argument", "key")
		}
	}
	return escape(err)
}

// Load implements source.Loader with data.Objects.
func (f *Folder) Load(ctx context.Context, tenant atlas.TenantID, data source.Data) error {
	for _, o := range data.Objects {
		if err := f.Put(ctx, tenant, o.Key, o); err != nil {
			return err
		}
		if o.Modified.IsZero() {
			continue
		}
		err := f.do(ctx, func() error {
			root, err := f.tenant(tenant)
			if err != nil {
				return err
			}
			defer root.Close() //nolint:errcheck // only read, or closed before
			return root.Chtimes(o.Key, time.Time{}, o.Modified)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
