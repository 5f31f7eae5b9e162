package config

import "fmt"

// Bounds of a file's shape. The YAML library takes time that grows with the square of nested brackets,
// so what no configuration looks like is refused before it is parsed.
const (
	maxNesting = 100      // brackets in each other
	maxLine    = 64 << 10 // bytes of a line
)

// CheckShape refuses a file that is too large, nests too many brackets, or has a line that is too long. It
// takes time in proportion to the file, and is for every YAML file, whoever parses it.
func CheckShape(name string, data []byte) error {
	if len(data) > MaxBytes {
		return &Error{File: name, Message: fmt.Sprintf("has %d bytes; the limit is %d", len(data), MaxBytes)}
	}
	line, start, depth := 1, 0, 0
	for i, c := range data {
		switch c {
		case '\n':
			line, start = line+1, i+1
		case '[', '{':
			// Brackets in strings are counted, too; a field at the margin begins anew, so that they do not add up.
			depth++
		case ']', '}':
			depth = max(depth-1, 0)
		default:
			if i == start && c != ' ' && c != '\t' {
				depth = 0
			}
		}
		if depth > maxNesting || i-start > maxLine {
			why := fmt.Sprintf("nests more than %d brackets", maxNesting)
			if depth <= maxNesting {
				why = fmt.Sprintf("has a line of more than %d bytes", maxLine)
			}
			return &Error{File: name, Line: line, Column: i - start + 1, Message: why}
		}
	}
	return nil
}
