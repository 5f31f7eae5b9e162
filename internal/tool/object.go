package tool

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

const (
	maxObject     = 1 << 20 // bytes of an object that are read or written
	defaultObject = 64 << 10
)

func keySchema(description string) schema {
	return schema{"type": "string", "description": description, "minLength": 1, "maxLength": 1024, "pattern": keyPattern}
}

func objectSchema() schema {
	return object(schema{
		"key":          schema{"type": "string"},
		"size_bytes":   schema{"type": "integer", "minimum": 0},
		"content_type": schema{"type": "string"},
		"content":      schema{"type": "string"},
		"encoding":     schema{"enum": []string{"utf-8", "base64"}},
		"truncated":    schema{"type": "boolean", "description": "content is only the beginning"},
	}, "key", "size_bytes", "content_type", "content", "encoding", "truncated")
}

// keyResource names the object that a call touches, for policy. A key that is not allowed gets a
// name that is no key, so that no rule about keys can match it; the run refuses it.
func keyResource(sourceName string, key func(atlas.Call) string) func(atlas.Call) string {
	return func(call atlas.Call) string {
		k := key(call)
		if source.CheckKey(k) != nil {
			return sourceName + "//"
		}
		return sourceName + "/" + k
	}
}

// prefixResource names what a list touches: the prefix as given, so that the rule that lets somebody read
// docs/* lets him list docs/, and neither docs nor everything.
func prefixResource(sourceName string) func(atlas.Call) string {
	return func(call atlas.Call) string {
		v, err := values(call)
		prefix := str(v, "prefix")
		if err != nil || prefix != "" && source.CheckKey(strings.TrimSuffix(prefix, "/")) != nil {
			return sourceName + "//"
		}
		return sourceName + "/" + prefix
	}
}

func keyArgument(call atlas.Call) string {
	v, err := values(call)
	if err != nil {
		return ""
	}
	return str(v, "key")
}

func getTool(name string, s source.Source) *atlas.Tool {
	store := s.(source.ObjectStore)
	return &atlas.Tool{
		Title: "Read an object of " + name,
		Description: "Reads one object of the " + name + " source by its key and returns its content, as text or as base64 if it " +
			"is not text. Use " + name + "_list to find keys. Only the first max_bytes bytes are returned. It changes nothing.",
		Input: raw(object(schema{
			"key":       keySchema("path of the object, such as reports/2026.md"),
			"max_bytes": integer("at most this many bytes", maxObject, defaultObject),
		}, "key")),
		Output:   raw(objectSchema()),
		ReadOnly: true, Idempotent: true, CacheTTL: 30 * time.Second, Timeout: objectTimeout,
		Resource: keyResource(name, keyArgument),
		Run: func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
			v, err := values(call)
			if err != nil {
				return atlas.Result{}, err
			}
			return readObject(ctx, store, call.Tenant, str(v, "key"), int64(num(v, "max_bytes", maxObject, defaultObject)))
		},
	}
}

// readObject answers with the beginning of an object.
func readObject(ctx context.Context, store source.ObjectStore, tenant atlas.TenantID, key string, limit int64) (atlas.Result, error) {
	if err := source.CheckKey(key); err != nil {
		return atlas.Result{}, err
	}
	o, err := store.Get(ctx, tenant, key, limit)
	if err != nil {
		return atlas.Result{}, err
	}
	content, truncated := o.Content, o.Truncated
	if int64(len(content)) > limit {
		content, truncated = content[:limit], true
	}
	encoding, body := "utf-8", string(content)
	if truncated { // the cut may have gone through a character
		body = wholeRunes(body)
	}
	if !utf8.ValidString(body) || strings.ContainsRune(body, 0) {
		encoding, body = "base64", base64.StdEncoding.EncodeToString(content)
	}
	return answer(map[string]any{
		"key": key, "size_bytes": max(o.Size, int64(len(content))), "content_type": o.ContentType,
		"content": body, "encoding": encoding, "truncated": truncated,
	})
}

// wholeRunes returns s without a last character that is cut off.
func wholeRunes(s string) string {
	for i := 1; i <= utf8.UTFMax && i <= len(s); i++ {
		if c := s[len(s)-i]; utf8.RuneStart(c) {
			if !utf8.FullRuneInString(s[len(s)-i:]) {
				return s[:len(s)-i]
			}
			break
		}
	}
	return s
}

func listTool(name string, s source.Source) *atlas.Tool {
	store := s.(source.ObjectStore)
	return &atlas.Tool{
		Title: "List objects of " + name,
		Description: "Lists objects of the " + name + " source whose keys begin with prefix, with size and date of change. " +
			"Use it to find keys for " + name + "_get. It changes nothing.",
		Input: raw(object(schema{
			"prefix": schema{
				"type": "string", "description": "beginning of the keys; empty for all", "maxLength": 1024,
				"pattern": prefixPattern, "default": "",
			},
			"limit": integer("at most this many objects", 1000, 100),
		})),
		Output: raw(paged(schema{
			"objects": array(object(schema{
				"key":        schema{"type": "string"},
				"size_bytes": schema{"type": "integer", "minimum": 0},
				"modified":   schema{"type": "string"},
			}, "key", "size_bytes", "modified")),
		}, "objects")),
		Items: "objects", ReadOnly: true, Idempotent: true, Timeout: objectTimeout,
		Resource: prefixResource(name),
		Run: func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
			v, err := values(call)
			if err != nil {
				return atlas.Result{}, err
			}
			prefix := str(v, "prefix")
			if p := strings.TrimSuffix(prefix, "/"); prefix != "" {
				if err := source.CheckKey(p); err != nil {
					return atlas.Result{}, atlas.Errorf(atlas.CodeInvalidArguments, err, "the prefix is not the beginning of a key").
						With("argument", "prefix")
				}
			}
			objects, err := store.List(ctx, call.Tenant, prefix, num(v, "limit", 1000, 100))
			if err != nil {
				return atlas.Result{}, err
			}
			if objects == nil {
				objects = []source.ObjectInfo{}
			}
			return answer(map[string]any{"objects": objects})
		},
	}
}

func putTool(name string, s source.Source) *atlas.Tool {
	store := s.(source.ObjectStore)
	return &atlas.Tool{
		Title: "Write an object of " + name,
		Description: "Writes one text object of the " + name + " source under a key, replacing what was there. " +
			"Use it only when the user asks for a file to be stored. A person must approve the call before it takes effect.",
		Input: raw(object(schema{
			"key":     keySchema("path of the object, such as reports/2026.md"),
			"content": text("the whole content, as text", maxObject),
			"content_type": schema{
				"type": "string", "description": "media type of the content", "maxLength": 100,
				"pattern": `^[a-z]+/[a-z0-9.+-]+(?:; ?charset=utf-8)?$`, "default": "text/plain",
			},
		}, "key", "content")),
		Output: raw(object(schema{
			"key":           schema{"type": "string"},
			"bytes_written": schema{"type": "integer", "minimum": 0},
		}, "key", "bytes_written")),
		Destructive: true, Idempotent: true, Effects: atlas.EffectsWrite, Timeout: objectTimeout,
		Resource: keyResource(name, keyArgument),
		Preview: func(ctx context.Context, call atlas.Call) (string, error) {
			v, err := values(call)
			if err != nil {
				return "", err
			}
			key := str(v, "key")
			if err := source.CheckKey(key); err != nil {
				return "", err
			}
			what := "creates a new object"
			old, err := store.Get(ctx, call.Tenant, key, 1)
			switch code := atlas.CodeOf(err); {
			case err == nil:
				what = fmt.Sprintf("replaces an object of %d bytes", old.Size)
			case code == atlas.CodeTooLarge:
				what = "replaces an object"
			case code != atlas.CodeNotFound:
				return "", err
			}
			content := str(v, "content")
			return fmt.Sprintf("Write %d bytes (%s, SHA-256 %x) to %q of %s: %s. The content: %s",
				len(content), contentType(v), sha256.Sum256([]byte(content)), key, name, what, beginning(content, 1000)), nil
		},
		Run: func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
			v, err := values(call)
			if err != nil {
				return atlas.Result{}, err
			}
			key, content := str(v, "key"), str(v, "content")
			if err := source.CheckKey(key); err != nil {
				return atlas.Result{}, err
			}
			if len(content) > maxObject { // the schema counts characters
				return atlas.Result{}, atlas.Errorf(atlas.CodeTooLarge, nil, "the content is too large").With("limit_bytes", maxObject)
			}
			err = store.Put(ctx, call.Tenant, key, source.Object{
				ObjectInfo:  source.ObjectInfo{Key: key, Size: int64(len(content))},
				ContentType: contentType(v), Content: []byte(content),
			})
			if err != nil {
				return atlas.Result{}, err
			}
			return answer(map[string]any{"key": key, "bytes_written": len(content)})
		},
	}
}

func contentType(v map[string]any) string {
	if t := str(v, "content_type"); t != "" {
		return t
	}
	return "text/plain"
}
