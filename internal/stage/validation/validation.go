// Package validation is the stage that reads a call's arguments: strictly as JSON, then by the
// tool's input schema (JSON Schema 2020-12), telling all faults at once so that an agent can mend
// its call in one turn. It fills in defaults and hands inward the canonical form and its digest,
// on which cache keys and approvals are built. Outward it checks answers by the output schema.
// Whether the caller may make the call is left to the policy stage.
package validation

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/canonical"
)

// Config is the stage's settings. The zero value means the defaults.
type Config struct {
	MaxBytes int `yaml:"max_bytes"` // of a call's arguments as sent; 0 means 262144 (256 KiB)
	MaxDepth int `yaml:"max_depth"` // arrays and objects nested in each other; 0 means 32
	// MaxValues is how many members and items the arguments may hold in all; 0 means 10000. To check
	// a value takes far longer than to read it, and a refused call burns no quota.
	MaxValues int `yaml:"max_values"`
	// CheckOutput checks each new answer by the tool's output schema. Nil means true.
	CheckOutput *bool `yaml:"check_output"`
}

func (c Config) withDefaults() Config {
	c.MaxBytes = cmp.Or(c.MaxBytes, 256<<10)
	c.MaxDepth = cmp.Or(c.MaxDepth, 32)
	c.MaxValues = cmp.Or(c.MaxValues, 10_000)
	if c.CheckOutput == nil {
		c.CheckOutput = new(true)
	}
	return c
}

// Validate reports all mistakes, joined.
func (c Config) Validate() error {
	var errs []error
	if c.MaxBytes < 0 {
		errs = append(errs, fmt.Errorf("max_bytes is %d; it must not be negative", c.MaxBytes))
	}
	if c.MaxDepth < 0 || c.MaxDepth > canonical.MaxDepth {
		errs = append(errs, fmt.Errorf("max_depth is %d; it must be 0 to %d", c.MaxDepth, canonical.MaxDepth))
	}
	if c.MaxValues < 0 {
		errs = append(errs, fmt.Errorf("max_values is %d; it must not be negative", c.MaxValues))
	}
	return errors.Join(errs...)
}

// A Validator checks arguments and answers of the tools that it was made for. It is immutable, but
// for a memory of answers that were checked, and safe for concurrent use; a reload makes a new one.
type Validator struct {
	cfg     Config
	tools   map[string]*compiled // by name
	checked checkedAnswers
}

// New compiles the schemas of the tools. It reports every tool whose schema does not compile, is
// not one of an object, or lets undeclared arguments through; joined.
func New(cfg Config, tools []*atlas.Tool) (*Validator, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	v := &Validator{cfg: cfg, tools: make(map[string]*compiled, len(tools)), checked: newCheckedAnswers()}
	var errs []error
	for _, t := range tools {
		if v.tools[t.Name] != nil {
			errs = append(errs, fmt.Errorf("tool %s: there are two tools of this name", t.Name))
			continue
		}
		c, err := compile(t, *cfg.CheckOutput)
		if err != nil {
			errs = append(errs, fmt.Errorf("tool %s: %w", t.Name, err))
			continue
		}
		v.tools[t.Name] = c
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return v, nil
}

// Stage validates the arguments of calls before next sees them, and the answer of next. Lists pass.
// A call in whose request the edge found a fault is refused with it before anything is read.
func (v *Validator) Stage(next atlas.Handler) atlas.Handler {
	return func(ctx context.Context, call atlas.Call) (atlas.Result, error) {
		if call.Fault != nil {
			return atlas.Result{}, call.Fault
		}
		if call.Op != atlas.OpCall {
			return next(ctx, call)
		}
		c, err := v.compiledFor(call.Tool)
		if err != nil {
			return atlas.Result{}, err
		}
		args, err := v.arguments(c, call.Args.Raw)
		if err != nil {
			return atlas.Result{}, err
		}
		call.Args = args
		res, err := next(ctx, call)
		if err != nil || c.output == nil || res.Ask != nil {
			return res, err
		}
		if err := v.checkAnswer(c, res.Structured); err != nil {
			// The notes stay: audit wants to know what was decided, and that the tool ran.
			return atlas.Result{Notes: res.Notes}, err
		}
		return res, nil
	}
}

// Arguments decodes, checks and canonicalises raw as arguments of t, as the stage does: for
// commands that explain a decision without making the call.
func (v *Validator) Arguments(t *atlas.Tool, raw json.RawMessage) (atlas.Args, error) {
	c, err := v.compiledFor(t)
	if err != nil {
		return atlas.Args{}, err
	}
	return v.arguments(c, raw)
}

func (v *Validator) compiledFor(t *atlas.Tool) (*compiled, error) {
	if t == nil {
		return nil, atlas.Errorf(atlas.CodeInternal, errors.New("validation: the call has no tool; the registry stage must be outside"), "")
	}
	c := v.tools[t.Name]
	if c == nil || c.version != t.Version {
		return nil, atlas.Errorf(atlas.CodeInternal, fmt.Errorf("validation: no schema was compiled for tool %q version %q", t.Name, t.Version), "")
	}
	return c, nil
}

func (v *Validator) arguments(c *compiled, raw json.RawMessage) (atlas.Args, error) {
	if len(raw) > v.cfg.MaxBytes {
		return atlas.Args{}, atlas.Errorf(atlas.CodeTooLarge, nil,
			fmt.Sprintf("the arguments have %d bytes, at most %d are allowed; send less", len(raw), v.cfg.MaxBytes)).
			With("limit", "argument_bytes").With("max", v.cfg.MaxBytes)
	}
	var values map[string]any
	if trimmed := bytes.TrimSpace(raw); len(trimmed) > 0 && string(trimmed) != "null" {
		decoded, err := canonical.Decode(trimmed, v.cfg.MaxDepth)
		if err != nil {
			return atlas.Args{}, notJSON(err)
		}
		object, ok := decoded.(map[string]any)
		if !ok {
			return atlas.Args{}, invalid([]Fault{{Message: "must be an object of arguments", Expected: "object"}}, 1)
		}
		if mayHold(trimmed) > v.cfg.MaxValues && countValues(object) > v.cfg.MaxValues {
			return atlas.Args{}, atlas.Errorf(atlas.CodeTooLarge, nil,
				fmt.Sprintf("the arguments hold more than %d values; send less", v.cfg.MaxValues)).
				With("limit", "argument_values").With("max", v.cfg.MaxValues)
		}
		values = object
	} else {
		values = make(map[string]any, len(c.defaults))
	}
	// Defaults come first, so that what runs is what was validated.
	for _, d := range c.defaults {
		if _, given := values[d.name]; !given {
			values[d.name] = d.value
		}
	}
	if c.quick == nil || !c.quick.sure(values) {
		if err := c.input.Validate(values); err != nil {
			return atlas.Args{}, invalid(c.faults(err))
		}
	}
	canon, err := canonical.Append(make([]byte, 0, len(raw)+c.defaultBytes), values)
	if err != nil {
		return atlas.Args{}, atlas.Errorf(atlas.CodeInternal, fmt.Errorf("validation: write canonical arguments: %w", err), "")
	}
	return atlas.Args{Raw: canon, Values: values, Digest: canonical.Digest(canon)}, nil
}

// mayHold is a quick upper bound of countValues: each value but the first of its object or array
// follows a comma.
func mayHold(raw []byte) int {
	return bytes.Count(raw, []byte{','}) + bytes.Count(raw, []byte{'['}) + bytes.Count(raw, []byte{'{'})
}

// countValues counts what is in objects and arrays, at all depths.
func countValues(v any) int {
	n := 0
	switch v := v.(type) {
	case map[string]any:
		n = len(v)
		for _, e := range v {
			n += countValues(e)
		}
	case []any:
		n = len(v)
		for _, e := range v {
			n += countValues(e)
		}
	}
	return n
}

// notJSON turns a refusal of the strict reader into a fault like those of the schema.
func notJSON(err error) error {
	fault := Fault{Message: "is not readable"}
	if e, ok := errors.AsType[*canonical.Error](err); ok {
		fault = Fault{Path: e.Path, Message: fmt.Sprintf("%s (byte %d)", e.Reason, e.Offset)}
	}
	return invalid([]Fault{fault}, 1)
}
