package validation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"
	"sync/atomic"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/atlas-mcp/atlas"
)

// checkAnswer reports an answer that does not fit the tool's output schema. That is a fault of the
// tool, not of the caller, who learns nothing more.
func (v *Validator) checkAnswer(c *compiled, structured json.RawMessage) error {
	key := v.checked.key(c, structured)
	if v.checked.has(key) {
		return nil
	}
	// Answers may hold integers beyond 2^53, from a database; they are not read by the strict reader.
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(structured))
	if err == nil && (c.quickOutput == nil || !c.quickOutput.sure(value)) {
		err = c.output.Validate(value)
	}
	if err == nil {
		v.checked.add(key)
		return nil
	}
	if ve, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
		faults, total := (&compiled{}).faults(ve)
		var text []string
		for _, f := range faults {
			text = append(text, f.Path+" "+f.Message)
		}
		err = fmt.Errorf("%d faults: %s", total, strings.Join(text, "; "))
	}
	return atlas.Errorf(atlas.CodeInternal, fmt.Errorf("the answer of tool %s does not fit its output schema: %w", c.name, err), "")
}

// checkedAnswers remembers answers that fit, so that a cached one is checked once and not at every
// hit. It holds 64-bit hashes in a fixed table where a new one overwrites an old one. A collision
// lets an unchecked answer through: that is no security boundary, and the seed is random.
type checkedAnswers struct {
	seed  maphash.Seed
	slots []atomic.Uint64
}

func newCheckedAnswers() checkedAnswers {
	return checkedAnswers{seed: maphash.MakeSeed(), slots: make([]atomic.Uint64, 4096)}
}

func (a *checkedAnswers) key(c *compiled, structured []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(a.seed)
	_, _ = h.WriteString(c.name) // never fails
	_ = h.WriteByte(0)
	_, _ = h.Write(structured)
	return h.Sum64() | 1 // zero means an empty slot
}

func (a *checkedAnswers) slot(key uint64) *atomic.Uint64 {
	return &a.slots[key>>1%uint64(len(a.slots))]
}

func (a *checkedAnswers) has(key uint64) bool { return a.slot(key).Load() == key }

func (a *checkedAnswers) add(key uint64) { a.slot(key).Store(key) }
