package redis_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/seal"
	"github.com/atlas-mcp/atlas/internal/stage/cache"
	"github.com/atlas-mcp/atlas/internal/stage/cache/redis"
	"github.com/atlas-mcp/atlas/internal/testenv"
)

var background = context.Background()

// These make the test's own binary a replica: it reads orders from its standard input, one a line, and
// answers each with one line of JSON, in whatever order they end.
const (
	childPrefix = "ATLAS_CACHE_CHILD" // the prefix of its keys
	childURL    = "ATLAS_CACHE_CHILD_REDIS"
)

// An order is what a replica is to do.
type order struct {
	ID     int
	Do     string // "call", "purge", "stats"
	Calls  int    // how many at the same time
	Page   int
	Tenant atlas.TenantID
	Takes  time.Duration // of a run of the tool
}

// A reply is what came of it.
type reply struct {
	ID      int
	Running bool           // not the end yet: the tool has begun to run
	Answers map[string]int // answers, or codes of errors, and how often
	Notes   map[string]int
	Err     string
	Stats   cache.Stats
}

const lease = time.Second

// A site is one replica: a store over Redis, and a tool that counts its runs there.
type site struct {
	store  *cache.Store
	handle atlas.Handler
}

// newSite returns a replica that has its second tier at url and counts the runs of its tool in the Redis at
// counter. begun is told when the tool begins to run.
func newSite(url, counter, prefix string, begun func(page int)) (*site, func(), error) {
	conn, err := connect(url)
	if err != nil {
		return nil, nil, err
	}
	count, err := connect(counter)
	if err != nil {
		return nil, nil, err
	}
	log := slog.New(slog.DiscardHandler)
	shared, err := redis.New(conn, prefix, log)
	if err != nil {
		return nil, nil, err
	}
	key := bytes.Repeat([]byte{7}, 32)
	ring, err := seal.New("atlas cache v1", seal.Key{ID: "1", Secret: key})
	if err != nil {
		return nil, nil, err
	}
	// Half a second for the tier, since the machine may be busy with other tests.
	cfg := cache.Config{Beta: -1, Lease: lease, SharedTimeout: 500 * time.Millisecond}
	store, err := cache.NewTiered(cfg, cache.Deps{Shared: shared, Sealer: ring, Secret: key, Log: log})
	if err != nil {
		return nil, nil, err
	}
	stage, err := cache.New(cfg, store, func() string { return "p1" }, log)
	if err != nil {
		return nil, nil, err
	}
	s := &site{store: store}
	s.handle = stage.Stage(func(ctx context.Context, c atlas.Call) (atlas.Result, error) {
		n, err := count.Do(ctx, count.B().Incr().Key(fmt.Sprintf("%sruns:%d", prefix, c.Page.Offset)).Build()).AsInt64()
		if err != nil {
			return atlas.Result{}, err
		}
		begun(c.Page.Offset)
		timer := time.NewTimer(c.Budget.Reserve) // a word of the call that the cache does not look at
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return atlas.Result{}, ctx.Err()
		}
		return atlas.Result{Structured: fmt.Appendf(nil, `{"run":%d,"tenant":"%s"}`, n, c.Tenant)}, nil
	})
	return s, func() {
		_ = store.Close()
		conn.Close()
		count.Close()
	}, nil
}

func (s *site) do(ctx context.Context, o order) reply {
	r := reply{ID: o.ID, Answers: map[string]int{}, Notes: map[string]int{}}
	switch o.Do {
	case "purge":
		if err := s.store.Purge(ctx, o.Tenant, "crm_order"); err != nil {
			r.Err = err.Error()
		}
	case "stats":
	case "call":
		var (
			wg sync.WaitGroup
			mu sync.Mutex
		)
		for range o.Calls {
			wg.Go(func() {
				res, err := s.handle(ctx, theCall(o))
				answer := string(res.Structured)
				if err != nil {
					answer = string(atlas.CodeOf(err))
				}
				mu.Lock()
				defer mu.Unlock()
				r.Answers[answer]++
				r.Notes[res.Notes.Cache]++
			})
		}
		wg.Wait()
	default:
		r.Err = "unknown order"
	}
	r.Stats = s.store.Stats()
	return r
}

func theCall(o order) atlas.Call {
	return atlas.Call{
		ID: "r", Name: "crm_order", Tenant: o.Tenant,
		Tool: &atlas.Tool{
			Name: "crm_order", Level: atlas.Atomic, Version: "v1", ReadOnly: true, CacheTTL: time.Minute, Timeout: 20 * time.Second,
		},
		Principal: &atlas.Principal{Subject: "alice", Tenant: o.Tenant, Scopes: []string{"tool:crm:read"}},
		Args:      atlas.Args{Raw: json.RawMessage(`{}`), Digest: [32]byte{1}},
		Page:      atlas.PageSpec{Offset: o.Page}, Budget: atlas.Budget{Reserve: o.Takes}, Received: time.Now(),
	}
}

// child is a replica in a process of its own. It ends with its input.
func child() int {
	var mu sync.Mutex
	out := json.NewEncoder(os.Stdout)
	write := func(r reply) {
		mu.Lock()
		defer mu.Unlock()
		_ = out.Encode(r)
	}
	s, closeSite, err := newSite(os.Getenv(childURL), os.Getenv(childURL), os.Getenv(childPrefix), func(int) { write(reply{Running: true}) })
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer closeSite()
	for s.store.Stats().Gaps == 0 { // until it listens
		time.Sleep(time.Millisecond)
	}
	write(reply{}) // ready
	lines := bufio.NewScanner(os.Stdin)
	var wg sync.WaitGroup
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		wg.Go(func() { write(s.do(background, o)) })
	}
	wg.Wait()
	return 0
}

// A process is a replica in a process of its own.
type process struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	replies chan reply
}

func start(t *testing.T, prefix string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: exec.CommandContext(background, exe), replies: make(chan reply, 100)}
	p.cmd.Env = append(os.Environ(), childPrefix+"="+prefix, childURL+"="+testenv.URL(t, testenv.Redis))
	p.cmd.Stderr = t.Output()
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(p.replies)
		lines := json.NewDecoder(out)
		for {
			var r reply
			if lines.Decode(&r) != nil {
				return
			}
			p.replies <- r
		}
	}()
	t.Cleanup(func() {
		_ = p.in.Close()
		<-read
		_ = p.cmd.Wait()
	})
	p.next(t) // ready
	return p
}

func (p *process) order(t *testing.T, o order) {
	t.Helper()
	if o.Tenant == "" {
		o.Tenant = "acme"
	}
	line, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
}

func (p *process) next(t *testing.T) reply {
	t.Helper()
	select {
	case r, ok := <-p.replies:
		if !ok {
			t.Fatal("the process has ended")
		}
		return r
	case <-time.After(30 * time.Second):
		t.Fatal("the process does not answer")
	}
	return reply{}
}

// end returns the reply that ends the order, and whether the tool ran here for it.
func (p *process) end(t *testing.T) (r reply, ran bool) {
	t.Helper()
	for {
		if r = p.next(t); !r.Running {
			return r, ran
		}
		ran = true
	}
}

func (p *process) do(t *testing.T, o order) reply {
	t.Helper()
	p.order(t, o)
	r, _ := p.end(t)
	if r.Err != "" {
		t.Fatal(r.Err)
	}
	return r
}

func runs(t *testing.T, prefix string, page int) string {
	t.Helper()
	c := client(t)
	n, err := c.Do(t.Context(), c.B().Get().Key(fmt.Sprintf("%sruns:%d", prefix, page)).Build()).ToString()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

const first = `{"run":1,"tenant":"acme"}`

// 1,000 callers of a cold key, half of them on each of two processes, cause one run of the tool. It takes
// several leases.
func TestStampedeOnTwoProcesses(t *testing.T) {
	c := client(t)
	p := prefix(t, c)
	a, b := start(t, p), start(t, p)
	o := order{Do: "call", Calls: 500, Takes: 2500 * time.Millisecond}
	a.order(t, o)
	b.order(t, o)
	notes := map[string]int{}
	for _, process := range []*process{a, b} {
		r, _ := process.end(t)
		if r.Answers[first] != 500 || len(r.Answers) != 1 {
			t.Errorf("the answers are %v", r.Answers)
		}
		for note, n := range r.Notes {
			notes[note] += n
		}
	}
	if n := runs(t, p, 0); n != "1" || notes["miss"] != 1 || notes["hit"] != 999 {
		t.Errorf("%s runs, %v; want 1, 1 miss and 999 hits", n, notes)
	}
	// Another tenant with the same tool and arguments gets its own.
	if r := b.do(t, order{Do: "call", Calls: 1, Tenant: "globex"}); r.Answers[`{"run":2,"tenant":"globex"}`] != 1 {
		t.Errorf("globex got %v", r.Answers)
	}
}

// The process that loads is killed. Another takes over when the lease ends, and all of its callers are
// answered.
func TestKilledFiller(t *testing.T) {
	c := client(t)
	p := prefix(t, c)
	a, b := start(t, p), start(t, p)
	a.order(t, order{Do: "call", Calls: 10, Takes: 15 * time.Second})
	if r := a.next(t); !r.Running {
		t.Fatalf("got %+v", r)
	}
	b.order(t, order{Do: "call", Calls: 100})
	waiting(t, c, p)
	if err := a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	r, ran := b.end(t)
	if took := time.Since(killed); took > lease+10*time.Second {
		t.Errorf("taken over after %v", took)
	}
	if r.Answers[`{"run":2,"tenant":"acme"}`] != 100 || !ran || r.Stats.Takeovers != 1 {
		t.Errorf("the answers are %v after %+v", r.Answers, r.Stats)
	}
	if n := runs(t, p, 0); n != "2" {
		t.Errorf("%s runs, want 2", n)
	}
}

// waiting returns when a claim has met the right of another.
func waiting(t *testing.T, c rueidis.Client, prefix string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		for _, key := range keys(t, c, prefix) {
			if !strings.Contains(key, "}:l:") {
				continue
			}
			if yes, err := c.Do(t.Context(), c.B().Hexists().Key(key).Field("w").Build()).AsBool(); err == nil && yes {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody waits")
		}
	}
}

// A purge on one process is seen by the other, in its memory, too.
func TestPurgeOnTwoProcesses(t *testing.T) {
	c := client(t)
	p := prefix(t, c)
	a, b := start(t, p), start(t, p)
	one := order{Do: "call", Calls: 1}
	a.do(t, one)
	for range 2 { // from the second tier, and from memory
		if r := b.do(t, one); r.Answers[first] != 1 || r.Notes["hit"] != 1 {
			t.Fatalf("got %+v", r)
		}
	}
	a.do(t, order{Do: "purge"})
	// The message is on its way: until it is there, the old answer is all that b can give.
	for deadline := time.Now().Add(10 * time.Second); ; {
		r := b.do(t, one)
		if r.Answers[`{"run":2,"tenant":"acme"}`] == 1 {
			break
		}
		if r.Answers[first] != 1 || time.Now().After(deadline) {
			t.Fatalf("after the purge: %+v", r)
		}
	}
	if r := a.do(t, one); r.Answers[`{"run":2,"tenant":"acme"}`] != 1 {
		t.Errorf("the purging process answers %v", r.Answers)
	}
	// A tenant's purge is that tenant's.
	a.do(t, order{Do: "call", Calls: 1, Page: 1, Tenant: "globex"})
	a.do(t, order{Do: "purge"})
	if r := a.do(t, order{Do: "call", Calls: 1, Page: 1, Tenant: "globex"}); r.Notes["hit"] != 1 {
		t.Errorf("globex got %+v", r)
	}
}

// A purge while the other process loads: what that one read is kept nowhere.
func TestPurgeDuringALoadOnTwoProcesses(t *testing.T) {
	c := client(t)
	p := prefix(t, c)
	a, b := start(t, p), start(t, p)
	one := order{Do: "call", Calls: 1, Takes: time.Second}
	a.order(t, one)
	if r := a.next(t); !r.Running {
		t.Fatalf("got %+v", r)
	}
	b.do(t, order{Do: "purge"})
	if r, _ := a.end(t); r.Answers[first] != 1 {
		t.Errorf("who asked before got %v", r.Answers)
	}
	one.Takes = 0
	for _, process := range []*process{b, a} {
		if r := process.do(t, one); r.Answers[`{"run":2,"tenant":"acme"}`] != 1 {
			t.Errorf("who asked after got %v", r.Answers)
		}
	}
}
