package elasticsearch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// An Index searches documents. It implements source.Searcher and source.Loader, and takes query
// bodies of agents by [Index.SearchDSL].
type Index struct {
	cfg    Config
	client *client
	log    *slog.Logger
	names  *names // of fields, for query bodies

	life context.Context // ends with Close
	stop context.CancelFunc
	mu   sync.RWMutex
	// closed and running are under mu: nothing is added to running once closed is set.
	closed  bool
	running sync.WaitGroup

	gate     *source.Gate // open once the server was seen to be what it should
	checking sync.Mutex
	checked  map[string]time.Time // until when an index is known to fit; under checking
	server   Server               // what answered last; under checking
}

// An index that fits is looked at again after a minute: another may have taken its name.
const (
	fitsFor    = time.Minute
	maxChecked = 10_000 // bounds Index.checked; beyond it indexes are looked at earlier
)

func newIndex(cfg Config, c *client, log *slog.Logger) *Index {
	x := &Index{cfg: cfg, client: c, log: log, names: newNames(cfg), checked: map[string]time.Time{}}
	x.life, x.stop = context.WithCancel(context.Background())
	x.gate = source.NewGate(cfg.Timeout, x.check)
	return x
}

// A Server is what answers at the configured URL.
type Server struct {
	Product string // elasticsearch or opensearch; "" if it does not tell
	Version string
}

// supported are the major versions that the driver is made for.
var supported = map[string]string{"elasticsearch": "8, 9", "opensearch": "2, 3"}

// Supported reports whether the driver is made for this server.
func (s Server) Supported() bool {
	major, _, _ := strings.Cut(s.Version, ".")
	for v := range strings.SplitSeq(supported[s.Product], ", ") {
		if v == major {
			return true
		}
	}
	return false
}

// begin registers a call, which ends with the source. The caller calls end.
func (x *Index) begin(ctx context.Context) (_ context.Context, end func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, nil, atlas.ErrorOf(err)
	}
	x.mu.RLock()
	defer x.mu.RUnlock()
	if x.closed {
		return nil, nil, errClosed()
	}
	x.running.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	forget := context.AfterFunc(x.life, cancel)
	return ctx, func() { forget(); cancel(); x.running.Done() }, nil
}

func errClosed() error {
	return atlas.Errorf(atlas.CodeSourceUnavailable, errors.New("the source is closed"), "")
}

// outcome is err, or that the source was closed under the call.
func (x *Index) outcome(ctx context.Context, err error) error {
	if err != nil && ctx.Err() == nil && x.life.Err() != nil {
		return errClosed()
	}
	return err
}

// Close ends running calls and waits for them.
func (x *Index) Close() error {
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	x.stop()
	x.gate.Close()
	x.running.Wait()
	x.client.close()
	return nil
}

// Ping asks the cluster whether it answers, and with isolation by filter whether the index is there
// and fits.
func (x *Index) Ping(ctx context.Context) error {
	call, end, err := x.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	return x.outcome(ctx, x.gate.Check(call))
}

// check is what must hold before calls are let through.
func (x *Index) check(ctx context.Context) error {
	if err := x.hello(ctx); err != nil {
		return err
	}
	if x.cfg.Isolation == IsolationIndex {
		return nil
	}
	x.forget(x.cfg.Index)
	there, err := x.ready(ctx, x.cfg.Index)
	if err == nil && !there {
		err = missing(x.cfg.Index)
	}
	return err
}

// Server asks the cluster what it is.
func (x *Index) Server(ctx context.Context) (Server, error) {
	if err := x.Ping(ctx); err != nil {
		return Server{}, err
	}
	x.checking.Lock()
	defer x.checking.Unlock()
	return x.server, nil
}

// away are the codes of a server that cannot be asked now.
var away = []atlas.Code{atlas.CodeSourceUnavailable, atlas.CodeTimeout, atlas.CodeOverloaded}

// start checks what can be checked before the first call.
func (x *Index) start(ctx context.Context) error {
	err := x.gate.Check(ctx)
	if ctx.Err() == nil && slices.Contains(away, atlas.CodeOf(err)) {
		x.log.Warn("search server does not answer; it is checked before the first call", "error", err)
		return nil
	}
	return err
}

func (x *Index) migrate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	err := x.hello(ctx)
	if err != nil || x.cfg.Isolation == IsolationIndex {
		return err
	}
	there, err := x.ready(ctx, x.cfg.Index)
	if err == nil && !there {
		err = x.create(ctx, x.cfg.Index)
	}
	return err
}

func missing(index string) error {
	return atlas.Errorf(atlas.CodeSourceMisused, fmt.Errorf("the index %s does not exist: make it with atlas migrate", index), "")
}

// hello asks for product and version, and warns of ones that the driver was not made for.
func (x *Index) hello(ctx context.Context) error {
	a, err := x.client.do(ctx, http.MethodGet, "/", "", nil)
	if err != nil {
		return err
	}
	if a.status == http.StatusForbidden { // alive, and does not tell us what it is
		x.log.Warn("the credentials may not ask for the server's version (monitor); go on without")
		return nil
	}
	if err := a.failure(); err != nil {
		return err
	}
	var info struct {
		Version struct {
			Number       string `json:"number"`
			Distribution string `json:"distribution"`
		} `json:"version"`
	}
	if err := json.Unmarshal(a.body, &info); err != nil || info.Version.Number == "" {
		return atlas.Errorf(atlas.CodeSourceMisused, errors.New("what answers at the URL is neither Elasticsearch nor OpenSearch"), "")
	}
	s := Server{Product: info.Version.Distribution, Version: info.Version.Number}
	if s.Product == "" && a.header.Get("X-Elastic-Product") == "Elasticsearch" {
		s.Product = "elasticsearch"
	}
	x.checking.Lock()
	known := x.server == s
	x.server = s
	x.checking.Unlock()
	if !known && !s.Supported() {
		x.log.Warn("the driver is made for Elasticsearch 8 and 9 and OpenSearch 2 and 3", "product", s.Product, "version", s.Version)
	}
	return nil
}

// Name is the name of the index that holds the tenant's documents, for operators; "" for what is no
// tenant id.
func (x *Index) Name(tenant atlas.TenantID) string {
	name, _ := x.index(tenant)
	return name
}

// index is the name of the tenant's index. Tenants' ids hold no dot, so no two tenants of any two
// prefixes share one.
func (x *Index) index(tenant atlas.TenantID) (string, error) {
	if _, err := atlas.ParseTenantID(string(tenant)); err != nil {
		return "", atlas.Errorf(atlas.CodeInternal, err, "")
	}
	if x.cfg.Isolation == IsolationFilter {
		return x.cfg.Index, nil
	}
	return x.cfg.Index + "." + string(tenant), nil
}

// ready reports whether the index is there; an index that does not fit is an error.
func (x *Index) ready(ctx context.Context, index string) (bool, error) {
	x.checking.Lock()
	until := x.checked[index]
	x.checking.Unlock()
	if time.Now().Before(until) {
		return true, nil
	}
	a, err := x.client.do(ctx, http.MethodGet, "/"+index+"/_mapping", "", nil)
	if err != nil {
		return false, err
	}
	if a.absent() {
		return false, nil
	}
	if err := a.failure(); err != nil {
		return false, err
	}
	if err := x.cfg.check(index, a.body); err != nil {
		return false, atlas.Errorf(atlas.CodeSourceMisused, err, "")
	}
	x.remember(index)
	return true, nil
}

func (x *Index) remember(index string) {
	x.checking.Lock()
	defer x.checking.Unlock()
	if len(x.checked) >= maxChecked {
		clear(x.checked)
	}
	x.checked[index] = time.Now().Add(fitsFor)
}

func (x *Index) forget(index string) {
	x.checking.Lock()
	delete(x.checked, index)
	x.checking.Unlock()
}

// create makes the index, or finds that somebody else just did.
func (x *Index) create(ctx context.Context, index string) error {
	body, err := json.Marshal(x.cfg.creation())
	if err != nil {
		return err
	}
	a, err := x.client.do(ctx, http.MethodPut, "/"+index, jsonMedia, body)
	if err != nil {
		return err
	}
	if err := a.failure(); err != nil {
		if kind, _, _ := a.reason(); kind != "resource_already_exists_exception" {
			return err
		}
	}
	there, err := x.ready(ctx, index)
	if err == nil && !there {
		err = missing(index)
	}
	return err
}

// milliseconds is what is left until ctx ends, as the server takes it.
func milliseconds(ctx context.Context, most time.Duration) string {
	left := most
	if deadline, ok := ctx.Deadline(); ok {
		left = min(left, time.Until(deadline))
	}
	return strconv.FormatInt(max(left.Milliseconds(), 1), 10) + "ms"
}
