// Package httpfetch is the source of kind "http": it fetches text from the web for a tenant through
// the tenant's guarded client. Which hosts may be reached, and at which addresses, is decided by the
// egress guard; this package decides what a request and an answer may look like.
package httpfetch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/source"
)

// Config is the driver's settings.
type Config struct {
	MaxBytes int64         `yaml:"max_bytes"` // of an answer, decompressed; the rest is left out; default: 64 KiB
	Timeout  time.Duration `yaml:"timeout"`   // for one request; default: 10s
}

const mostBytes = 4 << 20

// Validate reports all mistakes, joined.
func (c *Config) Validate() error {
	var errs []error
	if c.MaxBytes < 0 || c.MaxBytes > mostBytes {
		errs = append(errs, fmt.Errorf("max_bytes: must be between 1 and %d", mostBytes))
	}
	if c.Timeout < 0 || c.Timeout > time.Minute {
		errs = append(errs, errors.New("timeout: must be between 1ms and 1m"))
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	c.MaxBytes = cmp.Or(c.MaxBytes, 64<<10)
	c.Timeout = cmp.Or(c.Timeout, 10*time.Second)
	return c
}

// Open returns a [Fetcher]. It makes no connection.
func (c *Config) Open(ctx context.Context, deps source.Deps) (source.Source, error) {
	if err := errors.Join(ctx.Err(), c.Validate()); err != nil {
		return nil, err
	}
	if deps.Egress == nil {
		return nil, atlas.Errorf(atlas.CodeSourceMisused, errors.New("an http source needs an outbound allowlist"), "")
	}
	return &Fetcher{cfg: c.withDefaults(), egress: deps.Egress}, nil
}

// A Fetcher makes outbound requests. It holds nothing of a tenant between two of them.
type Fetcher struct {
	cfg    Config
	egress source.Dialer
	closed atomic.Bool
}

var (
	_ source.Fetcher = (*Fetcher)(nil)
	_ source.Config  = (*Config)(nil)
)

// Ping reports whether the source is open: there is no one server to ask.
func (f *Fetcher) Ping(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return f.open()
}

// Close makes later calls fail. Requests that are running go on.
func (f *Fetcher) Close() error {
	f.closed.Store(true)
	return nil
}

func (f *Fetcher) open() error {
	if f.closed.Load() {
		return atlas.Errorf(atlas.CodeSourceUnavailable, errors.New("the source is closed"), "")
	}
	return nil
}

// mayAsk lists the request headers that a caller may set. All others are refused, not dropped: a
// caller that believes it sent something is worse off than one that is told.
var mayAsk = []string{"accept", "accept-language", "content-type", "if-match", "if-modified-since", "if-none-match"}

// mayTell lists the response headers that a caller sees.
var mayTell = []string{"content-type", "content-language", "etag", "last-modified", "retry-after", "x-request-id"}

// Fetch makes a request. An answer of any status is an answer. Codes: host_not_allowlisted;
// invalid_arguments for a request that is wrong; source_error for an answer that is not text or is
// redirected too often; timeout; source_unavailable when no answer can be had.
func (f *Fetcher) Fetch(ctx context.Context, tenant atlas.TenantID, r source.Request) (source.Response, error) {
	if err := f.open(); err != nil {
		return source.Response{}, err
	}
	req, err := request(ctx, r)
	if err != nil {
		return source.Response{}, err
	}
	if err := f.egress.Allowed(tenant, req.Method, req.URL.String()); err != nil {
		return source.Response{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, f.cfg.Timeout)
	defer cancel()
	resp, err := f.egress.Client(tenant).Do(req.WithContext(ctx))
	if err != nil {
		return source.Response{}, failure(err)
	}
	defer func() { _ = resp.Body.Close() }() // read or not, nothing is lost
	out := source.Response{Status: resp.StatusCode, Header: map[string]string{}}
	for _, h := range mayTell {
		if v := resp.Header.Get(h); v != "" {
			out.Header[h] = strings.ToValidUTF8(v, "\ufffd")
		}
	}
	if req.Method == http.MethodHead {
		return out, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, f.cfg.MaxBytes+1))
	if err == nil {
		// A server that sees the connection closing may end its answer early, and its end may still
		// arrive: half an answer must not pass for a whole one.
		err = ctx.Err()
	}
	if err != nil {
		return source.Response{}, failure(err)
	}
	if int64(len(body)) > f.cfg.MaxBytes {
		body, out.Truncated = body[:f.cfg.MaxBytes], true
	}
	if out.Body, err = text(resp.Header.Get("Content-Type"), body, out.Truncated); err != nil {
		return source.Response{}, err
	}
	return out, nil
}

// request checks a request and makes it ready to be sent.
func request(ctx context.Context, r source.Request) (*http.Request, error) {
	bad := func(argument, hint string, cause error) error {
		return atlas.Errorf(atlas.CodeInvalidArguments, cause, hint).With("argument", argument)
	}
	method := strings.ToUpper(cmp.Or(r.Method, http.MethodGet))
	var body io.Reader
	switch method {
	case http.MethodGet, http.MethodHead:
		if len(r.Body) > 0 {
			return nil, bad("body", "a GET or HEAD request has no body", nil)
		}
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		if len(r.Body) > 0 {
			body = strings.NewReader(string(r.Body))
		}
	default:
		return nil, bad("method", "the method is not supported; use GET, HEAD, POST, PUT, PATCH or DELETE", nil)
	}
	req, err := http.NewRequestWithContext(ctx, method, r.URL, body)
	if err != nil {
		return nil, bad("url", "the URL cannot be read", err)
	}
	req.URL.Fragment, req.URL.RawFragment = "", ""
	for name, value := range r.Header {
		if !slices.Contains(mayAsk, strings.ToLower(name)) {
			return nil, bad("headers", "only these headers may be sent: "+strings.Join(mayAsk, ", "), nil)
		}
		if strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
			return nil, bad("headers", "a header value holds a control character", nil)
		}
		req.Header.Set(name, value)
	}
	if len(r.Body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// failure turns an error of the client into one that a caller may see. The cause, which names hosts
// and addresses, stays with the operator.
func failure(err error) error {
	if e, ok := errors.AsType[*atlas.Error](err); ok {
		return atlas.Errorf(e.Code, err, e.Hint)
	}
	if errors.Is(err, context.Canceled) {
		return atlas.Errorf(atlas.CodeCanceled, err, "")
	}
	if n, ok := errors.AsType[net.Error](err); errors.Is(err, context.DeadlineExceeded) || ok && n.Timeout() {
		return atlas.Errorf(atlas.CodeTimeout, err, "")
	}
	return atlas.Errorf(atlas.CodeSourceUnavailable, err, "")
}

// text returns a body as text, or refuses it: what is not text is of no use to a model and may be a
// way to carry something past those who read along.
func text(contentType string, body []byte, truncated bool) (string, error) {
	if len(body) == 0 {
		return "", nil
	}
	notText := func(why string) (string, error) {
		return "", atlas.Errorf(atlas.CodeSourceError, errors.New(why), "the answer is not text")
	}
	if contentType != "" {
		media, params, err := mime.ParseMediaType(contentType)
		if err != nil {
			return notText("the content type cannot be read")
		}
		if !isText(media) {
			return notText("the content type is " + media)
		}
		switch strings.ToLower(params["charset"]) {
		case "", "utf-8", "utf8", "us-ascii", "ascii":
		case "iso-8859-1", "latin1":
			return fromLatin1(body), nil
		}
	}
	s := string(body)
	if truncated {
		for i := 0; i < utf8.UTFMax && len(s) > 0; i++ { // the cut may have gone through a character
			if r, size := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || size != 1 {
				break
			}
			s = s[:len(s)-1]
		}
	}
	if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
		return notText("the body is not UTF-8 text")
	}
	return s, nil
}

func isText(media string) bool {
	if strings.HasPrefix(media, "text/") || strings.HasSuffix(media, "+json") || strings.HasSuffix(media, "+xml") {
		return true
	}
	switch media {
	case "application/json", "application/xml", "application/yaml", "application/x-ndjson", "application/javascript",
		"application/problem+json", "application/x-www-form-urlencoded":
		return true
	}
	return false
}

// fromLatin1 decodes ISO 8859-1, whose bytes are the first 256 code points.
func fromLatin1(b []byte) string {
	runes := make([]rune, len(b))
	for i, c := range b {
		runes[i] = rune(c)
	}
	return string(runes)
}
