package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// pins are what is approved of one upstream, kept in the state that all replicas share: an index from a
// tool's name to the digest of its definition, and each definition under its digest, which is checked
// whenever it is read. Another URL is another upstream: nothing is approved of it.
type pins struct {
	state source.State
	index string // key of the index
}

// A pin is one entry of the index.
type pin struct {
	Digest string    `json:"digest,omitempty"` // empty: the approval was taken back, and first_use does not give it again
	By     string    `json:"by"`               // who approved it or took it back
	At     time.Time `json:"at"`
}

// byFirstUse is who approves under the policy first_use.
const byFirstUse = "first use"

func newPins(state source.State, url string) *pins {
	return &pins{state: state, index: "pins." + digestOf([]byte(url))[:32]}
}

// read returns the index and its version.
func (p *pins) read(ctx context.Context) (index map[string]pin, at int64, err error) {
	data, at, err := p.state.Get(ctx, p.index)
	if err != nil {
		return nil, 0, stateFailure(err)
	}
	index = map[string]pin{}
	if at == 0 {
		return index, 0, nil
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, 0, atlas.Errorf(atlas.CodeStateUnavailable, fmt.Errorf("the index of approved tools cannot be read: %w", err), "")
	}
	return index, at, nil
}

// tools returns the approved tools of an index, sorted by name.
func (p *pins) tools(ctx context.Context, index map[string]pin) ([]*tool, error) {
	var out []*tool
	for _, name := range slices.Sorted(maps.Keys(index)) {
		if index[name].Digest == "" {
			continue
		}
		t, err := p.definition(ctx, index[name].Digest)
		if err != nil {
			return nil, fmt.Errorf("the approved definition of %.60q: %w", name, err)
		}
		out = append(out, t)
	}
	return out, nil
}

// definition reads an approved definition.
func (p *pins) definition(ctx context.Context, digest string) (*tool, error) {
	canon, at, err := p.state.Get(ctx, "definition."+digest)
	switch {
	case err != nil:
		return nil, stateFailure(err)
	case at == 0 || digestOf(canon) != digest:
		return nil, atlas.Errorf(atlas.CodeStateUnavailable, errors.New("is missing, or not what was approved"), "")
	}
	return parseTool(canon)
}

// store keeps a definition. It is never changed: its key is its hash.
func (p *pins) store(ctx context.Context, t *tool) error {
	key := "definition." + t.digest
	for range maxRaces {
		old, at, err := p.state.Get(ctx, key)
		if err != nil {
			return stateFailure(err)
		}
		if at != 0 && bytes.Equal(old, t.canon) {
			return nil
		}
		now, err := p.state.CompareAndSet(ctx, key, at, t.canon)
		if err != nil {
			return stateFailure(err)
		}
		if now != 0 {
			return nil
		}
	}
	return errRaces
}

// maxRaces bounds how often a write is tried again because another replica was faster.
const maxRaces = 16

var errRaces = atlas.Errorf(atlas.CodeStateUnavailable, errors.New("too many writers"), "")

// change writes what edit makes of the index. Edit may be called several times, and reports whether
// there is anything to write.
func (p *pins) change(ctx context.Context, edit func(index map[string]pin) (bool, error)) error {
	for range maxRaces {
		index, at, err := p.read(ctx)
		if err != nil {
			return err
		}
		write, err := edit(index)
		if err != nil || !write {
			return err
		}
		data, err := json.Marshal(index)
		if err != nil {
			return fmt.Errorf("index of approved tools: %w", err)
		}
		now, err := p.state.CompareAndSet(ctx, p.index, at, data)
		if err != nil {
			return stateFailure(err)
		}
		if now != 0 {
			return nil
		}
	}
	return errRaces
}

// clash returns the approved tool, other than name, that Atlas writes with the same name.
func clash(index map[string]pin, name string) (other string, found bool) {
	for other, p := range index {
		if other != name && p.Digest != "" && source.OfferName(other) == source.OfferName(name) {
			return other, true
		}
	}
	return "", false
}

func stateFailure(err error) error {
	if e, ok := errors.AsType[*atlas.Error](err); ok {
		return e
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return atlas.ErrorOf(err)
	}
	return atlas.Errorf(atlas.CodeStateUnavailable, err, "")
}
