package config

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Bounds of a file's shape. The YAML library takes time and memory that grow with the square of nested
// brackets and of the fields of one mapping, so what no configuration looks like is refused before it
// is parsed.
const (
	maxNesting = 500      // brackets that are open at once, those in strings too
	maxLine    = 64 << 10 // bytes of a line
	maxLines   = 20_000
)

// CheckShape refuses a file that is too large, opens too many brackets, or has too long or too many lines. It
// takes time in proportion to the file, and is for every YAML file, whoever parses it.
func CheckShape(name string, data []byte) error {
	if len(data) > MaxBytes {
		return &Error{File: name, Message: fmt.Sprintf("has more than %d bytes", MaxBytes)}
	}
	if n := bytes.Count(data, []byte("\n")); n > maxLines {
		return &Error{File: name, Message: fmt.Sprintf("has %d lines; the limit is %d", n, maxLines)}
	}
	line, start, open, marks := 1, 0, 0, 0
	for i, c := range data {
		switch c {
		case '\n':
			line, start, marks = line+1, i+1, 0
		case '[', '{':
			open++
		case ']', '}':
			open = max(open-1, 0)
		case ':', ',', '*', '&', '-', '?':
			marks++ // what makes a long line many fields or entries
		}
		var why string
		switch {
		case open > maxNesting:
			why = fmt.Sprintf("has more than %d open brackets", maxNesting)
		case i-start > maxLine:
			why = fmt.Sprintf("has a line of more than %d bytes", maxLine)
		case marks > maxLines/2:
			why = "has a line with too many fields or entries; write them on lines of their own"
		default:
			continue
		}
		return &Error{File: name, Line: line, Column: i - start + 1, Message: why}
	}
	return nil
}

// ReadFile reads a file of at most MaxBytes. It refuses what is not a regular file: a pipe or a device
// would never end.
func ReadFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: fmt.Errorf("is not a regular file (%s)", info.Mode().Type())}
	}
	f, err := os.Open(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err == nil && len(data) > MaxBytes {
		err = &Error{File: path, Message: fmt.Sprintf("has more than %d bytes", MaxBytes)}
	}
	return data, err
}
