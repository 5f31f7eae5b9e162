package app

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	defaults "github.com/atlas-mcp/atlas/config"
	"github.com/atlas-mcp/atlas/internal/config"
)

// Files finds the files of a configuration: the main file, and the others by the names that it
// gives, relative to its folder.
type Files struct {
	main string // name of the main file, within fsys or on disk
	dir  string // folder of the main file; empty for the embedded defaults
	fsys fs.FS  // set for the embedded defaults
}

// OpenFiles returns the files round the named main file, or the embedded defaults if it is empty.
func OpenFiles(main string) Files {
	if main == "" {
		return Files{main: "atlas.yaml", fsys: defaults.FS}
	}
	return Files{main: filepath.Base(main), dir: filepath.Dir(main)}
}

// Embedded reports whether these are the defaults inside the program.
func (f Files) Embedded() bool { return f.fsys != nil }

// Name returns how messages call the named file.
func (f Files) Name(name string) string {
	if f.Embedded() {
		return "(built in)/" + name
	}
	return f.path(name)
}

func (f Files) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(f.dir, name)
}

// Read returns the content of the named YAML file, whose shape has been checked.
func (f Files) Read(name string) (data []byte, err error) {
	if f.Embedded() {
		data, err = fs.ReadFile(f.fsys, name)
	} else {
		data, err = config.ReadFile(f.path(name))
	}
	if err != nil {
		return nil, err
	}
	return data, config.CheckShape(f.Name(name), data)
}

// Glob returns the files that match the patterns, sorted. A pattern without a match is an error,
// unless it has a wildcard.
func (f Files) Glob(patterns []string) ([]string, error) {
	var names []string
	var errs []error
	for _, pattern := range patterns {
		var found []string
		var err error
		if f.Embedded() {
			found, err = fs.Glob(f.fsys, pattern)
		} else {
			found, err = filepath.Glob(f.path(pattern))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", pattern, err))
		}
		if len(found) == 0 && !hasWildcard(pattern) {
			errs = append(errs, fmt.Errorf("%s: %w", f.Name(pattern), fs.ErrNotExist))
		}
		names = append(names, found...)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if f.Embedded() {
		return names, errors.Join(errs...)
	}
	// Found names are paths already; make them relative to nothing by being absolute.
	for i, n := range names {
		abs, err := filepath.Abs(n)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		names[i] = abs
	}
	return names, errors.Join(errs...)
}

func hasWildcard(pattern string) bool {
	for _, c := range pattern {
		if c == '*' || c == '?' || c == '[' {
			return true
		}
	}
	return false
}
