package main

import (
	"bytes"
	"fmt"
	"os"
)

// The table in the README stands between these lines.
const (
	beginMark = "<!-- conformance:begin -->"
	endMark   = "<!-- conformance:end -->"
)

func updateReadme(file string, results []result) error {
	old, err := os.ReadFile(file) //nolint:gosec // README.md
	if err != nil {
		return err
	}
	data, err := splice(old, markdown(results))
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if bytes.Equal(old, data) {
		return nil
	}
	return os.WriteFile(file, data, 0o644) //nolint:gosec // README.md
}

// splice puts table between the marks.
func splice(text []byte, table string) ([]byte, error) {
	begin, end := bytes.Index(text, []byte(beginMark)), bytes.Index(text, []byte(endMark))
	if begin < 0 || end < begin {
		return nil, fmt.Errorf("has no lines %s and %s", beginMark, endMark)
	}
	var out bytes.Buffer
	out.Write(text[:begin+len(beginMark)])
	out.WriteString("\n" + table)
	out.Write(text[end:])
	return out.Bytes(), nil
}
