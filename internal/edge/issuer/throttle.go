package issuer

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// limits are what one address, or one account, may try in a while. They are kept in memory: they
// slow guessing and flooding down, and a restart forgives.
type limits struct {
	logins    *throttle // by address, and by address and subject: failed sign-ins
	accounts  *throttle // by subject: failed sign-ins from everywhere
	registers *throttle // by address: registrations
	documents *throttle // by address: requests that may cause a fetch
	failures  *throttle // by address, and by address and client: refused requests of clients
}

func newLimits() limits {
	return limits{
		logins:    newThrottle(10, 30*time.Second),
		accounts:  newThrottle(100, 10*time.Second),
		registers: newThrottle(20, time.Minute),
		documents: newThrottle(30, 2*time.Second),
		failures:  newThrottle(120, 100*time.Millisecond),
	}
}

const maxThrottled = 10_000

// A throttle is a token bucket for each key. When too many keys are in use, those that it does not
// know yet share one bucket.
type throttle struct {
	burst float64
	every time.Duration // until one is given back

	mu      sync.Mutex // guards buckets
	buckets map[string]*bucket
}

type bucket struct {
	used float64 // of burst
	at   time.Time
}

func newThrottle(burst int, every time.Duration) *throttle {
	return &throttle{burst: float64(burst), every: every, buckets: map[string]*bucket{}}
}

// wait returns how long the key must wait before it may try; 0 means that it may now. It takes
// nothing.
func (t *throttle) wait(key string) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	b, now := t.buckets[key], time.Now()
	if b == nil {
		if len(t.buckets) < maxThrottled {
			return 0
		}
		if b = t.buckets[""]; b == nil {
			return 0
		}
	}
	t.drain(b, now)
	if b.used+1 <= t.burst {
		return 0
	}
	return time.Duration((b.used + 1 - t.burst) * float64(t.every))
}

// take counts one try.
func (t *throttle) take(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	b := t.buckets[key]
	if b == nil {
		if len(t.buckets) >= maxThrottled {
			t.sweep(now)
		}
		if len(t.buckets) >= maxThrottled {
			key = ""
			b = t.buckets[key]
		}
		if b == nil {
			b = &bucket{at: now}
			t.buckets[key] = b
		}
	}
	t.drain(b, now)
	b.used = min(b.used+1, t.burst)
}

func (t *throttle) drain(b *bucket, now time.Time) {
	if d := now.Sub(b.at); d > 0 {
		b.used = max(0, b.used-float64(d)/float64(t.every))
		b.at = now
	}
}

func (t *throttle) sweep(now time.Time) {
	for k, b := range t.buckets {
		if t.drain(b, now); b.used == 0 {
			delete(t.buckets, k)
		}
	}
}

// peer returns the address that r is counted under: of an IPv6 host its network, of which it has all
// addresses.
func peer(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return host
	}
	if ip = ip.Unmap(); ip.Is6() {
		if p, err := ip.WithZone("").Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}
