package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Head remembers how far the log has come, so that it shows when its end is cut off, which a chain
// alone cannot tell. It is set after the records are on disk. The safest place for it is another than the log's.
type Head interface {
	// Get returns what was set last. An empty hash says that nothing ever was, or that it is lost.
	Get() (seq uint64, hash string, err error)
	Set(seq uint64, hash string) error
}

func headPath(path string) string { return path + ".head" }
func lockPath(path string) string { return path + ".lock" }

// FileHead returns the head that [Open] keeps for the log at the path when it is given none: a file
// beside the log. It does not stop who can write both.
func FileHead(path string) Head { return fileHead(headPath(path)) }

// A fileHead is the path of a file with one line of fixed length.
type fileHead string

func (h fileHead) Get() (uint64, string, error) {
	data, err := os.ReadFile(string(h))
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(data) == 0 {
		return 0, "", nil
	}
	if err != nil {
		return 0, "", err
	}
	digits, hash, ok := strings.Cut(strings.TrimSuffix(string(data), "\n"), " ")
	seq, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || len(hash) != len(zeroHash) {
		return 0, "", fmt.Errorf("%s does not hold a number and a hash", filepath.Base(string(h)))
	}
	return seq, hash, nil
}

func (h fileHead) Set(seq uint64, hash string) error {
	f, err := os.OpenFile(string(h), os.O_WRONLY, 0)
	made := errors.Is(err, fs.ErrNotExist)
	if made {
		f, err = os.OpenFile(string(h), os.O_WRONLY|os.O_CREATE, 0o600)
	}
	if err != nil {
		return err
	}
	// Less than a sector, written in place: whole or not at all.
	_, err = f.WriteAt(fmt.Appendf(nil, "%020d %s\n", seq, hash), 0)
	if made && err == nil { // an older head after a crash does no harm, but none would be a false alarm
		err = errors.Join(f.Sync(), syncDir(filepath.Dir(string(h))))
	}
	return errors.Join(err, f.Close())
}

// rotatedPath names a file that is set aside by its first record: audit.jsonl becomes
// audit-00000000000000000001.jsonl.
func rotatedPath(path string, first uint64) string {
	ext := filepath.Ext(path)
	return fmt.Sprintf("%s-%020d%s", strings.TrimSuffix(path, ext), first, ext)
}

// rotated lists the files set aside, oldest first.
func rotated(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	ext := filepath.Ext(path)
	prefix := strings.TrimSuffix(filepath.Base(path), ext) + "-"
	var names []string
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), prefix)
		if !ok {
			continue
		}
		digits, ok = strings.CutSuffix(digits, ext)
		if _, err := strconv.ParseUint(digits, 10, 64); ok && err == nil && len(digits) == 20 {
			names = append(names, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	slices.Sort(names)
	return names, nil
}

// torn lists the files in which broken ends were set aside.
func torn(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), filepath.Base(path)+".torn-") {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// A part is one file of a log, open for reading up to a size.
type part struct {
	name string // base name
	f    *os.File
	size int64
}

// openParts opens all files of a log as they are at one moment. The caller closes them.
func openParts(path string) (parts []part, err error) {
	defer func() {
		if err != nil {
			closeParts(parts)
			parts = nil
		}
	}()
	// The active file first: if it is set aside meanwhile, it shows up again under its new name.
	active, err := openPart(path)
	switch {
	case err == nil:
		parts = []part{active}
	case !errors.Is(err, fs.ErrNotExist):
		return parts, err
	}
	names, err := rotated(path)
	if err != nil {
		return parts, err
	}
	older := make([]part, 0, len(names))
	for _, name := range names {
		p, err := openPart(name)
		if err != nil {
			closeParts(older)
			return parts, err
		}
		if len(parts) > 0 && sameFile(p.f, parts[0].f) {
			_ = p.f.Close()
			continue
		}
		older = append(older, p)
	}
	parts = append(older, parts...)
	if len(parts) == 0 {
		return nil, fmt.Errorf("no audit log at %s: %w", path, fs.ErrNotExist)
	}
	return parts, nil
}

func openPart(name string) (part, error) {
	f, err := os.Open(name) //nolint:gosec // the operator's own path
	if err != nil {
		return part{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return part{}, errors.Join(err, f.Close())
	}
	return part{filepath.Base(name), f, info.Size()}, nil
}

func sameFile(a, b *os.File) bool {
	x, err := a.Stat()
	if err != nil {
		return false
	}
	y, err := b.Stat()
	return err == nil && os.SameFile(x, y)
}

func closeParts(parts []part) {
	for _, p := range parts {
		_ = p.f.Close() // opened for reading only
	}
}
