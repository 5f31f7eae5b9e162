package openai

import (
	"container/list"
	"crypto/sha256"
	"sync"

	"github.com/atlas-mcp/atlas"
)

// A cacheKey is a hash of a text. The model is the embedder's, and so not part of it.
type cacheKey [sha256.Size]byte

func keyOf(text string) cacheKey { return sha256.Sum256([]byte(text)) }

// A cache keeps the vectors of each tenant's last questions. A tenant has room of its own: others
// neither find in it nor push out of it. When there are too many tenants, the one that asked
// longest ago is forgotten, whole.
type cache struct {
	tenants, entries int

	mu    sync.Mutex
	rooms map[atlas.TenantID]*list.Element // of order; its value is a *room
	order *list.List                       // the last to ask first
}

type room struct {
	tenant  atlas.TenantID
	vectors map[cacheKey]*list.Element // of order; its value is an entry
	order   *list.List                 // the last used first
}

type entry struct {
	key    cacheKey
	vector []float32
}

func newCache(tenants, entries int) *cache {
	return &cache{tenants: tenants, entries: entries, rooms: map[atlas.TenantID]*list.Element{}, order: list.New()}
}

// get returns a vector that must not be changed, or nil.
func (c *cache) get(tenant atlas.TenantID, key cacheKey) []float32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.rooms[tenant]
	if !ok {
		return nil
	}
	c.order.MoveToFront(at)
	r := at.Value.(*room)
	el, ok := r.vectors[key]
	if !ok {
		return nil
	}
	r.order.MoveToFront(el)
	return el.Value.(entry).vector
}

func (c *cache) put(tenant atlas.TenantID, key cacheKey, vector []float32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, ok := c.rooms[tenant]
	if !ok {
		if len(c.rooms) >= c.tenants {
			old := c.order.Remove(c.order.Back()).(*room)
			delete(c.rooms, old.tenant)
		}
		at = c.order.PushFront(&room{tenant: tenant, vectors: map[cacheKey]*list.Element{}, order: list.New()})
		c.rooms[tenant] = at
	}
	r := at.Value.(*room)
	if _, ok := r.vectors[key]; ok {
		return
	}
	if len(r.vectors) >= c.entries {
		old := r.order.Remove(r.order.Back()).(entry)
		delete(r.vectors, old.key)
	}
	r.vectors[key] = r.order.PushFront(entry{key, vector})
}
