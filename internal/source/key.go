package source

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
)

// maxKey is the longest object key, in bytes (as in S3).
const maxKey = 1024

// CheckKey checks that key is a plain relative path, so that no key can name something above or
// beside the tenant's objects in any store. The error has the code invalid_arguments.
func CheckKey(key string) error {
	bad := func(why string) error {
		return atlas.Errorf(atlas.CodeInvalidArguments, nil, "key "+why).With("argument", "key")
	}
	switch {
	case key == "":
		return bad("is empty")
	case len(key) > maxKey:
		return bad("is longer than 1024 bytes")
	case !utf8.ValidString(key):
		return bad("is not UTF-8")
	case strings.ContainsFunc(key, func(r rune) bool { return r == '\\' || unicode.IsControl(r) }):
		return bad("holds a backslash or a control character")
	}
	for segment := range strings.SplitSeq(key, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return bad(`has an empty, "." or ".." segment`)
		}
	}
	return nil
}

// CheckPrefix checks that prefix is empty or can begin a key: what comes after its last slash may be
// any beginning of a name, even none or ".". The error has the code invalid_arguments.
func CheckPrefix(prefix string) error {
	if prefix == "" {
		return nil
	}
	if err := CheckKey(prefix + "x"); err != nil {
		return atlas.Errorf(atlas.CodeInvalidArguments, err, "prefix cannot begin any key").With("argument", "prefix")
	}
	return nil
}
