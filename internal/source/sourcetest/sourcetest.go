// Package sourcetest holds the contract of the source drivers: one suite for each capability of
// package source, which every driver that has the capability passes. A driver's test calls [Run]
// and adds tests only for what is its own.
package sourcetest

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// A Capability names one of the interfaces of package source.
type Capability string

// The capabilities, each with its suite.
const (
	Querier     Capability = "Querier"
	Searcher    Capability = "Searcher"
	VectorIndex Capability = "VectorIndex"
	ObjectStore Capability = "ObjectStore"
	Fetcher     Capability = "Fetcher"
	Provider    Capability = "Provider"
)

// Marker stands in what callers must never be told: harnesses put it into the directory, the
// connection string, the host name, the password and the like, as far as the driver has them.
const Marker = "marker-7c19e0"

// A Harness is how a driver is tested. All sources that it opens are fresh; it closes them in a
// cleanup (closing twice is part of the contract).
type Harness struct {
	// Open opens a source over a store that holds data and nothing else. Needed for all
	// capabilities but Fetcher and Provider. A Querier lets callers read the tables customers and orders without
	// the column customers.ssn, and not the table vault.
	Open func(t *testing.T, data map[atlas.TenantID]source.Data) source.Source

	// SlowSQL are statements that would run for hours, at least one of which gives its first row at
	// once (Querier).
	SlowSQL []string

	// OpenEmbed is Open with an embedder of the suite's (VectorIndex).
	OpenEmbed func(t *testing.T, embed source.Embedder, data map[atlas.TenantID]source.Data) source.Source

	// MaxObjectBytes is the limit of the sources that Open opens (ObjectStore).
	MaxObjectBytes int64

	// OpenFetch opens a source whose tenants may reach what the target says (Fetcher).
	OpenFetch func(t *testing.T, target FetchTarget) source.Source

	// OpenProvider serves up over the protocol, and opens a source that serves tenants A and B, each with
	// its credential, with all of up's tools pinned as they are (Provider).
	OpenProvider func(t *testing.T, up *Upstream) source.Source
}

// Run holds a driver to the law of package source and of the capabilities named, all of which its
// sources must have.
func Run(t *testing.T, h Harness, want ...Capability) {
	t.Helper()
	if len(want) == 0 {
		t.Fatal("sourcetest.Run: name at least one capability")
	}
	for _, c := range want {
		s, ok := suites[c]
		if !ok {
			t.Fatalf("sourcetest.Run: there is no capability %q", c)
		}
		t.Run(string(c), func(t *testing.T) {
			src := s.open(t, h)
			if !s.has(src) {
				t.Fatalf("%T does not implement source.%s", src, c)
			}
			lifecycle(t, h, s)
			for _, l := range s.laws {
				t.Run(l.name, func(t *testing.T) {
					t.Cleanup(func() {
						if t.Failed() {
							t.Log("the law: " + l.text)
						}
					})
					l.check(t, h)
				})
			}
		})
	}
}

// A law is one sentence of a contract and its check.
type law struct {
	name, text string
	check      func(t *testing.T, h Harness)
}

// A suite is the contract of one capability.
type suite struct {
	open func(t *testing.T, h Harness) source.Source
	has  func(source.Source) bool
	// call makes an ordinary call that succeeds for tenant A.
	call func(ctx context.Context, src source.Source, tenant atlas.TenantID) error
	laws []law
}

var suites = map[Capability]suite{
	Querier:     querierSuite,
	Searcher:    searcherSuite,
	VectorIndex: vectorSuite,
	ObjectStore: objectSuite,
	Fetcher:     fetcherSuite,
	Provider:    providerSuite,
}

// lifecycle checks what holds for every source, whatever it can do.
func lifecycle(t *testing.T, h Harness, s suite) {
	laws := []law{
		{"Ping", "an open source answers Ping", func(t *testing.T, h Harness) {
			if err := s.open(t, h).Ping(t.Context()); err != nil {
				t.Errorf("Ping: %v", err)
			}
		}},
		{"Ended", "a call whose context has ended fails with the context's error and code", func(t *testing.T, h Harness) {
			src := s.open(t, h)
			canceled, cancel := context.WithCancel(t.Context())
			cancel()
			expired, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Hour))
			defer cancel()
			for _, tc := range []struct {
				ctx  context.Context
				want error
				code atlas.Code
			}{{canceled, context.Canceled, atlas.CodeCanceled}, {expired, context.DeadlineExceeded, atlas.CodeTimeout}} {
				err := s.call(tc.ctx, src, A)
				if !errors.Is(err, tc.want) || atlas.CodeOf(err) != tc.code {
					t.Errorf("got %v, want %v and code %s", err, tc.want, tc.code)
				}
				if err := src.Ping(tc.ctx); !errors.Is(err, tc.want) {
					t.Errorf("Ping: got %v, want %v", err, tc.want)
				}
			}
			if err := s.call(t.Context(), src, A); err != nil {
				t.Errorf("the next call: %v", err)
			}
		}},
		{"Close", "closing twice is fine, and any call after it fails, as an *atlas.Error", func(t *testing.T, h Harness) {
			src := s.open(t, h)
			if err := s.call(t.Context(), src, A); err != nil {
				t.Errorf("before Close: %v", err)
			}
			for range 2 {
				if err := src.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
			}
			for _, tenant := range []atlas.TenantID{A, Nobody} {
				refused(t, s.call(t.Context(), src, tenant), atlas.CodeSourceUnavailable)
			}
			refused(t, src.Ping(t.Context()), atlas.CodeSourceUnavailable)
		}},
		{"CloseWhileUsed", "Close is safe while calls are running", func(t *testing.T, h Harness) {
			src := s.open(t, h)
			done := make(chan struct{})
			for range 4 {
				go func() {
					defer func() { done <- struct{}{} }()
					for range 10 {
						if err := s.call(context.Background(), src, A); err != nil {
							return // it is closed
						}
					}
				}()
			}
			if err := src.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			for range 4 {
				<-done
			}
			if err := s.call(t.Context(), src, A); err == nil {
				t.Error("a call after Close succeeded")
			}
		}},
		{"BadTenant", "what is no tenant id is refused, and leads nowhere", func(t *testing.T, h Harness) {
			src := s.open(t, h)
			for _, id := range []atlas.TenantID{"", ".", "..", "../" + A, A + "/../" + A, "Acme", "acme\x00", A + ".db", "%61cme"} {
				if err := s.call(t.Context(), src, id); err == nil {
					t.Errorf("tenant %q was served", id)
				} else {
					quiet(t, err)
				}
			}
		}},
	}
	for _, l := range laws {
		t.Run(l.name, func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Log("the law: " + l.text)
				}
			})
			l.check(t, h)
		})
	}
}

// refused checks that err is an *atlas.Error of one of the codes that tells callers nothing that it
// must not, and returns what callers see.
func refused(t *testing.T, err error, codes ...atlas.Code) string {
	t.Helper()
	e, ok := errors.AsType[*atlas.Error](err)
	if !ok {
		t.Errorf("got %v (%T), want an *atlas.Error of code %v", err, err, codes)
		return ""
	}
	found := false
	for _, c := range codes {
		found = found || e.Code == c
	}
	if !found {
		t.Errorf("got code %s (%v), want %v", e.Code, err, codes)
	}
	return quiet(t, err)
}

// quiet checks that what callers see of err has nothing of the insides in it, and returns it.
func quiet(t *testing.T, err error) string {
	t.Helper()
	data, e := json.Marshal(atlas.ErrorOf(err).Failure("req_1"))
	if e != nil {
		t.Fatal(e)
	}
	seen := string(data)
	for _, secret := range []string{Marker, "/tmp", "127.0.0.1", "localhost", "no such ", "SQL logic", "goroutine", Vault} {
		if strings.Contains(seen, secret) {
			t.Errorf("callers are told %q in %s", secret, seen)
		}
	}
	return seen
}

// text is v as JSON, to be compared and searched.
func text(t *testing.T, v any) string {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("an answer has no JSON form: %v", err)
	}
	return string(data)
}

// together runs fn for both tenants in several goroutines at once.
func together(t *testing.T, fn func(tenant atlas.TenantID, i int)) {
	t.Helper()
	done := make(chan struct{})
	const n = 8
	for g := range n {
		tenant := A
		if g%2 == 1 {
			tenant = B
		}
		go func() {
			defer func() { done <- struct{}{} }()
			for i := range 25 {
				fn(tenant, i)
			}
		}()
	}
	for range n {
		<-done
	}
}
