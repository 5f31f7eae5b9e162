package sqlguard

import (
	"container/list"
	"crypto/sha256"
	"slices"
	"sync"
)

// A result is what Check answered.
type result struct {
	verdict Verdict
	err     error
}

// copied returns the result with slices of the caller's own.
func (r result) copied() (Verdict, error) {
	v := r.verdict
	v.Tables, v.Columns = slices.Clone(v.Tables), slices.Clone(v.Columns)
	return v, r.err
}

// entryBytes is about what an entry costs beside its texts.
const entryBytes = 512

func (r result) size() int {
	n := entryBytes + len(r.verdict.SQL)
	for _, s := range slices.Concat(r.verdict.Tables, r.verdict.Columns) {
		n += len(s) + 16
	}
	return n
}

// A cache keeps the results that were used last, up to max bytes.
type cache struct {
	max int

	mu      sync.Mutex // guards what follows
	used    int
	order   list.List // of *entry, the last used first
	entries map[[sha256.Size]byte]*list.Element
}

type entry struct {
	key [sha256.Size]byte
	result
}

func (c *cache) get(key [sha256.Size]byte) (result, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.entries[key]
	if el == nil {
		return result{}, false
	}
	c.order.MoveToFront(el)
	return el.Value.(*entry).result, true
}

func (c *cache) put(key [sha256.Size]byte, r result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.entries == nil {
		c.entries = map[[sha256.Size]byte]*list.Element{}
	}
	if c.entries[key] != nil || r.size() > c.max {
		return // two asked at once, and the answer is the same
	}
	c.entries[key] = c.order.PushFront(&entry{key, r})
	for c.used += r.size(); c.used > c.max; {
		last := c.order.Back()
		old := c.order.Remove(last).(*entry)
		delete(c.entries, old.key)
		c.used -= old.size()
	}
}
