package redis_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/cache"
	"github.com/atlas-mcp/atlas/internal/stage/cache/redis"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

func do(t *testing.T, c rueidis.Client, command ...string) string {
	t.Helper()
	r := c.Do(t.Context(), c.B().Arbitrary(command[0]).Args(command[1:]...).Build())
	if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) {
		t.Fatalf("%s: %v", command[0], err)
	}
	s, _ := r.ToString()
	return s
}

// key returns the one key with the prefix that holds the text.
func key(t *testing.T, c rueidis.Client, prefix, text string) string {
	t.Helper()
	found := ""
	for _, k := range keys(t, c, prefix) {
		if strings.Contains(k, text) {
			if found != "" {
				t.Fatalf("%s and %s hold %s", found, k, text)
			}
			found = k
		}
	}
	if found == "" {
		t.Fatalf("no key holds %s", text)
	}
	return found
}

func open(t *testing.T, prefix string) *site {
	t.Helper()
	s, closeSite, err := newSite(testenv.URL(t, testenv.Redis), testenv.URL(t, testenv.Redis), prefix, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeSite)
	for s.store.Stats().Gaps == 0 {
		<-time.After(time.Millisecond)
	}
	return s
}

// one makes one call, and returns the answer and its note.
func (s *site) one(t *testing.T, tenant atlas.TenantID) (string, string) {
	t.Helper()
	res, err := s.handle(t.Context(), theCall(order{Tenant: tenant}))
	if err != nil {
		t.Fatal(err)
	}
	return string(res.Structured), res.Notes.Cache
}

// filled has acme's and globex's answers loaded and waits until they are in Redis.
func filled(t *testing.T, c rueidis.Client, prefix string) {
	t.Helper()
	for _, tenant := range []atlas.TenantID{"acme", "globex"} {
		a, b := open(t, prefix), open(t, prefix)
		a.one(t, tenant)
		if _, note := b.one(t, tenant); note != "hit" {
			t.Fatal("the answer did not come to Redis")
		}
	}
	if n := len(keys(t, c, prefix)); n != 5 { // two answers, two hashes of epochs, one counter
		t.Fatalf("there are %d keys: %v", n, keys(t, c, prefix))
	}
}

// What stands in Redis: by tenant, sealed, with an end.
func TestLayout(t *testing.T) {
	c := client(t)
	p := prefix(t, c)
	filled(t, c, p)
	for _, k := range keys(t, c, p) {
		if strings.HasSuffix(k, "runs:0") {
			continue // the test's own
		}
		if !strings.HasPrefix(k, p+"cache:{acme}:") && !strings.HasPrefix(k, p+"cache:{globex}:") {
			t.Errorf("%s is outside its tenant", k)
		}
		if left, err := c.Do(t.Context(), c.B().Pttl().Key(k).Build()).AsInt64(); err != nil || left <= 0 {
			t.Errorf("%s has no end (%v)", k, err)
		}
		if strings.Contains(k, ":e:") {
			if v := do(t, c, "GET", k); strings.Contains(v, "run") || strings.Contains(v, "acme") {
				t.Errorf("%s holds %q", k, v)
			}
		}
	}
}

// Whoever can write to Redis writes what he likes. Nobody gets an answer that is not his own.
func TestHostileRedis(t *testing.T) {
	const acme, globex = "{acme}:e:", "{globex}:e:"
	for name, attack := range map[string]func(t *testing.T, c rueidis.Client, p string){
		"another tenant's bytes": func(t *testing.T, c rueidis.Client, p string) {
			do(t, c, "SET", key(t, c, p, globex), do(t, c, "GET", key(t, c, p, acme)), "PX", "60000")
		},
		"another tenant's answer in the own envelope": func(t *testing.T, c rueidis.Client, p string) {
			k := key(t, c, p, globex)
			do(t, c, "SET", k, do(t, c, "GET", k)[:78]+do(t, c, "GET", key(t, c, p, acme))[78:], "PX", "60000")
		},
		"another tenant's bytes, epochs and all": func(t *testing.T, c rueidis.Client, p string) {
			do(t, c, "SET", key(t, c, p, globex), do(t, c, "GET", key(t, c, p, acme)), "PX", "60000")
			do(t, c, "COPY", key(t, c, p, "{acme}:epochs"), key(t, c, p, "{globex}:epochs"), "REPLACE")
		},
		"one bit": func(t *testing.T, c rueidis.Client, p string) {
			k := key(t, c, p, globex)
			v := []byte(do(t, c, "GET", k))
			v[200] ^= 1
			do(t, c, "SET", k, string(v), "PX", "60000")
		},
		"no end": func(t *testing.T, c rueidis.Client, p string) {
			do(t, c, "PERSIST", key(t, c, p, globex))
		},
		"a huge value": func(t *testing.T, c rueidis.Client, p string) {
			k := key(t, c, p, globex)
			do(t, c, "SETRANGE", k, "20000000", "x")
		},
		"lost epochs": func(t *testing.T, c rueidis.Client, p string) {
			do(t, c, "DEL", key(t, c, p, "{globex}:epochs"))
		},
		"odd epochs": func(t *testing.T, c rueidis.Client, p string) {
			do(t, c, "HSET", key(t, c, p, "{globex}:epochs"), "*", "1", "t:crm_order", strings.Repeat("x", 1000))
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := client(t)
			p := prefix(t, c)
			filled(t, c, p)
			attack(t, c, p)
			fresh := open(t, p)
			if answer, note := fresh.one(t, "globex"); answer != `{"run":3,"tenant":"globex"}` || note != "miss" {
				t.Errorf("got %s (%s)", answer, note)
			}
			// And the next one shares again.
			if answer, note := open(t, p).one(t, "globex"); answer != `{"run":3,"tenant":"globex"}` || note != "hit" {
				t.Errorf("then got %s (%s)", answer, note)
			}
			if answer, note := open(t, p).one(t, "acme"); answer != `{"run":1,"tenant":"acme"}` || note != "hit" {
				t.Errorf("acme got %s (%s)", answer, note)
			}
		})
	}
	// Keys of another type make every step fail: each replica answers for itself.
	t.Run("another type", func(t *testing.T) {
		c := client(t)
		p := prefix(t, c)
		filled(t, c, p)
		k := key(t, c, p, globex)
		do(t, c, "DEL", k)
		do(t, c, "SADD", k, "x")
		fresh := open(t, p)
		if answer, _ := fresh.one(t, "globex"); answer != `{"run":3,"tenant":"globex"}` {
			t.Errorf("got %s", answer)
		}
		if answer, note := fresh.one(t, "globex"); answer != `{"run":3,"tenant":"globex"}` || note != "hit" {
			t.Errorf("then got %s (%s)", answer, note)
		}
		if fresh.store.Stats().Fallbacks == 0 {
			t.Error("not counted")
		}
	})
	// A right without an end, which no script of ours leaves behind, is nobody's.
	t.Run("an endless right", func(t *testing.T) {
		c := client(t)
		p := prefix(t, c)
		s := tier(t, c, p)
		claim := cache.Claim{Name: cache.Name{Tenant: "acme", Tool: "x"}, Token: rand.Text(), Lease: time.Minute, Max: 1000}
		if st, err := s.Claim(t.Context(), claim); err != nil || st.State != cache.Granted {
			t.Fatal(st, err)
		}
		do(t, c, "PERSIST", key(t, c, p, ":l:"))
		claim.Token = rand.Text()
		if st, err := s.Claim(t.Context(), claim); err != nil || st.State != cache.Granted {
			t.Errorf("got %+v, %v", st, err)
		}
	})
}

// Messages that nobody of ours sends.
func TestHostileMessages(t *testing.T) {
	c := client(t)
	p := prefix(t, c)
	s := open(t, p)
	s.one(t, "acme")
	for _, m := range []string{
		"", "p", "x", "a", "a123", "n" + strings.Repeat("x", 33), "p" + strings.Repeat("x", 26), "p" + strings.Repeat("x", 26) + "acme",
		"p" + strings.Repeat("x", 26) + "../acme\x00x", "p" + strings.Repeat("x", 26) + "\x00", strings.Repeat("p", 1<<20),
	} {
		do(t, c, "PUBLISH", p+"cache:events", m)
	}
	// One that is well formed is believed: it makes the replica forget, and no more. It also tells that the
	// others were read.
	other := open(t, p)
	if err := other.store.Purge(t.Context(), "globex", ""); err != nil {
		t.Fatal(err)
	}
	if answer, note := s.one(t, "acme"); answer != first || note != "hit" {
		t.Errorf("got %s (%s)", answer, note)
	}
	do(t, c, "PUBLISH", p+"cache:events", "p"+strings.Repeat("x", 26)+"acme\x00")
	for deadline := time.Now().Add(10 * time.Second); ; {
		if answer, _ := s.one(t, "acme"); answer != first {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a purge is not heard")
		}
	}
}

func TestNamesAreChecked(t *testing.T) {
	c := client(t)
	s := tier(t, c, prefix(t, c))
	for _, tenant := range []atlas.TenantID{"", "a}b", "{a}", "A", "a:b", "a\x00", "../a"} {
		n := cache.Name{Tenant: tenant, Tool: "x", Digest: sha256.Sum256([]byte("x"))}
		for what, f := range map[string]func() error{
			"Claim": func() error {
				_, err := s.Claim(t.Context(), cache.Claim{Name: n, Token: rand.Text(), Lease: time.Minute, Max: 1})
				return err
			},
			"Fill":    func() error { _, err := s.Fill(t.Context(), cache.Fill{Name: n, Token: rand.Text()}); return err },
			"Renew":   func() error { _, err := s.Renew(t.Context(), n, "x", time.Minute); return err },
			"Release": func() error { return s.Release(t.Context(), n, "x", true) },
			"Purge":   func() error { return s.Purge(t.Context(), tenant, "") },
		} {
			if f() == nil {
				t.Errorf("%s took the tenant %q", what, tenant)
			}
		}
	}
	if _, err := redis.New(c, "a{b}", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a prefix with a hash tag was taken")
	}
	if _, err := redis.New(nil, "", nil); err == nil {
		t.Error("no client is needed")
	}
}

func BenchmarkTier(b *testing.B) {
	c := client(b)
	s := tier(b, c, prefix(b, c))
	n := cache.Name{Tenant: "acme", Tool: "x"}
	ctx := context.Background()
	load := func() {
		claim := cache.Claim{Name: n, Token: rand.Text(), Lease: time.Minute, Max: 1 << 20}
		st, err := s.Claim(ctx, claim)
		if err != nil || st.State != cache.Granted {
			b.Fatal(st.State, err)
		}
		if out, err := s.Fill(ctx, cache.Fill{Name: n, Token: claim.Token, Epoch: st.Epoch, Value: strings.Repeat("x", 1000), TTL: time.Hour}); err != nil || out != cache.Kept {
			b.Fatal(out, err)
		}
	}
	b.Run("load", func(b *testing.B) {
		b.ReportAllocs()
		for i := uint64(0); b.Loop(); i++ {
			n.Digest = sha256.Sum256([]byte{byte(i), byte(i >> 8), byte(i >> 16), byte(i >> 24)})
			load()
		}
	})
	n.Digest = sha256.Sum256([]byte("hit"))
	load()
	b.Run("hit", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if st, err := s.Claim(ctx, cache.Claim{Name: n, Token: "AAAAAAAAAAAAAAAAAAAAAAAAAA", Lease: time.Minute, Max: 1 << 20}); err != nil || st.State != cache.Found {
				b.Fatal(st.State, err)
			}
		}
	})
}
