package mcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A refusal is an answer by status that the protocol has no words for.
type refusal struct {
	status int
	after  time.Duration
}

func (r *refusal) Error() string {
	return fmt.Sprintf("the upstream answered with status %d", r.status)
}

// failure says what the status means for the caller.
func (r *refusal) failure() error {
	switch {
	case r.status == http.StatusTooManyRequests || r.status >= 500:
		return &atlas.Error{Code: atlas.CodeSourceUnavailable, RetryAfter: r.after, Err: r}
	default: // credentials that are not accepted, or a redirect, which credentials never follow
		return atlas.Errorf(atlas.CodeSourceMisused, r, "")
	}
}

// An exchange is what the transport notes of one call's requests.
type exchange struct {
	tooLarge atomic.Bool
}

type exchangeKey struct{}

// noting returns a context whose requests are noted. The SDK hands it to the transport.
func noting(ctx context.Context) (context.Context, *exchange) {
	x := &exchange{}
	return context.WithValue(ctx, exchangeKey{}, x), x
}

// A transport sends one identity's requests to one upstream, and bounds what comes back.
type transport struct {
	base  http.RoundTripper
	where *url.URL
	auth  *authorizer
	most  int64 // bytes of one answer
}

// maxStream bounds a stream of notifications, which nobody waits for and which may stay open for days.
const maxStream = 16 << 20

// RoundTrip implements [http.RoundTripper]. It adds the identity's headers, and answers a token that
// is refused once with a fresh one.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != t.where.Scheme || req.URL.Host != t.where.Host {
		return nil, errors.New("the request is for another host than the upstream's")
	}
	res, token, err := t.send(req)
	if err == nil && res.StatusCode == http.StatusUnauthorized && token != "" && (req.Body == nil || req.GetBody != nil) {
		_ = res.Body.Close()
		t.auth.forget(req.Context(), token)
		again := req.Clone(req.Context())
		if req.GetBody != nil {
			if again.Body, err = req.GetBody(); err != nil {
				return nil, fmt.Errorf("repeat the request: %w", err)
			}
		}
		res, _, err = t.send(again)
	}
	if err != nil {
		return nil, err
	}
	switch s := res.StatusCode; {
	case s >= 300 && s < 400, s == http.StatusUnauthorized, s == http.StatusForbidden, s == http.StatusProxyAuthRequired,
		s == http.StatusTooManyRequests, s == http.StatusBadGateway, s == http.StatusServiceUnavailable, s == http.StatusGatewayTimeout:
		_ = res.Body.Close()
		seconds, _ := strconv.Atoi(res.Header.Get("Retry-After")) // a date is not worth reading
		return nil, &refusal{s, min(time.Duration(max(seconds, 0))*time.Second, time.Hour)}
	}
	most := t.most
	if req.Method == http.MethodGet || req.Header.Get("Mcp-Method") == "subscriptions/listen" {
		most = maxStream
	}
	x, _ := req.Context().Value(exchangeKey{}).(*exchange)
	res.Body = &bounded{ReadCloser: res.Body, left: most, noted: x}
	return res, nil
}

func (t *transport) send(req *http.Request) (res *http.Response, token string, err error) {
	req = req.Clone(req.Context()) // a RoundTripper must not change its request
	maps.Copy(req.Header, t.auth.header)
	if t.auth.fetch != nil {
		if token, err = t.auth.bearer(req.Context()); err != nil {
			if req.Body != nil {
				_ = req.Body.Close()
			}
			return nil, "", err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if res, err = t.base.RoundTrip(req); err != nil {
		return nil, token, fmt.Errorf("upstream: %w", err)
	}
	return res, token, nil
}

var errTooLarge = errors.New("the upstream's answer is larger than max_answer_bytes")

// bounded is a body that fails when more comes than may.
type bounded struct {
	io.ReadCloser
	left  int64
	noted *exchange
}

// Read implements [io.Reader].
func (b *bounded) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		if b.noted != nil {
			b.noted.tooLarge.Store(true)
		}
		return n, errTooLarge
	}
	return n, err //nolint:wrapcheck // io.EOF must stay what it is
}
