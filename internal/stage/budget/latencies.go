package budget

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	hdr "github.com/HdrHistogram/hdrhistogram-go"

	"github.com/atlas-mcp/atlas"
)

const (
	maxSketches  = 8192             // tools times tenants; past it, the longest unused go
	windowSlices = 4                // slices of the window; the oldest is dropped as a whole
	sliceLength  = 5 * time.Minute  // so that 15 to 20 minutes are remembered
	fewSamples   = 20               // below: the declared timeout
	someSamples  = 200              // below: p95 instead of p99
	unit         = time.Microsecond // resolution of the histograms
	longest      = 10 * time.Minute // longer latencies count as this
)

// Latencies remember how long tools took, for each tenant apart: a shared memory would let one tenant
// read another's load out of its own timeouts, and cut another's slow calls by making fast ones. Make
// one value and keep it across reloads. It is safe for concurrent use and bounded.
type Latencies struct {
	mu sync.RWMutex
	m  map[key]*sketch // guarded by mu
}

type key struct {
	tenant       atlas.TenantID
	tool, source string
}

// NewLatencies returns an empty memory.
func NewLatencies() *Latencies { return &Latencies{m: map[key]*sketch{}} }

// A Latency is what is known of one tool's latency for one tenant.
type Latency struct {
	Tenant        atlas.TenantID
	Tool          string
	Source        string
	Samples       int // of the last 15 to 20 minutes, with the censored ones
	Censored      int // calls that were cut before they ended
	P50, P95, P99 time.Duration
}

// Snapshot lists what is known, sorted by tenant, tool and source. It is for operators: it tells one
// tenant's load apart from another's.
func (l *Latencies) Snapshot() []Latency {
	l.mu.RLock()
	keys := make([]key, 0, len(l.m))
	sks := make([]*sketch, 0, len(l.m))
	for k, sk := range l.m {
		keys, sks = append(keys, k), append(sks, sk)
	}
	l.mu.RUnlock()
	out := make([]Latency, len(keys))
	for i, k := range keys {
		out[i] = sks[i].snapshot(time.Now())
		out[i].Tenant, out[i].Tool, out[i].Source = k.tenant, k.tool, k.source
	}
	slices.SortFunc(out, func(a, b Latency) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Tool, b.Tool), cmp.Compare(a.Source, b.Source))
	})
	return out
}

// find returns the sketch of a tool, or nil.
func (l *Latencies) find(tenant atlas.TenantID, t *atlas.Tool) *sketch {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.m[key{tenant, t.Name, t.Source}]
}

// sketch returns the sketch of a tool, made if need be.
func (l *Latencies) sketch(tenant atlas.TenantID, t *atlas.Tool) *sketch {
	if sk := l.find(tenant, t); sk != nil {
		return sk
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	k := key{tenant, t.Name, t.Source}
	if sk := l.m[k]; sk != nil {
		return sk
	}
	if len(l.m) >= maxSketches {
		l.evict()
	}
	sk := newSketch(time.Now())
	l.m[k] = sk
	return sk
}

// evict drops the longest unused of a few sketches picked at random: near enough to LRU, without a
// list to keep. The caller holds mu.
func (l *Latencies) evict() {
	const picks = 16
	var oldest key
	age, n := int64(0), 0
	for k, sk := range l.m {
		if used := sk.used.Load(); n == 0 || used < age {
			oldest, age = k, used
		}
		if n++; n == picks {
			break
		}
	}
	delete(l.m, oldest)
}

// An estimate is what a sketch predicts. Zero durations mean that too little is known.
type estimate struct {
	q   time.Duration // p99, or p95 while there are few samples
	p50 time.Duration
}

// A sketch holds the latencies of one tool and tenant in a sliding window of HDR histograms. Packed
// ones: most tools fill some hundred buckets, so that a sketch takes a few kilobytes.
type sketch struct {
	used atomic.Int64             // time of the last observation, Unix seconds
	est  atomic.Pointer[estimate] // of the window as it was lately
	turn atomic.Int64             // when the current slice ends, Unix nanoseconds

	mu     sync.Mutex // guards what follows
	slices [windowSlices]slice
	cur    int
	fresh  int // observations since est was made
}

// A slice is one part of the window.
type slice struct {
	done     *hdr.PackedHistogram // latencies of calls that ended
	censored *hdr.PackedHistogram // how long calls ran that were cut
}

func newSketch(now time.Time) *sketch {
	sk := &sketch{}
	for i := range sk.slices {
		sk.slices[i] = slice{
			done:     hdr.NewPacked(1, int64(longest/unit), 2),
			censored: hdr.NewPacked(1, int64(longest/unit), 2),
		}
	}
	sk.est.Store(&estimate{})
	sk.turn.Store(now.Add(sliceLength).UnixNano())
	sk.used.Store(now.Unix())
	return sk
}

// observe adds the latency of a call that ended.
func (sk *sketch) observe(d time.Duration) { sk.record(d, false) }

// censor adds a call that was cut after d.
func (sk *sketch) censor(d time.Duration) { sk.record(d, true) }

func (sk *sketch) record(d time.Duration, cut bool) {
	now := time.Now()
	v := int64(min(max(d, unit), longest) / unit)
	sk.used.Store(now.Unix())
	sk.mu.Lock()
	defer sk.mu.Unlock()
	sk.rotate(now)
	h := sk.slices[sk.cur].done
	if cut {
		h = sk.slices[sk.cur].censored
	}
	if err := h.RecordValue(v); err != nil {
		return // v is within the histogram's range, so there is no such error
	}
	// A quantile hardly moves for one sample in sixteen; the first ones are needed exactly.
	sk.fresh++
	if n := sk.count(); cut || n <= fewSamples || sk.fresh*16 >= n {
		sk.refresh()
	}
}

// estimate returns what is predicted at the time. It takes no lock but when a slice of the window ends.
func (sk *sketch) estimate(now time.Time) estimate {
	if now.UnixNano() >= sk.turn.Load() {
		sk.mu.Lock()
		sk.rotate(now)
		sk.mu.Unlock()
	}
	return *sk.est.Load()
}

func (sk *sketch) snapshot(now time.Time) Latency {
	sk.mu.Lock()
	defer sk.mu.Unlock()
	sk.rotate(now)
	var l Latency
	for _, s := range sk.slices {
		l.Samples += int(s.done.TotalCount() + s.censored.TotalCount())
		l.Censored += int(s.censored.TotalCount())
	}
	c := sk.curve()
	l.P50, _ = c.quantile(0.50)
	l.P95, _ = c.quantile(0.95)
	l.P99, _ = c.quantile(0.99)
	return l
}

// rotate drops the slices that have become too old. The caller holds mu.
func (sk *sketch) rotate(now time.Time) {
	end := sk.turn.Load()
	if now.UnixNano() < end {
		return
	}
	steps := 1 + (now.UnixNano()-end)/int64(sliceLength)
	for range min(steps, windowSlices) {
		sk.cur = (sk.cur + 1) % windowSlices
		sk.slices[sk.cur].done.Reset()
		sk.slices[sk.cur].censored.Reset()
	}
	sk.turn.Store(end + steps*int64(sliceLength))
	sk.refresh()
}

func (sk *sketch) count() int {
	n := int64(0)
	for i := range sk.slices {
		n += sk.slices[i].done.TotalCount() + sk.slices[i].censored.TotalCount()
	}
	return int(n)
}

// refresh makes a new estimate. The caller holds mu.
func (sk *sketch) refresh() {
	sk.fresh = 0
	n := sk.count()
	if n < fewSamples {
		sk.est.Store(&estimate{})
		return
	}
	p := 0.99
	if n < someSamples {
		p = 0.95
	}
	c := sk.curve()
	var e estimate
	// Where more calls were cut than the quantile leaves out, all that is known is that it lies
	// beyond the longest time given: ask for twice that (the declared timeout stays the cap).
	q, known := c.quantile(p)
	if !known {
		q *= 2
	}
	e.q = q
	// For the median the bound itself is taken: fail fast only on what was seen.
	e.p50, _ = c.quantile(0.50)
	sk.est.Store(&e)
}
