package issuer

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// limits are what one address, or one account, may try in a while. They are kept in memory: they
// slow guessing and flooding down, and a restart forgives.
type limits struct {
	logins    *throttle // by address, and by address and subject: sign-ins that may fail, or have
	accounts  *throttle // by subject: sign-ins from everywhere
	registers *throttle // by address: registrations
	documents *throttle // by address: requests that may cause a fetch
	failures  *throttle // by address, and by address and client: refused requests of clients

	trying sync.Mutex // held while a sign-in is let in and counted
}

// mayTry reports whether somebody at the address may try a password of the account, and counts it. That is
// before the password is looked at, so that many at once do not slip through.
func (l *limits) mayTry(address, account string) bool {
	l.trying.Lock()
	defer l.trying.Unlock()
	here := address + " " + account
	if l.logins.wait(address) > 0 || l.logins.wait(here) > 0 || l.accounts.wait(account) > 0 {
		return false
	}
	l.logins.take(address)
	l.logins.take(here)
	l.accounts.take(account)
	return true
}

func newLimits() *limits {
	return &limits{
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

// giveBack takes back a try that was none.
func (t *throttle) giveBack(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b := t.buckets[key]; b != nil {
		b.used = max(0, b.used-1)
	}
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

// peer returns what r is counted under: the address that it comes from; of an IPv6 host its network, of
// which it has all addresses. Requests that a page of another site has a browser send are counted apart: no
// page may use up what the programs of its visitor have.
func (s *Server) peer(r *http.Request) string {
	key := r.RemoteAddr
	if ip, ok := s.address(r); ok {
		key = ip.String()
		if p, err := ip.Prefix(64); err == nil && ip.Is6() {
			key = p.String()
		}
	}
	if origin := r.Header.Get("Origin"); origin != "" && origin != s.self.Scheme+"://"+s.self.Host {
		key += " web"
	}
	return key
}

// address returns where r comes from. Behind trusted proxies that is the last address of X-Forwarded-For
// that is not a trusted proxy's: what stands before it anybody can have written.
func (s *Server) address(r *http.Request) (netip.Addr, bool) {
	from, ok := parseAddress(r.RemoteAddr)
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !ok || !slices.ContainsFunc(s.proxies, func(p netip.Prefix) bool { return p.Contains(from) }) {
			break
		}
		next, readable := parseAddress(strings.TrimSpace(hop))
		if !readable {
			break
		}
		from = next
	}
	return from, ok
}

// parseAddress reads an IP address with or without a port, as one of version 4 if it is one.
func parseAddress(text string) (netip.Addr, bool) {
	if host, _, err := net.SplitHostPort(text); err == nil {
		text = host
	}
	ip, err := netip.ParseAddr(strings.Trim(text, "[]"))
	return ip.Unmap().WithZone(""), err == nil
}
