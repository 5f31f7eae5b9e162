// Package guard is the stage that holds answers to their limits on the way out: it pages long ones
// by whole items with sealed cursors, redacts secrets and personal data inside string values, and
// makes hidden characters of untrusted text harmless. On the way in it opens cursors. What is
// cached inside stays whole and unredacted; every caller's answer passes here.
// Source labels are added by the edge.
package guard

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/canonical"
	"github.com/atlas-mcp/atlas/internal/seal"
)

// ScopePII lets its holder read personal data unredacted. Secrets are redacted for everybody.
const ScopePII = "pii:*:read"

// Config is the stage's settings. The zero value means the defaults.
type Config struct {
	MaxItems  int           `yaml:"max_items"`  // items of one answer; 0 means 50
	MaxBytes  int           `yaml:"max_bytes"`  // bytes of one answer as JSON; 0 means 65536 (64 KiB)
	MaxTokens int           `yaml:"max_tokens"` // of one answer, estimated (see EstimateTokens); 0 means 8000
	MaxData   int           `yaml:"max_data"`   // bytes of pictures, sound and other data of one answer; 0 means 4194304 (4 MiB)
	CursorTTL time.Duration `yaml:"cursor_ttl"` // how long a cursor is good; 0 means 1h
	// PII are the kinds of personal data to redact, by their names in alcatraz, such as
	// CREDIT_CARD. Nil means CREDIT_CARD, IBAN_CODE and US_SSN; an empty list means none.
	PII []string `yaml:"pii"`
}

func (c Config) withDefaults() Config {
	c.MaxItems = cmp.Or(c.MaxItems, 50)
	c.MaxBytes = cmp.Or(c.MaxBytes, 64<<10)
	c.MaxTokens = cmp.Or(c.MaxTokens, 8000)
	c.MaxData = cmp.Or(c.MaxData, 4<<20)
	c.CursorTTL = cmp.Or(c.CursorTTL, time.Hour)
	if c.PII == nil {
		c.PII = []string{kindCard, kindIBAN, kindSSN}
	}
	return c
}

// Validate reports all mistakes, joined.
func (c Config) Validate() error {
	var errs []error
	d := c.withDefaults()
	if c.MaxItems < 0 {
		errs = append(errs, fmt.Errorf("max_items is %d; it must not be negative", c.MaxItems))
	}
	if d.MaxBytes < minBytes {
		errs = append(errs, fmt.Errorf("max_bytes is %d; it must be at least %d", c.MaxBytes, minBytes))
	}
	if d.MaxTokens < minTokens {
		errs = append(errs, fmt.Errorf("max_tokens is %d; it must be at least %d", c.MaxTokens, minTokens))
	}
	if c.MaxData < 0 {
		errs = append(errs, fmt.Errorf("max_data is %d; it must not be negative", c.MaxData))
	}
	if c.CursorTTL < 0 {
		errs = append(errs, fmt.Errorf("cursor_ttl is %s; it must not be negative", c.CursorTTL))
	}
	known := supportedPII()
	for i, kind := range c.PII {
		if !slices.Contains(known, kind) {
			errs = append(errs, fmt.Errorf("pii: %q is no known kind of personal data", kind))
		}
		if slices.Contains(c.PII[:i], kind) {
			errs = append(errs, fmt.Errorf("pii: %s is named twice", kind))
		}
	}
	return errors.Join(errs...)
}

// Below these an answer has no room for one item beside a cursor.
const (
	minBytes  = 1024
	minTokens = 512
)

// A Guard is the stage. It is immutable and safe for concurrent use.
type Guard struct {
	cfg     Config
	cursors *cursors
	detect  *detector
}

// New makes a Guard. The first key seals cursors, all open them: a key is changed by putting a new
// one first and dropping the old one after Config.CursorTTL. With the same keys, cursors survive a
// reload and a restart.
func New(cfg Config, keys []seal.Key) (*Guard, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	ring, err := seal.New(cursorPurpose, keys...)
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	return &Guard{cfg: cfg, cursors: &cursors{cfg.CursorTTL, ring}, detect: newDetector(cfg.PII)}, nil
}

// Stage opens cursors before next and guards what comes out. Answers to child calls are redacted
// but not paged: the tool that asked reads them by program, and its own answer is paged.
func (g *Guard) Stage(next atlas.Handler) atlas.Handler {
	return func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
		if call.Op != atlas.OpCall {
			res, err := next(ctx, call)
			if err != nil {
				return failed(res, g.failure(call, err))
			}
			return res, nil
		}
		if call.Tool == nil || call.Principal == nil {
			return atlas.Result{}, atlas.Errorf(atlas.CodeInternal, errors.New("guard: the call has no tool or no principal"), "")
		}
		inner := call
		if call.Tool.Items != "" && call.Parent == nil {
			if err := g.openCursor(&inner); err != nil {
				return atlas.Result{}, err
			}
		}
		res, err := next(ctx, inner)
		if err != nil {
			return failed(res, g.failure(call, err))
		}
		if res, err = g.outward(inner, res); err != nil {
			return failed(res, err)
		}
		return res, nil
	}
}

// failed keeps of a result what is meaningful beside an error.
func failed(res atlas.Result, err error) (atlas.Result, error) {
	return atlas.Result{Notes: res.Notes}, err
}

// openCursor takes the argument cursor, if there is one, out of the call's arguments, and sets
// the page that it stands for. Arguments that are not JSON are left for the validation stage.
func (g *Guard) openCursor(call *atlas.Call) error {
	raw := call.Args.Raw
	if !bytes.Contains(raw, []byte(`"cursor"`)) || len(raw) > maxArguments {
		return nil
	}
	value, err := canonical.Decode(raw, 0)
	if err != nil {
		return nil //nolint:nilerr // the validation stage tells what is wrong, with its place
	}
	args, ok := value.(map[string]any)
	if !ok {
		return nil
	}
	cursor, given := args["cursor"]
	if !given {
		return nil
	}
	delete(args, "cursor")
	rest, err := canonical.Append(make([]byte, 0, len(raw)), args)
	if err != nil {
		return atlas.Errorf(atlas.CodeInternal, fmt.Errorf("guard: write arguments: %w", err), "")
	}
	call.Args.Raw = rest
	if cursor == nil || cursor == "" { // as many clients ask for the first page
		return nil
	}
	text, ok := cursor.(string)
	if !ok {
		return errInvalidCursor()
	}
	offset, ok := g.cursors.open(text, boundTo(*call, canonical.Digest(rest)), time.Now())
	if !ok {
		return errInvalidCursor()
	}
	call.Page.Offset = offset
	return nil
}

// maxArguments is the longest text in which a cursor is looked for; longer ones are refused by the
// validation stage.
const maxArguments = 1 << 20

// outward guards an answer.
func (g *Guard) outward(call atlas.Call, res atlas.Result) (atlas.Result, error) {
	m := g.mode(call)
	if res.Ask != nil {
		ask, n, err := g.ask(call, res.Ask, m)
		res.Ask, res.Notes.Redacted = ask, res.Notes.Redacted+n
		return res, err
	}
	if len(res.Content) > 0 {
		content, n, err := g.content(call, res.Content, m)
		if err != nil {
			return res, err
		}
		res.Content, res.Notes.Redacted = content, res.Notes.Redacted+n
		if len(res.Structured) == 0 {
			return res, nil
		}
	}
	if call.Parent == nil && g.mustPage(call, res.Structured) {
		return g.page(call, res, m)
	}
	out, n, ok := g.detect.json(nil, res.Structured, m)
	if !ok {
		return res, atlas.Errorf(atlas.CodeInternal, fmt.Errorf("guard: the answer of tool %s is not JSON", call.Tool.Name), "")
	}
	res.Notes.Redacted += n
	if out == nil {
		return res, nil // untouched
	}
	if call.Parent == nil && g.mustPage(call, out) { // what stands for a secret may be longer than it
		res.Notes.Redacted -= n
		return g.page(call, res, m)
	}
	res.Structured = out
	return res, nil
}

// mode says what is to be done with the strings of a call's answer.
func (g *Guard) mode(call atlas.Call) mode {
	return mode{
		pii: !call.Principal.HasScope(ScopePII),
		// As the edge does: what is not known to be the tenant's own is untrusted.
		untrusted: call.Tool != nil && call.Tool.Reads != atlas.ReadsPrivate,
	}
}

// PII returns the kinds of personal data, of those configured, that the JSON holds in strings, keys
// or numbers, sorted. It is what the policy stage asks about arguments.
func (g *Guard) PII(raw []byte) []string { return g.detect.kinds(raw) }

// EstimateTokens estimates how many tokens of a language model JSON text takes: a token for four
// letters or spaces, and one for two bytes of anything else (digits, punctuation, and UTF-8 beyond
// ASCII, in which common tokenizers spend one token on one or two bytes). On JSON rows that is
// about a token for three bytes. It never exceeds half the bytes, rounded up.
func EstimateTokens(text []byte) int {
	quarters := 0
	for _, c := range text {
		quarters += int(quarterTokens[c])
	}
	return (quarters + 3) / 4
}

var quarterTokens = func() (t [256]uint8) {
	for c := range t {
		t[c] = 2
		if 'a' <= c|0x20 && c|0x20 <= 'z' && c < 0x80 || c == ' ' {
			t[c] = 1
		}
	}
	return t
}()

// tooLarge is the refusal of an answer, or of a single item, over a limit.
func tooLarge(limit string, most int, hint string) error {
	return atlas.Errorf(atlas.CodeTooLarge, nil, hint).With("limit", limit).With("max", most)
}
