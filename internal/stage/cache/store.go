package cache

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/atlas-mcp/atlas"
)

// entryOverhead is what an entry weighs beside its answer: key, headers, otter's node.
const entryOverhead = 512

// An entry is a kept answer. Nothing in it is written after it is stored but refreshed, and
// nothing of it is handed out without being copied, so that no reader can change what the next
// one gets.
type entry struct {
	res       atlas.Result
	failure   *atlas.Error // instead of res: there is nothing by this name
	expires   time.Time
	ttl       time.Duration
	delta     time.Duration // how long the load took
	refreshed atomic.Bool   // the one early refresh has begun
}

// answer returns a copy for one caller.
func (e *entry) answer() (atlas.Result, error) {
	notes := atlas.Notes{Cache: hit}
	if e.failure != nil {
		return atlas.Result{Notes: notes}, copyError(e.failure)
	}
	res := copyResult(e.res)
	res.Notes = notes
	return res, nil
}

func copyResult(res atlas.Result) atlas.Result {
	res.Structured = bytes.Clone(res.Structured)
	res.Content = slices.Clone(res.Content)
	for i := range res.Content {
		res.Content[i].Data = bytes.Clone(res.Content[i].Data)
	}
	return res
}

func copyError(err error) error {
	if err == nil {
		return nil
	}
	e := *atlas.ErrorOf(err)
	e.Context = maps.Clone(e.Context)
	return &e
}

// A Store holds the answers of all tenants, each tenant's in a part of its own with its own limit
// in bytes, so that no tenant can push out another's. It outlives the Cache. It is safe for
// concurrent use.
type Store struct {
	tenantBytes uint64
	maxTenants  int
	refreshes   chan struct{} // one token per running refresh

	shards atomic.Pointer[map[atlas.TenantID]*shard] // replaced under mu, read without

	mu      sync.Mutex // guards what follows
	closed  bool
	flights map[key]*flight      // loads that others may join
	running map[*flight]struct{} // all loads
	wg      sync.WaitGroup       // of running
}

// A shard is one tenant's part.
type shard struct {
	cache *otter.Cache[key, *entry]
	used  atomic.Int64 // Unix seconds of the last use
}

// maxRefreshes is how many early refreshes run at the same time; an answer whose refresh finds no
// room is refreshed at a later hit or expires.
const maxRefreshes = 64

// NewStore returns an empty store of the configured sizes.
func NewStore(cfg Config) (*Store, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	cfg = cfg.withDefaults()
	s := &Store{
		tenantBytes: uint64(cfg.TenantBytes), //nolint:gosec // validated to be positive
		maxTenants:  cfg.MaxTenants,
		refreshes:   make(chan struct{}, maxRefreshes),
		flights:     map[key]*flight{},
		running:     map[*flight]struct{}{},
	}
	s.shards.Store(&map[atlas.TenantID]*shard{})
	return s, nil
}

// get returns the answer of a key that has not expired, or nil.
func (s *Store) get(k key, now time.Time) *entry {
	sh := (*s.shards.Load())[k.tenant]
	if sh == nil {
		return nil
	}
	// Seconds are enough to find the idlest, and spare readers of one tenant a shared write.
	if sec := now.Unix(); sh.used.Load() != sec {
		sh.used.Store(sec)
	}
	e, ok := sh.cache.GetIfPresent(k)
	if !ok || !now.Before(e.expires) {
		return nil
	}
	return e
}

// put keeps an answer. The caller holds mu.
func (s *Store) put(k key, e *entry) error {
	sh, err := s.shardLocked(k.tenant)
	if err != nil {
		return err
	}
	sh.cache.Set(k, e)
	return nil
}

// shardLocked returns the tenant's part, making it if need be. The caller holds mu.
func (s *Store) shardLocked(tenant atlas.TenantID) (*shard, error) {
	shards := *s.shards.Load()
	if sh := shards[tenant]; sh != nil {
		return sh, nil
	}
	c, err := otter.New(&otter.Options[key, *entry]{
		MaximumWeight:    s.tenantBytes,
		Weigher:          func(_ key, e *entry) uint32 { return weight(e) },
		ExpiryCalculator: otter.ExpiryWritingFunc(func(e otter.Entry[key, *entry]) time.Duration { return e.Value.ttl }),
		Clock:            clock{},
	})
	if err != nil {
		return nil, err
	}
	sh := &shard{cache: c}
	sh.used.Store(time.Now().Unix())
	grown := maps.Clone(shards)
	for len(grown) >= s.maxTenants {
		idlest := atlas.TenantID("")
		for t, other := range grown {
			if idlest == "" || other.used.Load() < grown[idlest].used.Load() {
				idlest = t
			}
		}
		delete(grown, idlest)
	}
	grown[tenant] = sh
	s.shards.Store(&grown)
	return sh, nil
}

func weight(e *entry) uint32 {
	return uint32(min(e.res.Size()+entryOverhead, math.MaxUint32)) //nolint:gosec // bounded
}

// clock is the time of the process without ticks: expired answers are cleared away when others
// are written, and a thousand tenants need no thousand tickers.
type clock struct{}

func (clock) NowNano() int64                      { return time.Now().UnixNano() }
func (clock) Tick(time.Duration) <-chan time.Time { return nil }

// Purge forgets the tenant's answers of one tool, or of all tools if tool is empty. Loads that
// are under way still answer those who wait for them, but are not kept, and a call that comes
// after Purge does not join them.
func (s *Store) Purge(tenant atlas.TenantID, tool string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, f := range s.flights {
		if k.tenant == tenant && (tool == "" || k.tool == tool) {
			f.discard = true
			delete(s.flights, k)
		}
	}
	sh := (*s.shards.Load())[tenant]
	if sh == nil {
		return
	}
	if tool == "" {
		sh.cache.InvalidateAll()
		return
	}
	for k := range sh.cache.Keys() {
		if k.tool == tool {
			sh.cache.Invalidate(k)
		}
	}
}

// Close ends all loads, waits for them, and forgets everything. Calls that need a load are then
// refused with shutting_down. Closing twice is fine.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	for f := range s.running {
		f.cancel()
	}
	s.shards.Store(&map[atlas.TenantID]*shard{})
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}
