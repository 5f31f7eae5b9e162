package approval

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
)

const (
	previewTimeout = 5 * time.Second
	maxShownValue  = 200 // runes of one string of the arguments
)

// preview describes what the call would do, for the person who decides. Its words come in part
// from the asker, so it is made harmless for terminals and for the reader's eye.
func (g *Gate) preview(ctx context.Context, call atlas.Call) string {
	text := ""
	if call.Tool.Preview != nil {
		pctx, cancel := context.WithTimeout(ctx, previewTimeout)
		defer cancel()
		var err error
		if text, err = call.Tool.Preview(pctx, call); err != nil {
			g.log.InfoContext(ctx, "no preview of a destructive call", slog.String("tool", call.Tool.Name), slog.Any("error", err))
			text = ""
		}
	}
	if text == "" {
		text = call.Tool.Name + " " + arguments(call)
	}
	if g.deps.Redact != nil {
		text = g.deps.Redact(text)
	}
	return cut(plain(text), g.cfg.MaxPreview)
}

// arguments are the call's arguments with secrets hidden and long strings shortened, so that a
// long first argument cannot push the others out of sight.
func arguments(call atlas.Call) string {
	data, err := json.Marshal(hide(call.Args.Values))
	if err != nil {
		return "(arguments that cannot be shown)"
	}
	return string(data)
}

func hide(v any) any {
	switch v := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(v))
		for key, value := range v {
			if secret(key) {
				m[key] = "[redacted]"
			} else {
				m[key] = hide(value)
			}
		}
		return m
	case []any:
		s := make([]any, len(v))
		for i := range v {
			s[i] = hide(v[i])
		}
		return s
	case string:
		if n := utf8.RuneCountInString(v); n > maxShownValue {
			return string([]rune(v)[:maxShownValue]) + fmt.Sprintf("… (%d characters)", n)
		}
	}
	return v
}

// secret reports whether an argument of that name is likely to hold a secret.
func secret(name string) bool {
	name = strings.ToLower(strings.NewReplacer("_", "", "-", "", ".", "").Replace(name))
	for _, word := range []string{"password", "passwd", "passphrase", "secret", "token", "apikey", "authorization", "credential", "privatekey", "cookie"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

// plain shows control characters (terminal escapes) and format characters (those that reverse or
// hide text, CVE-2021-42574) by their numbers instead of obeying them. Line breaks stay.
func plain(s string) string {
	bad := func(r rune) bool {
		return r != '\n' && (unicode.Is(unicode.C, r) || r == utf8.RuneError || r == '\u2028' || r == '\u2029')
	}
	if !strings.ContainsFunc(s, bad) {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if bad(r) {
			fmt.Fprintf(&b, "\\u{%x}", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// cut shortens s to at most limit bytes, and says so.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	tail := fmt.Sprintf("\n… (cut; %d bytes in all)", len(s))
	end := limit - len(tail)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + tail
}
