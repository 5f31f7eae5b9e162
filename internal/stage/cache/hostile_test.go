package cache_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/stage/cache"
	"github.com/atlas-mcp/atlas/internal/stage/cache/cachetest"
)

// Whatever makes a difference to what a caller may see keeps replicas apart, too.
func TestNotSharedBetweenReplicas(t *testing.T) {
	for name, change := range map[string]func(*atlas.Call){
		"tenant":        func(c *atlas.Call) { c.Tenant, c.Principal.Tenant = "globex", "globex" },
		"home tenant":   func(c *atlas.Call) { c.Principal.Tenant = "globex" },
		"acting tenant": func(c *atlas.Call) { c.Tenant = "globex" },
		"fewer scopes":  func(c *atlas.Call) { c.Principal.Scopes = nil },
		"more scopes":   func(c *atlas.Call) { c.Principal.Scopes = append(c.Principal.Scopes, "tool:crm:pii") },
		"roles":         func(c *atlas.Call) { c.Principal.Roles = []string{"admin"} },
		"tool":          func(c *atlas.Call) { c.Tool.Name = "crm_customer" },
		"tool version":  func(c *atlas.Call) { c.Tool.Version = "v2" },
		"glued version": func(c *atlas.Call) { c.Tool.Name, c.Tool.Version = "crm_orderv", "1" },
		"glued tenant":  func(c *atlas.Call) { c.Tenant, c.Tool.Name = "acmec", "rm_order" },
		"separators":    func(c *atlas.Call) { c.Tenant, c.Tool.Name = "acme-crm", "order" },
		"arguments":     func(c *atlas.Call) { c.Args.Digest[0] ^= 1 },
		"page":          func(c *atlas.Call) { c.Page.Offset = 1 },
		"negative page": func(c *atlas.Call) { c.Page.Offset = -1 },
		"level":         func(c *atlas.Call) { c.Tool.Level = atlas.Workflow },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, a, b := two(t, never, (&source{}).handle)
				want(t, a.handle, call(), `{"run":1}`, "miss")
				synctest.Wait()
				want(t, b.handle, call(change), `{"run":2}`, "miss")
				synctest.Wait()
				want(t, b.handle, call(), `{"run":1}`, "hit")
				want(t, a.handle, call(change), `{"run":2}`, "hit")
			})
		})
	}
	t.Run("policy version", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			src := &source{}
			_, a, b := two(t, never, src.handle)
			want(t, a.handle, call(), `{"run":1}`, "miss")
			synctest.Wait()
			want(t, over(t, b.store, never, "p2", src.handle), call(), `{"run":2}`, "miss")
		})
	})
}

// secretive answers with what only the call's own tenant and scopes may see.
func secretive(_ context.Context, c atlas.Call) (atlas.Result, error) {
	return atlas.Result{Structured: fmt.Appendf(nil, `{"of":"%s %s"}`, c.Tenant, strings.Join(c.Principal.Scopes, " "))}, nil
}

func globex(c *atlas.Call) { c.Tenant, c.Principal.Tenant = "globex", "globex" }

// Whoever can write to the store moves, changes and puts back entries. None of it is ever an answer.
func TestForgedEntries(t *testing.T) {
	for name, forge := range map[string]func(hub *cachetest.Hub, acme, globex cache.Name){
		"another tenant's answer": func(h *cachetest.Hub, acme, globex cache.Name) {
			stolen := h.Entries()[acme]
			h.Put(globex, stolen)
		},
		"another tenant's answer under its own epoch and token": func(h *cachetest.Hub, acme, globex cache.Name) {
			stolen, own := h.Entries()[acme], h.Entries()[globex]
			own.Value = stolen.Value
			h.Put(globex, own)
		},
		"one bit": func(h *cachetest.Hub, _, globex cache.Name) {
			e := h.Entries()[globex]
			v := []byte(e.Value)
			v[len(v)/2] ^= 1
			e.Value = string(v)
			h.Put(globex, e)
		},
		"another token": func(h *cachetest.Hub, _, globex cache.Name) {
			e := h.Entries()[globex]
			e.Token = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
			h.Put(globex, e)
		},
		"cut short": func(h *cachetest.Hub, _, globex cache.Name) {
			e := h.Entries()[globex]
			e.Value = e.Value[:len(e.Value)-4]
			h.Put(globex, e)
		},
		"empty": func(h *cachetest.Hub, _, globex cache.Name) {
			e := h.Entries()[globex]
			e.Value = ""
			h.Put(globex, e)
		},
		"in the clear": func(h *cachetest.Hub, _, globex cache.Name) {
			e := h.Entries()[globex]
			e.Value = `{"of":"forged"}`
			h.Put(globex, e)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var runs atomic.Int64
				counted := func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
					runs.Add(1)
					return secretive(ctx, c)
				}
				hub, a, _ := two(t, never, counted)
				ask(t, a.handle, call())
				synctest.Wait()
				var acmes, globexes cache.Name
				for n := range hub.Entries() {
					acmes = n
				}
				ask(t, a.handle, call(globex))
				synctest.Wait()
				for n := range hub.Entries() {
					if n != acmes {
						globexes = n
					}
				}
				forge(hub, acmes, globexes)
				fresh := replica(t, never, hub.Join(), counted)
				want(t, fresh.handle, call(globex), `{"of":"globex tool:crm:read"}`, "miss")
				rejected := uint64(1)
				if name == "another tenant's answer" {
					rejected = 0 // its epoch is another's, too: the store itself does not give it out
				}
				if st := fresh.store.Stats(); st.Rejected != rejected || st.SharedHits != 0 {
					t.Errorf("counted as %+v", st)
				}
				synctest.Wait()
				// It was loaded anew and is shared again.
				last := replica(t, never, hub.Join(), counted)
				want(t, last.handle, call(globex), `{"of":"globex tool:crm:read"}`, "hit")
				if runs.Load() != 3 {
					t.Errorf("%d runs, want 3", runs.Load())
				}
			})
		})
	}
}

// Answers of another scope of the same tenant, moved under this one's name.
func TestForgedScope(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, a, b := two(t, never, secretive)
		low := func(c *atlas.Call) { c.Principal.Scopes = []string{"low"} }
		ask(t, a.handle, call(low))
		synctest.Wait()
		var lows cache.Name
		for n := range hub.Entries() {
			lows = n
		}
		ask(t, a.handle, call())
		synctest.Wait()
		for n, e := range hub.Entries() {
			if n != lows {
				hub.Put(lows, e)
			}
		}
		want(t, b.handle, call(low), `{"of":"acme low"}`, "miss")
	})
}

// An entry from before a purge that is put back, alone or with all that stood beside it.
func TestReplayAfterAPurge(t *testing.T) {
	t.Run("the entry", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			hub, a, b := two(t, never, (&source{}).handle)
			want(t, a.handle, call(), `{"run":1}`, "miss")
			synctest.Wait()
			old := hub.Entries()
			time.Sleep(time.Second)
			if err := a.store.Purge(t.Context(), "acme", "crm_order"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			want(t, a.handle, call(func(c *atlas.Call) { c.Page.Offset = 1 }), `{"run":2}`, "miss")
			synctest.Wait()
			var epoch string
			for n, e := range hub.Entries() {
				if _, was := old[n]; !was {
					epoch = e.Epoch
				}
			}
			for n, e := range old {
				hub.Put(n, e)
				e.Epoch = epoch // dressed up as new
				hub.Put(n, e)
			}
			want(t, b.handle, call(), `{"run":3}`, "miss")
			fresh := replica(t, never, hub.Join(), (&source{}).handle)
			want(t, fresh.handle, call(), `{"run":3}`, "hit")
		})
	})
	for name, which := range map[string]int{"the whole store, to who purged": 0, "the whole store, to who heard of it": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hub, a, b := two(t, never, (&source{}).handle)
				want(t, a.handle, call(), `{"run":1}`, "miss")
				synctest.Wait()
				restore := hub.Snapshot()
				time.Sleep(time.Second)
				if err := a.store.Purge(t.Context(), "acme", ""); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				restore()
				time.Sleep(time.Second)
				want(t, []world{a, b}[which].handle, call(), `{"run":2}`, "miss")
			})
		})
	}
}

// Whoever reads the store sees no answer, and cannot guess the arguments by the names.
func TestStoreTellsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, a, _ := two(t, never, func(context.Context, atlas.Call) (atlas.Result, error) {
			return atlas.Result{Structured: json.RawMessage(`{"iban":"DE89370400440532013000"}`)}, nil
		})
		ask(t, a.handle, call())
		synctest.Wait()
		names := map[[32]byte]bool{}
		for n, e := range hub.Entries() {
			names[n.Digest] = true
			if strings.Contains(e.Value, "DE8937") || strings.Contains(e.Value, "iban") {
				t.Errorf("the store holds %q", e.Value)
			}
		}
		// Another deployment on the same store: other names, and what it would find does not open.
		store, err := cache.NewTiered(never, cache.Deps{Shared: hub.Join(), Sealer: ring(t, 9), Secret: secret(9), Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = store.Close() }()
		want(t, over(t, store, never, "p1", (&source{}).handle), call(), `{"run":1}`, "miss")
		synctest.Wait()
		again := 0
		for n := range hub.Entries() {
			if names[n.Digest] {
				again++
			}
		}
		if again != 1 || len(hub.Entries()) != 2 {
			t.Errorf("%d of %d names are the first deployment's, want 1 of 2", again, len(hub.Entries()))
		}
	})
}

// clearText is a sealer that seals nothing and binds nothing.
type clearText struct{}

func (clearText) Seal(plain, _ []byte) string                { return string(plain) }
func (clearText) Open(text string, _ []byte) ([]byte, error) { return []byte(text), nil }

func overClearText(t testing.TB, hub *cachetest.Hub) world {
	t.Helper()
	store, err := cache.NewTiered(never, cache.Deps{Shared: hub.Join(), Sealer: clearText{}, Secret: secret(2), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return world{store, over(t, store, never, "p1", secretive)}
}

// The envelope itself is the second wall behind the sealer's binding.
func TestEnvelopeNamesItsOwner(t *testing.T) {
	low := func(c *atlas.Call) { c.Principal.Scopes = []string{"low"} }
	for name, tc := range map[string]struct {
		change func(*atlas.Call)
		own    string
	}{
		"tenant": {globex, `{"of":"globex tool:crm:read"}`},
		"scope":  {low, `{"of":"acme low"}`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hub := cachetest.NewHub()
				a := overClearText(t, hub)
				ask(t, a.handle, call())
				synctest.Wait()
				var stolen cachetest.Entry
				first := hub.Entries()
				for _, e := range first {
					stolen = e
				}
				ask(t, a.handle, call(tc.change))
				synctest.Wait()
				for n, e := range hub.Entries() {
					if _, was := first[n]; !was {
						e.Value = stolen.Value
						hub.Put(n, e)
					}
				}
				b := overClearText(t, hub)
				want(t, b.handle, call(), `{"of":"acme tool:crm:read"}`, "hit") // sealed by nobody, it opens
				want(t, b.handle, call(tc.change), tc.own, "miss")
				if n := b.store.Stats().Rejected; n != 1 {
					t.Errorf("%d rejected, want 1", n)
				}
			})
		})
	}
}

// Whatever stands in an envelope, reading it ends well.
func FuzzEnvelope(f *testing.F) {
	hub := cachetest.NewHub()
	for _, answer := range []func() (atlas.Result, error){
		func() (atlas.Result, error) {
			return atlas.Result{Structured: json.RawMessage(`{}`), Content: []atlas.Content{{Type: atlas.ContentText, Text: "x"}}}, nil
		},
		func() (atlas.Result, error) {
			return atlas.Result{}, atlas.Errorf(atlas.CodeNotFound, nil, "h").With("k", "v")
		},
	} {
		own := cachetest.NewHub()
		a := overClearText(f, own)
		h := over(f, a.store, never, "p1", func(context.Context, atlas.Call) (atlas.Result, error) { return answer() })
		_, _ = h(f.Context(), call())
		_ = a.store.Close() // the fill has ended
		for _, e := range own.Entries() {
			f.Add([]byte(e.Value))
			f.Add([]byte(e.Value[:len(e.Value)-3]))
			f.Add([]byte(e.Value + "x"))
		}
	}
	first := overClearText(f, hub)
	_, _ = first.handle(f.Context(), call())
	_ = first.store.Close()
	f.Fuzz(func(t *testing.T, data []byte) {
		for n, e := range hub.Entries() {
			e.Value, e.Token, e.Expires = string(data), "fuzz", time.Now().Add(time.Hour)
			hub.Put(n, e)
		}
		w := overClearText(t, hub)
		res, err := w.handle(t.Context(), call())
		if res.Notes.Cache == "miss" && (err != nil || string(res.Structured) != `{"of":"acme tool:crm:read"}`) {
			t.Errorf("got %s, %v", res.Structured, err)
		}
	})
}
