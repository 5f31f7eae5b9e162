package elasticsearch

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A client asks the nodes of one cluster. It is safe for concurrent use.
type client struct {
	http     *http.Client
	nodes    []*node
	next     atomic.Uint32
	auth     string // the Authorization header, or ""
	loadAuth string // the same for requests that write
	trace    func(context.Context) string
	maxBytes int64
}

// A node is left alone for a while after it could not be reached.
type node struct {
	base  string
	until atomic.Int64 // Unix nanoseconds
}

// leftAlone is how long a node that could not be reached is asked last.
const leftAlone = 10 * time.Second

func newClient(cfg Config, transport http.RoundTripper, trace func(context.Context) string) *client {
	c := &client{maxBytes: cfg.MaxAnswerBytes, trace: trace}
	for _, base := range cfg.URLs {
		c.nodes = append(c.nodes, &node{base: strings.TrimRight(base, "/")})
	}
	c.auth = authorization(cfg.APIKey, cfg.Username, cfg.Password)
	if cfg.Bearer != "" {
		c.auth = "Bearer " + cfg.Bearer
	}
	c.loadAuth = cmp.Or(authorization(cfg.LoadAPIKey, cfg.LoadUsername, cfg.LoadPassword), c.auth)
	c.http = &http.Client{
		Transport: transport,
		// A redirect would carry documents, and perhaps the credentials, to a place that nobody configured.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c
}

func authorization(apiKey, user, password string) string {
	switch {
	case apiKey != "":
		return "ApiKey " + apiKey
	case user != "":
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
	}
	return ""
}

func (c *client) close() { c.http.CloseIdleConnections() }

// An answer is what a node answered, whatever its status.
type answer struct {
	status int
	header http.Header
	body   []byte
}

const (
	jsonMedia   = "application/json"
	ndjsonMedia = "application/x-ndjson"
)

// do sends one request and returns its whole answer. A node that cannot be reached, or that closes
// the connection before it answers, is passed over for the next one: all our requests may be sent
// twice. Errors are [*atlas.Error]s.
func (c *client) do(ctx context.Context, method, path, media string, body []byte) (answer, error) {
	var causes []error
	for _, n := range c.order(time.Now()) {
		a, err := c.ask(ctx, n, method, path, media, body)
		if _, reached := errors.AsType[*atlas.Error](err); err == nil || reached {
			n.until.Store(0)
			return a, err
		}
		if ctx.Err() != nil {
			return answer{}, ended(ctx, err)
		}
		n.until.Store(time.Now().Add(leftAlone).UnixNano())
		causes = append(causes, err)
	}
	return answer{}, atlas.Errorf(atlas.CodeSourceUnavailable, errors.Join(causes...), "")
}

// order returns the nodes, those left alone last, each call beginning with another.
func (c *client) order(now time.Time) []*node {
	if len(c.nodes) == 1 {
		return c.nodes
	}
	first := int(c.next.Add(1)) % len(c.nodes)
	good, bad := make([]*node, 0, len(c.nodes)), []*node(nil)
	for i := range c.nodes {
		n := c.nodes[(first+i)%len(c.nodes)]
		if n.until.Load() > now.UnixNano() {
			bad = append(bad, n)
		} else {
			good = append(good, n)
		}
	}
	return append(good, bad...)
}

// ask sends the request to one node. The error is an [*atlas.Error] if the node began to answer.
func (c *client) ask(ctx context.Context, n *node, method, path, media string, body []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, n.base+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("Accept", jsonMedia)
	if len(body) > 0 {
		req.Header.Set("Content-Type", media)
	}
	auth := c.auth
	if method == http.MethodPut || media == ndjsonMedia { // an index is made, or documents are written
		auth = c.loadAuth
	}
	if auth != "" {
		req.Header.Set("Authorization", auth)
	}
	if c.trace != nil {
		if parent := c.trace(ctx); parent != "" {
			req.Header.Set("Traceparent", parent)
			req.Header.Set("X-Opaque-Id", parent) // in the slow logs and lists of tasks of all servers
		}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }() // read or not, nothing is lost
	out, err := io.ReadAll(io.LimitReader(resp.Body, c.maxBytes+1))
	if ctx.Err() != nil {
		// The end of an answer may still arrive after the connection was told to close.
		return answer{}, ended(ctx, err)
	}
	if err != nil {
		return answer{}, atlas.Errorf(atlas.CodeSourceUnavailable, err, "")
	}
	if int64(len(out)) > c.maxBytes {
		return answer{}, atlas.Errorf(atlas.CodeTooLarge, errors.New("the server's answer is larger than max_answer_bytes"), "")
	}
	return answer{resp.StatusCode, resp.Header, out}, nil
}

// ended is the error of a call whose context has ended.
func ended(ctx context.Context, cause error) error {
	e := atlas.ErrorOf(ctx.Err())
	return atlas.Errorf(e.Code, errors.Join(ctx.Err(), cause), "")
}

// statusCodes says what a status means where the request itself says nothing more.
var statusCodes = map[int]atlas.Code{
	http.StatusUnauthorized:          atlas.CodeSourceMisused,
	http.StatusForbidden:             atlas.CodeSourceMisused,
	http.StatusNotFound:              atlas.CodeSourceMisused,
	http.StatusRequestTimeout:        atlas.CodeTimeout,
	http.StatusRequestEntityTooLarge: atlas.CodeTooLarge,
	http.StatusTooManyRequests:       atlas.CodeOverloaded,
	http.StatusBadGateway:            atlas.CodeSourceUnavailable,
	http.StatusServiceUnavailable:    atlas.CodeSourceUnavailable,
	http.StatusGatewayTimeout:        atlas.CodeTimeout,
}

// kindCodes says what some errors mean under whatever status a version gives them.
var kindCodes = map[string]atlas.Code{
	"search_timeout_exception":                 atlas.CodeTimeout, // 504, or 429 in later versions
	"task_cancelled_exception":                 atlas.CodeTimeout,
	"too_many_buckets_exception":               atlas.CodeTooLarge, // 503, or 400
	"too_many_clauses":                         atlas.CodeTooLarge, // 500: an agent's words and clauses multiply; the server is well
	"too_many_nested_clauses":                  atlas.CodeTooLarge,
	"circuit_breaking_exception":               atlas.CodeOverloaded,
	"rejected_execution_exception":             atlas.CodeOverloaded,
	"es_rejected_execution_exception":          atlas.CodeOverloaded,
	"cluster_block_exception":                  atlas.CodeSourceUnavailable, // 403 or 429: a full disk
	"no_shard_available_action_exception":      atlas.CodeSourceUnavailable,
	"master_not_discovered_exception":          atlas.CodeSourceUnavailable,
	"cluster_manager_not_discovered_exception": atlas.CodeSourceUnavailable,
}

// failure returns the answer's failure, or nil for status 2xx. Its text is for operators only.
func (a answer) failure() error {
	if a.status/100 == 2 {
		return nil
	}
	code, ok := statusCodes[a.status]
	if !ok {
		code = atlas.CodeSourceError
	}
	kind, root, reason := a.reason()
	for _, k := range []string{root, kind} {
		if c, ok := kindCodes[k]; ok {
			code = c
			break
		}
	}
	e := atlas.Errorf(code, fmt.Errorf("status %d: %s: %s", a.status, cmp.Or(root, kind), reason), "")
	if s, err := strconv.Atoi(a.header.Get("Retry-After")); err == nil && s > 0 && s <= 3600 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	return e
}

// reason returns the type of the server's error, that of its first cause, and its text, as far as
// it has the usual form.
func (a answer) reason() (kind, root, text string) {
	var body struct {
		Error json.RawMessage `json:"error"`
	}
	type fault struct {
		Type   string `json:"type"`
		Reason string `json:"reason"`
	}
	var e struct {
		fault
		Root []fault `json:"root_cause"`
	}
	if json.Unmarshal(a.body, &body) != nil || json.Unmarshal(body.Error, &e) != nil {
		return "unknown", "", strings.ToValidUTF8(string(a.body[:min(len(a.body), 200)]), "\ufffd")
	}
	text = e.Reason
	if len(e.Root) > 0 {
		root = e.Root[0].Type
		if e.Root[0].Reason != text {
			text += ": " + e.Root[0].Reason
		}
	}
	if len(text) > 500 {
		text = strings.ToValidUTF8(text[:500], "") + "…"
	}
	return e.Type, root, text
}

// absent reports whether the server says that there is no such index.
func (a answer) absent() bool {
	if a.status != http.StatusNotFound {
		return false
	}
	kind, _, _ := a.reason()
	return kind == "index_not_found_exception"
}
