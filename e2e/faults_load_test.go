//go:build unix

package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	root "github.com/atlas-mcp/atlas"
)

// A read is one kind of call that the load makes all the time. Its answer, if it is one, holds the
// caller's own mark, and no other tenant's.
type read struct {
	group   string // of the table: the store behind it
	tool    string
	cached  bool // is answered from the cache, for a while
	args    func(tenant string, n int) object
	timeout time.Duration // of the tool
}

// Records of each tenant, under the same ids.
const records = 20

var reads = []read{
	{"crm", "crm_order", true, func(_ string, n int) object { return object{"order_id": fmt.Sprintf("o_%d", 77000+n%records)} }, 5 * time.Second},
	{"crm", "fault_order", false, func(_ string, n int) object { return object{"order_id": fmt.Sprintf("o_%d", 77000+n%records)} }, 5 * time.Second},
	{"tickets", "ticket", true, func(_ string, n int) object { return object{"ticket_id": fmt.Sprintf("t_%d", 77000+n%records)} }, 3 * time.Second},
	{"tickets", "tickets_search", false, func(tenant string, n int) object { return object{"query": fmt.Sprintf("zqmark%s number%d", tenant, n)} }, 3 * time.Second},
	{"kb", "kb_search", false, func(tenant string, n int) object {
		return object{"query": fmt.Sprintf("zqmark%s number%d", tenant, n), "top_k": 3}
	}, 3 * time.Second},
	{"files", "files_get", true, func(_ string, n int) object { return object{"key": fmt.Sprintf("docs/fault-%d.txt", n%records)} }, objectTimeout},
	{"files", "files_list", false, func(tenant string, _ int) object { return object{"prefix": "docs/zqmark" + tenant} }, objectTimeout},
	{"hybrid", "hybrid_search", true, func(tenant string, n int) object {
		return object{"query": fmt.Sprintf("zqmark%s number%d", tenant, n%100)}
	}, 10 * time.Second},
}

// faultCodes are what a caller may be told while a store is away, by docs/errors.md. Any other code, and
// "there is nothing by this name" above all, would be a wrong answer.
var faultCodes = []root.Code{
	root.CodeCircuitOpen, root.CodeSourceUnavailable, root.CodeTimeout, root.CodeOverloaded, root.CodeBudgetExhausted, root.CodeStateUnavailable,
}

// writeCodes are further ones of a write.
var writeCodes = append(slices.Clone(faultCodes), root.CodeApprovalRequired, root.CodeIdempotencyRunning)

// A sample is how one call went.
type sample struct {
	phase, group string
	took         time.Duration
	code         string // empty: success
}

// gone is the code of a call to a process that was killed.
const gone = "no connection"

// traffic is the load: callers of two tenants who do not stop, and the check of each of their answers.
type traffic struct {
	t      *testing.T
	token  map[who]string
	demo   []string // texts of acme's demo company that globex does not have
	server atomic.Pointer[server]
	doomed sync.Map // *server: killed by the test, or about to be

	began time.Time

	mu      sync.Mutex
	phase   string
	samples []sample
	calls   int            // of this phase
	count   map[string]int // of this phase, by "tool code" and "group code"
	faults  int            // what callers were told wrong
}

// violated reports an answer that no fault excuses.
func (l *traffic) violated(format string, args ...any) {
	l.mu.Lock()
	l.faults++
	say := l.faults <= 20 // the first of them tell enough
	l.mu.Unlock()
	if say {
		l.t.Errorf(format, args...)
	}
}

// enter begins a phase of the table.
func (l *traffic) enter(phase string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.phase, l.count, l.calls = phase, map[string]int{}, 0
	l.t.Logf("%s %s", time.Since(l.began).Round(100*time.Millisecond), phase)
}

// seen returns how often a tool, or a group, had the code in this phase.
func (l *traffic) seen(what string, code root.Code) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.count[what+" "+string(code)]
}

func (l *traffic) took(group, tool, code string, took time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	l.samples = append(l.samples, sample{l.phase, group, took, code})
	l.count[group+" "+code]++
	l.count[tool+" "+code]++
}

// call makes one call, notes how it went, and looks at what is true of every answer: it is in time, of
// no other tenant, and a failure has a code that the fault explains. ok says that it is a success.
func (l *traffic) call(ctx context.Context, w who, group, tool string, args, meta object, deadline time.Duration, codes []root.Code) (res told, ok bool) {
	s := l.server.Load()
	bounded, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	start := time.Now()
	res, err := s.ask(bounded, l.token[w], tool, args, meta)
	took := time.Since(start)
	if ctx.Err() != nil {
		return res, false // the test is over
	}
	if err != nil {
		if _, killed := l.doomed.Load(s); !killed || bounded.Err() != nil {
			l.violated("%s: %s after %s: %v", w.subject, tool, took, err)
		}
		res.code = gone
		l.took(group, tool, gone, took)
		return res, false
	}
	l.took(group, tool, res.code, took)
	if took > deadline+allowance {
		l.violated("%s: %s took %s, and had %s: %.300s", w.subject, tool, took, deadline, res.body)
	}
	if other := foreign(w.tenant, res.body); other != "" {
		l.violated("%s of %s was told of %s by %s: %s", w.subject, w.tenant, other, tool, res.body)
	}
	if w.tenant == "globex" {
		for _, m := range l.demo {
			if strings.Contains(res.body, m) {
				l.violated("globex was told of %q by %s: %s", m, tool, res.body)
			}
		}
	}
	if res.code != "" && !slices.Contains(codes, root.Code(res.code)) {
		if _, killed := l.doomed.Load(s); !killed || res.code != string(root.CodeShuttingDown) {
			l.violated("%s: %s failed with %s, which no fault explains: %.500s", w.subject, tool, res.code, res.body)
		}
	}
	return res, res.code == ""
}

// pace is the least time between two calls of one caller: the load is steady, not as much as goes.
const pace = 150 * time.Millisecond

// read makes one call after another until ctx ends. Every second one has a budget.
func (l *traffic) read(ctx context.Context, w who, first int) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for n := first; ; n++ {
		r := reads[n%len(reads)]
		var meta object
		// Without a budget a call may first wait for as long as its tool has for another replica that loads
		// the same, and then for its own load.
		deadline := 2 * r.timeout
		if n/len(reads)%2 == 0 {
			deadline = 2 * time.Second
			meta = object{"atlas/budget": object{"total_ms": deadline.Milliseconds()}}
		}
		res, ok := l.call(ctx, w, r.group, r.tool, r.args(w.tenant, n), meta, deadline, faultCodes)
		if ok && !strings.Contains(res.body, "zqmark"+w.tenant) && !strings.Contains(res.body, `"atlas/partial":true`) {
			l.violated("%s: %s does not answer what was asked: %.500s", w.subject, r.tool, res.body)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// A write is one object that somebody puts, with what became of it.
type write struct {
	by           who
	key, content string
	acknowledged bool
	unsure       bool // a fault fell into it after which nobody can know whether the store took it
}

func (w *write) meta() object {
	return object{"atlas/idempotency_key": "put " + w.key, "atlas/budget": object{"total_ms": writeBudget.Milliseconds()}}
}

const writeBudget = 3 * time.Second

// A ledger stands between Atlas and the object store, and counts which puts the store has taken.
type ledger struct {
	server *httptest.Server
	mu     sync.Mutex
	puts   map[string]int // by path
	wrong  []string       // paths of puts that were answered well and had another content
	want   map[string]string
	shaky  atomic.Int64 // moves when a fault begins or ends after which writes are unsure
}

// newLedger stands before the store at the URL.
func newLedger(t *testing.T, store string) *ledger {
	t.Helper()
	target, err := url.Parse(store)
	if err != nil {
		t.Fatal(err)
	}
	l := &ledger{puts: map[string]int{}, want: map[string]string{}}
	type put struct{}
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	proxy := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // which is signed
		},
		ModifyResponse: func(res *http.Response) error {
			if body, ok := res.Request.Context().Value(put{}).([]byte); ok && res.StatusCode == http.StatusOK {
				l.taken(res.Request.URL.Path, body)
			}
			return nil
		},
		// Who asks sees what he would see without a ledger: a connection that breaks off.
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	l.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				panic(http.ErrAbortHandler)
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			r = r.WithContext(context.WithValue(r.Context(), put{}, body))
		}
		proxy.ServeHTTP(w, r)
	}))
	l.server.Config.ErrorLog = nil
	t.Cleanup(func() {
		l.server.CloseClientConnections()
		l.server.Close()
		transport.CloseIdleConnections()
	})
	return l
}

func (l *ledger) taken(path string, body []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.puts[path]++
	if !bytes.Contains(body, []byte(l.want[path])) {
		l.wrong = append(l.wrong, path)
	}
}

// expect says what is going to be put under the path.
func (l *ledger) expect(path, content string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.want[path] = content
}

func (l *ledger) count(path string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.puts[path]
}

// objectPath is where a tenant's object lies in the store.
func objectPath(tenant, key string) string { return "/" + faultBucket + "/" + tenant + "/" + key }

const faultBucket = "atlas-mcp-data"

// write puts one object after another until ctx ends, each with a key of its own and through an approval,
// and repeats each until it is acknowledged. All of them are returned.
func (l *traffic) write(ctx context.Context, w who, led *ledger) (all []*write) {
	tick := time.NewTicker(2 * pace) // each is several calls, and costs the machine more than a read
	defer tick.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		key := fmt.Sprintf("attachments/%s/%d/%d.txt", strings.Split(w.subject, "@")[0], n/100, n)
		one := &write{by: w, key: key, content: mark(w.tenant, "object "+key)}
		led.expect(objectPath(w.tenant, key), one.content)
		all = append(all, one)
		l.absent(ctx, one) // which the cache remembers for a while
		l.finish(ctx, one, led)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	return all
}

// notBegun are the codes of calls of which the store never heard.
var notBegun = []root.Code{root.CodeCircuitOpen, root.CodeBudgetExhausted, root.CodeRateLimited, root.CodeOverloaded}

// finish repeats a write until it is acknowledged, or the first run still has its lease.
func (l *traffic) finish(ctx context.Context, one *write, led *ledger) {
	began := led.shaky.Load()
	one.unsure = one.unsure || began%2 == 1
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for running := 0; running < 20; {
		res, ok := l.call(ctx, one.by, "writes", "files_put", object{"key": one.key, "content": one.content}, one.meta(), writeBudget, writeCodes)
		one.unsure = one.unsure || led.shaky.Load() != began
		switch {
		case ok && !strings.Contains(res.body, `"bytes_written"`):
			l.violated("%s: files_put answered %.500s", one.by.subject, res.body)
			return
		case ok:
			one.acknowledged = true
			l.readBack(ctx, one)
			l.repeat(ctx, one, led)
			return
		case res.code == string(root.CodeApprovalRequired):
			if err := l.approve(ctx, one.by, approvalID.FindString(res.body)); err != nil && ctx.Err() == nil {
				l.violated("approve %s: %v", one.key, err)
				return
			}
		case res.code == string(root.CodeIdempotencyRunning):
			running++ // a process died in the middle of it: its lease is longer than the test
			one.unsure = true
		case !slices.Contains(notBegun, root.Code(res.code)):
			one.unsure = true // it was told that nobody knows: on a busy machine that needs no fault
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// absent reads an object that nobody has written.
func (l *traffic) absent(ctx context.Context, one *write) {
	codes := append(slices.Clone(faultCodes), root.CodeNotFound)
	if res, ok := l.call(ctx, one.by, "read back", "files_get", object{"key": one.key}, nil, 2*objectTimeout, codes); ok {
		l.violated("%s was there before it was written: %.500s", one.key, res.body)
	}
}

// readBack reads what was acknowledged: whatever the caches held before, it is there from now on.
func (l *traffic) readBack(ctx context.Context, one *write) {
	res, ok := l.call(ctx, one.by, "read back", "files_get", object{"key": one.key}, nil, 2*objectTimeout, faultCodes)
	if ok && !strings.Contains(res.body, one.content) {
		l.violated("%s was acknowledged, and is read as %.500s", one.key, res.body)
	}
}

const objectTimeout = 5 * time.Second // of the tools of the files

// repeat makes an acknowledged write once more with its key: it is answered, and not done.
func (l *traffic) repeat(ctx context.Context, one *write, led *ledger) {
	before, shaky := led.count(objectPath(one.by.tenant, one.key)), led.shaky.Load()
	res, ok := l.call(ctx, one.by, "writes", "files_put", object{"key": one.key, "content": one.content}, one.meta(), writeBudget, writeCodes)
	after := led.count(objectPath(one.by.tenant, one.key))
	if shaky%2 == 0 && led.shaky.Load() == shaky && after != before {
		l.violated("%s was done again when it was repeated", one.key)
	}
	if ok && !strings.Contains(res.body, `"bytes_written"`) {
		l.violated("the repetition of %s answered %.500s", one.key, res.body)
	}
}

// approve has another person approve. What cannot be decided now can be decided later, or has been.
func (l *traffic) approve(ctx context.Context, asker who, id string) error {
	if id == "" {
		return errors.New("no approval is named")
	}
	s := l.server.Load()
	lead := who{asker.tenant, "lead@" + asker.tenant, "approver"}
	bounded, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	res, err := s.post(bounded, "/admin/v1/approvals/"+id+"/approve", l.token[lead], []byte(`{"reason":"looks right"}`), nil)
	if err != nil {
		if _, killed := l.doomed.Load(s); killed {
			return nil
		}
		return err
	}
	if res.code != "" && res.code != string(root.CodeStateUnavailable) && res.code != string(root.CodeApprovalDecided) && res.code != string(root.CodeShuttingDown) {
		return fmt.Errorf("%d %s", res.status, res.body)
	}
	return nil
}
