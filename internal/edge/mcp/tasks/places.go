package tasks

import (
	"container/heap"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
)

// places counts the tasks of this process: those that run and those that are kept, of each caller,
// of each tenant and of all, so that no caller's flood takes what others need. Who is counted is the
// home tenant, the issuer and the subject: whoever may act for other tenants or through other agents
// has no more places for it.
type places struct {
	cfg *Config

	mu      sync.Mutex // guards what follows
	running counts
	tasks   counts
	bytes   map[who]int64
	kept    map[place]*kept
	byTime  expiries
}

// who is counted.
type who struct {
	tenant          atlas.TenantID
	issuer, subject string
}

func whoOf(call atlas.Call) who {
	p := call.Principal
	return who{p.Tenant, p.Issuer, p.Subject}
}

// counts are counted by caller, by tenant and in all.
type counts struct {
	caller map[who]int
	tenant map[atlas.TenantID]int
	total  int
}

func (c *counts) add(w who, caller, tenant, total int) bool {
	if c.caller[w] >= caller || c.tenant[w.tenant] >= tenant || c.total >= total {
		return false
	}
	c.caller[w]++
	c.tenant[w.tenant]++
	c.total++
	return true
}

func (c *counts) remove(w who) {
	if c.caller[w]--; c.caller[w] <= 0 {
		delete(c.caller, w)
	}
	if c.tenant[w.tenant]--; c.tenant[w.tenant] <= 0 {
		delete(c.tenant, w.tenant)
	}
	c.total--
}

// A kept task takes up a place until it expires, ended or not.
type kept struct {
	at      place
	who     who
	bytes   int64
	expires time.Time
	index   int // in byTime
}

func (p *places) init(cfg *Config) {
	p.cfg = cfg
	p.running = counts{caller: make(map[who]int), tenant: make(map[atlas.TenantID]int)}
	p.tasks = counts{caller: make(map[who]int), tenant: make(map[atlas.TenantID]int)}
	p.bytes, p.kept = make(map[who]int64), make(map[place]*kept)
}

// enter takes a place to run, until leave.
func (p *places) enter(w who) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running.add(w, p.cfg.MaxRunning, p.cfg.MaxRunningTenant, p.cfg.MaxRunningTotal)
}

func (p *places) leave(w who) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running.remove(w)
}

// busy reports whether anything runs.
func (p *places) busy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running.total > 0
}

// keep takes a place for a new task until it expires.
func (p *places) keep(at place, w who, expires time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.tasks.add(w, p.cfg.MaxTasks, p.cfg.MaxTasksTenant, p.cfg.MaxTasksTotal) {
		return false
	}
	k := &kept{at: at, who: w, expires: expires}
	p.kept[at] = k
	heap.Push(&p.byTime, k)
	return true
}

// grow says how many bytes a task has now and until when it is kept, and reports whether its caller
// may have so many. A task of another process, which counts it, may grow freely.
func (p *places) grow(at place, bytes int64, expires time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.kept[at]
	if k == nil {
		return true
	}
	sum := p.bytes[k.who] - k.bytes + bytes
	if bytes > k.bytes && sum > p.cfg.MaxKept {
		return false
	}
	p.set(k, bytes)
	k.expires = expires
	heap.Fix(&p.byTime, k.index)
	return true
}

func (p *places) set(k *kept, bytes int64) {
	if p.bytes[k.who] += bytes - k.bytes; p.bytes[k.who] <= 0 {
		delete(p.bytes, k.who)
	}
	k.bytes = bytes
}

// forget gives the place of a task back.
func (p *places) forget(at place) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := p.kept[at]; k != nil {
		p.drop(k)
	}
}

func (p *places) drop(k *kept) {
	heap.Remove(&p.byTime, k.index)
	delete(p.kept, k.at)
	p.set(k, 0)
	p.tasks.remove(k.who)
}

// expired gives back the places of tasks whose time has come, and returns them.
func (p *places) expired(now time.Time) []place {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []place
	for len(p.byTime) > 0 && !now.Before(p.byTime[0].expires) {
		out = append(out, p.byTime[0].at)
		p.drop(p.byTime[0])
	}
	return out
}

// expiries is a heap of tasks, soonest first.
type expiries []*kept

func (e expiries) Len() int           { return len(e) }
func (e expiries) Less(i, j int) bool { return e[i].expires.Before(e[j].expires) }
func (e expiries) Swap(i, j int) {
	e[i], e[j] = e[j], e[i]
	e[i].index, e[j].index = i, j
}

// Push implements [heap.Interface].
func (e *expiries) Push(x any) {
	k := x.(*kept)
	k.index = len(*e)
	*e = append(*e, k)
}

// Pop implements [heap.Interface].
func (e *expiries) Pop() any {
	last := len(*e) - 1
	k := (*e)[last]
	(*e)[last] = nil
	*e = (*e)[:last]
	return k
}
