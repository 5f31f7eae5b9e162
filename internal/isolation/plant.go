package isolation

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// A Planting says what was planted in one source, with both tenants together.
type Planting struct {
	Source    string `json:"source"`
	Rows      int    `json:"rows"`
	Documents int    `json:"documents"`
	Objects   int    `json:"objects"`
	Failed    string `json:"failed,omitempty"` // why nothing was planted; then what B has already is attacked
}

// A Field is where canaries are planted.
type Field struct {
	Sources map[string]source.Source
	// Samples are records by source, of which the canaries get their form: ids that the tools accept,
	// columns that the tables have. A source without a sample gets records after its schema.
	Samples map[string]source.Data
}

// Canaries are the planted records of both tenants, by side and source.
type Canaries struct {
	Plants []Planting // what was written, by source
	sides  [2]map[string]canary
}

// Plant writes canaries for both tenants into every source that takes data, replacing those of an
// earlier proof. What one source refuses is said in Plants and keeps no other from being planted.
func Plant(ctx context.Context, field Field, tenants [2]atlas.TenantID, key Key) *Canaries {
	return sow(ctx, field, tenants, key, true)
}

// Expect returns what [Plant] has written with the same samples, without writing. Markers say whose they
// are, so the key that they were made with need not be known.
func Expect(ctx context.Context, field Field, tenants [2]atlas.TenantID) *Canaries {
	return sow(ctx, field, tenants, NewKey(), false)
}

func sow(ctx context.Context, field Field, tenants [2]atlas.TenantID, key Key, write bool) *Canaries {
	c := &Canaries{sides: [2]map[string]canary{{}, {}}}
	names := slices.Sorted(maps.Keys(field.Sources))
	if len(names) == 0 && !write { // over the network: the samples alone say what there is
		names = slices.Sorted(maps.Keys(field.Samples))
	}
	known := map[string]source.Data{}
	for _, name := range names {
		known[name] = sampleFor(ctx, field, name, tenants)
	}
	p := newPlanner(key, known)
	for _, name := range names {
		loader, ok := field.Sources[name].(source.Loader)
		if write && !ok {
			continue
		}
		planted := Planting{Source: name}
		for _, side := range []Side{A, B} {
			made := p.canary(side, name, known[name])
			if write && planted.Failed == "" {
				if err := loader.Load(ctx, tenants[side], made.data); err != nil {
					planted.Failed = fmt.Sprintf("%s: %v", tenants[side], err)
				}
			}
			c.sides[side][name] = made // also what could not be written: somebody with more rights may have
			for _, n := range made.rows {
				planted.Rows += n
			}
			planted.Documents += len(made.data.Documents)
			planted.Objects += len(made.data.Objects)
		}
		if planted.Failed != "" {
			planted.Rows, planted.Documents, planted.Objects = 0, 0, 0
		}
		if write {
			c.Plants = append(c.Plants, planted)
		}
	}
	return c
}

// sampleFor returns the sample of a source, or one after its tables.
func sampleFor(ctx context.Context, field Field, name string, tenants [2]atlas.TenantID) source.Data {
	if d, ok := field.Samples[name]; ok {
		return d
	}
	if q, ok := field.Sources[name].(source.Querier); ok {
		tables, err := q.Schema(ctx, tenants[B])
		if err != nil {
			return source.Data{} // planting will say that there is nothing
		}
		return sampleOf(tables)
	}
	return plainSample()
}

// ids returns the ids that only the side has, and those of both, over all sources.
func (c *Canaries) ids(side Side) (own, both []string) {
	if c == nil {
		return nil, nil
	}
	for _, name := range slices.Sorted(maps.Keys(c.sides[side])) {
		own = append(own, c.sides[side][name].own...)
		both = append(both, c.sides[side][name].both...)
	}
	return unique(own), unique(both)
}

// of returns the ids and keys that were planted for the side in the source.
func (c *Canaries) of(side Side, source string) []string {
	if c == nil {
		return nil
	}
	planted := c.sides[side][source]
	return slices.Concat(planted.own, planted.both)
}

// tables returns the names of the planted tables and how many rows the side has of each.
func (c *Canaries) tables(side Side) map[string]int {
	out := map[string]int{}
	if c == nil {
		return out
	}
	for _, made := range c.sides[side] {
		maps.Copy(out, made.rows)
	}
	return out
}

// unique returns the list without repetitions, in its order.
func unique(list []string) []string {
	seen := map[string]bool{}
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool {
		was := seen[s]
		seen[s] = true
		return was
	})
}
