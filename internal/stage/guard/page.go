package guard

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/canonical"
)

// mustPage reports whether an answer has to be cut: it is over a limit, or a later page is asked
// for. It looks at the items only if there could be too many.
func (g *Guard) mustPage(call atlas.Call, structured []byte) bool {
	if call.Page.Offset > 0 || len(structured) > g.cfg.MaxBytes {
		return true
	}
	if (len(structured)+1)/2 > g.cfg.MaxTokens && EstimateTokens(structured) > g.cfg.MaxTokens {
		return true
	}
	// Between n items there are n-1 commas.
	if call.Tool.Items == "" || bytes.Count(structured, []byte{','}) < g.cfg.MaxItems {
		return false
	}
	obj, err := splitObject(structured, call.Tool.Items)
	// What is not JSON is refused on the slow way.
	return err != nil || len(obj.items) > g.cfg.MaxItems
}

// page cuts the list of an answer to the items from the page's offset that fit the limits.
func (g *Guard) page(call atlas.Call, res atlas.Result, m mode) (atlas.Result, error) {
	if call.Tool.Items == "" {
		return res, g.tooLargeToPage(res.Structured)
	}
	obj, err := splitObject(res.Structured, call.Tool.Items)
	if err != nil {
		return res, atlas.Errorf(atlas.CodeInternal, fmt.Errorf("guard: page the answer of tool %s: %w", call.Tool.Name, err), "")
	}
	if !obj.found {
		if call.Page.Offset > 0 {
			return res, errInvalidCursor()
		}
		return res, g.tooLargeToPage(res.Structured)
	}
	w := pageWriter{g: g, mode: m, out: make([]byte, 0, min(len(res.Structured), g.cfg.MaxBytes)+256)}
	offset := min(call.Page.Offset, len(obj.items))
	count, err := w.write(res.Structured, obj, offset)
	if err != nil {
		return res, err
	}
	res.Notes.Redacted += w.redacted
	res.NextCursor = ""
	if next := offset + count; next < len(obj.items) {
		digest, err := argumentsDigest(call.Args.Raw)
		if err != nil {
			return res, atlas.Errorf(atlas.CodeInternal, fmt.Errorf("guard: digest of arguments: %w", err), "")
		}
		res.Truncated, res.NextCursor = true, g.cursors.make(next, boundTo(call, digest), time.Now())
	}
	res.Structured = w.finish(res.Truncated || obj.truncated, res.NextCursor)
	return res, nil
}

// argumentsDigest is the digest of arguments as sent, without the cursor: what the next call, with
// the cursor taken out, will have again.
func argumentsDigest(raw []byte) ([32]byte, error) {
	if trimmed := bytes.TrimSpace(raw); len(trimmed) == 0 || string(trimmed) == "null" {
		raw = []byte("{}")
	}
	_, canon, err := canonical.Parse(raw, 0)
	return canonical.Digest(canon), err
}

func (g *Guard) tooLargeToPage(structured []byte) error {
	if n := len(structured); n > g.cfg.MaxBytes {
		return tooLarge("bytes", g.cfg.MaxBytes, fmt.Sprintf("the answer has %d bytes, at most %d are allowed, and it cannot be paged; ask for less", n, g.cfg.MaxBytes))
	}
	return tooLarge("tokens", g.cfg.MaxTokens, fmt.Sprintf("the answer has more than %d tokens and cannot be paged; ask for less", g.cfg.MaxTokens))
}

// A pageWriter writes one page: all members of the answer, with a part of its list.
type pageWriter struct {
	g        *Guard
	mode     mode
	out      []byte
	redacted int
}

const tail = `"truncated":true,"next_cursor":""}` // and commas

// write writes all but the end of the object, and returns how many items fitted.
func (w *pageWriter) write(answer []byte, obj object, offset int) (int, error) {
	// The list comes last, behind everything that is on each page.
	w.out = append(w.out, '{')
	for _, mem := range obj.members {
		if err := w.add(answer[mem.keyStart:mem.end]); err != nil {
			return 0, err
		}
		w.out = append(w.out, ',')
	}
	w.out = append(w.out, answer[obj.list.keyStart:obj.list.valueStart]...)
	w.out = append(w.out, '[')

	cursor := w.g.cursors.length()
	bytesLeft := w.g.cfg.MaxBytes - len(w.out) - len("],") - len(tail) - cursor
	tokens := EstimateTokens(w.out) + (len("],")+len(tail)+cursor)/2 + 1
	count := 0
	for _, it := range obj.items[offset:] {
		if count == w.g.cfg.MaxItems {
			break
		}
		start, before := len(w.out), w.redacted
		if count > 0 {
			w.out = append(w.out, ',')
		}
		if err := w.add(answer[it.start:it.end]); err != nil {
			return 0, err
		}
		size := len(w.out) - start
		t := EstimateTokens(w.out[start:])
		if size > bytesLeft || tokens+t > w.g.cfg.MaxTokens {
			if count == 0 {
				return 0, w.itemTooLarge(size > bytesLeft, offset)
			}
			w.out, w.redacted = w.out[:start], before
			break
		}
		bytesLeft -= size
		tokens += t
		count++
	}
	if count == 0 && (bytesLeft < 0 || tokens > w.g.cfg.MaxTokens) {
		return 0, w.itemTooLarge(bytesLeft < 0, offset)
	}
	w.out = append(w.out, ']')
	return count, nil
}

func (w *pageWriter) itemTooLarge(bytes bool, offset int) error {
	hint := fmt.Sprintf("item %d of the answer does not fit the limit even alone; ask for fewer fields or for less", offset)
	if bytes {
		return tooLarge("bytes", w.g.cfg.MaxBytes, hint)
	}
	return tooLarge("tokens", w.g.cfg.MaxTokens, hint)
}

// add writes part of the answer, redacted.
func (w *pageWriter) add(part []byte) error {
	out, n, ok := w.g.detect.json(w.out, part, w.mode)
	if !ok {
		return atlas.Errorf(atlas.CodeInternal, errors.New("guard: the answer is not JSON"), "")
	}
	if out == nil {
		out = append(w.out, part...)
	}
	w.out = out
	w.redacted += n
	return nil
}

func (w *pageWriter) finish(truncated bool, cursor string) []byte {
	if truncated {
		w.out = append(w.out, `,"truncated":true`...)
	}
	if cursor != "" {
		w.out = append(w.out, `,"next_cursor":"`...)
		w.out = append(w.out, cursor...) // base64url needs no escape
		w.out = append(w.out, '"')
	}
	return append(w.out, '}')
}
