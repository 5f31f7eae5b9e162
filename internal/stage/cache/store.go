package cache

import (
	"bytes"
	"context"
	"errors"
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
	began     time.Time     // when the load began
	delta     time.Duration // how long it took
	token     string        // under which it was filled into the second tier; empty if it was not
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
// in bytes, so that no tenant can push out another's. It may have a second tier behind it. It
// outlives the Cache. It is safe for concurrent use.
type Store struct {
	tier        *tier // the second one; nil if there is none
	tenantBytes uint64
	maxTenants  int
	refreshes   chan struct{} // one token per running refresh

	shards atomic.Pointer[map[atlas.TenantID]*shard] // replaced under mu, read without

	mu      sync.Mutex // guards what follows
	closed  bool
	flights map[key]*flight      // loads that others may join
	running map[*flight]struct{} // all loads
	wg      sync.WaitGroup       // of running, and of purges of and listening to the second tier
	retired uint64               // hits of the shards that are gone

	misses atomic.Uint64
}

// A shard is one tenant's part.
type shard struct {
	cache *otter.Cache[key, *entry]
	used  atomic.Int64 // Unix seconds of the last use
	hits  atomic.Uint64
}

// maxRefreshes is how many early refreshes run at the same time; an answer whose refresh finds no
// room is refreshed at a later hit or expires.
const maxRefreshes = 64

// NewStore returns an empty store of the configured sizes, with one tier.
func NewStore(cfg Config) (*Store, error) { return NewTiered(cfg, Deps{}) }

// NewTiered returns an empty store of the configured sizes over the second tier in d, and listens there
// until it is closed. The second tier must outlive the store.
func NewTiered(cfg Config, d Deps) (*Store, error) {
	if err := errors.Join(cfg.Validate(), d.validate()); err != nil {
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
	if d.Shared != nil {
		s.tier = newTier(cfg, d)
		ctx, cancel := context.WithCancel(context.Background())
		s.tier.stop = cancel
		s.wg.Go(func() { d.Shared.Listen(ctx, listener{s}) })
	}
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
	sh.hits.Add(1)
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
		s.retired += grown[idlest].hits.Load()
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

// drop forgets an answer, unless there is another by now.
func (s *Store) drop(k key, e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := (*s.shards.Load())[k.tenant]
	if sh == nil {
		return
	}
	if kept, ok := sh.cache.GetIfPresent(k); ok && kept == e {
		sh.cache.Invalidate(k)
	}
}

// Purge forgets the tenant's answers of one tool, or of all tools if tool is empty, here and in the
// second tier. Loads that are under way still answer those who wait for them, but are not kept, and
// a call that comes after Purge does not join them.
//
// An error, of code state_unavailable, says that the second tier could not be told: here everything is
// as purged, and stays so, but other replicas may answer with what they have for as long as the tools'
// cache times are. Whoever purges should try again; this replica also tells the second tier before it
// next asks it for an answer that the purge covers. After Close the code is shutting_down.
func (s *Store) Purge(ctx context.Context, tenant atlas.TenantID, tool string) error {
	s.forget(tenant, tool)
	if s.tier == nil {
		return nil
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return &atlas.Error{Code: atlas.CodeShuttingDown}
	}
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()
	if err := s.tier.purge(ctx, purgeKey{tenant, tool}); err != nil {
		return atlas.Errorf(atlas.CodeStateUnavailable, err,
			"purged on this replica; the others could not be told and may answer with older data for as long as the tools' cache times are; purge again")
	}
	return nil
}

// forget is Purge, here only.
func (s *Store) forget(tenant atlas.TenantID, tool string) {
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

// flush forgets everything, here only. Loads under a right of the second tier go on: it knows of the
// purges that were not heard here, and refuses what they cover.
func (s *Store) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.running {
		f.discard = f.discard || !f.fenced
	}
	clear(s.flights)
	for _, sh := range *s.shards.Load() {
		sh.cache.InvalidateAll()
	}
}

// A listener does here what other replicas did.
type listener struct{ s *Store }

func (l listener) Purged(tenant atlas.TenantID, tool string) {
	l.s.tier.remember(purgeKey{tenant, tool}, false)
	l.s.forget(tenant, tool)
}

func (l listener) Gap() {
	l.s.tier.gaps.Add(1)
	l.s.flush()
}

// Stats counts what happened since the store was made.
type Stats struct {
	MemoryHits uint64 // answered from this process
	SharedHits uint64 // answers taken over from the second tier
	Misses     uint64 // runs of tools
	Fallbacks  uint64 // the second tier did not answer, or not in time, and was done without
	Takeovers  uint64 // loads that another replica had begun and not finished
	Rejected   uint64 // entries of the second tier that did not open: changed there, or sealed with another key
	Lost       uint64 // answers not kept because the right to load them had run out
	Purged     uint64 // answers not kept because of a purge during their load
	Gaps       uint64 // times that messages of other replicas may have been lost, and everything was forgotten
}

// Stats returns the counts. They only grow.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	st := Stats{MemoryHits: s.retired, Misses: s.misses.Load()}
	for _, sh := range *s.shards.Load() {
		st.MemoryHits += sh.hits.Load()
	}
	s.mu.Unlock()
	if t := s.tier; t != nil {
		st.SharedHits, st.Fallbacks, st.Takeovers = t.hits.Load(), t.fallbacks.Load(), t.takeovers.Load()
		st.Rejected, st.Lost, st.Purged, st.Gaps = t.rejected.Load(), t.lost.Load(), t.purged.Load(), t.gaps.Load()
	}
	return st
}

// Close ends all loads, waits for them, and forgets everything. Calls that need a load are then
// refused with shutting_down. Closing twice is fine.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	for f := range s.running {
		f.cancel()
	}
	for _, sh := range *s.shards.Load() {
		s.retired += sh.hits.Load()
	}
	s.shards.Store(&map[atlas.TenantID]*shard{})
	s.mu.Unlock()
	if s.tier != nil {
		s.tier.stop()
	}
	s.wg.Wait()
	if s.tier != nil {
		s.tier.asking.Wait()
	}
	return nil
}
