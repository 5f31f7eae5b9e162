package tool

import (
	"cmp"
	"errors"
	"fmt"
)

// A LoadError is a mistake in the definition of a tool.
type LoadError struct {
	File         string // the file's name; empty for a mistake in the settings of a source
	Line, Column int    // from 1; 0 where there is no place
	Message      string // what is wrong, and what to write instead
}

// Error returns "file:line:column: message".
func (e *LoadError) Error() string {
	switch {
	case e.File == "":
		return e.Message
	case e.Line == 0:
		return e.File + ": " + e.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// A place is where in a file something stands.
type place struct {
	file         string
	line, column int
}

func (p place) errorf(format string, args ...any) error {
	return &LoadError{File: p.file, Line: p.line, Column: p.column, Message: fmt.Sprintf(format, args...)}
}

func (p place) String() string {
	if p.line == 0 {
		return p.file
	}
	return fmt.Sprintf("%s:%d", p.file, p.line)
}

func byPlace(a, b error) int {
	x, okX := errors.AsType[*LoadError](a)
	y, okY := errors.AsType[*LoadError](b)
	if !okX || !okY {
		return 0
	}
	return cmp.Or(cmp.Compare(x.File, y.File), cmp.Compare(x.Line, y.Line), cmp.Compare(x.Column, y.Column))
}
