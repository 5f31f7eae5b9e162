package egress

import (
	"errors"
	"io"
	"net/http"
	"strings"

	"github.com/atlas-mcp/atlas"
)

// A transport makes the requests of one tenant.
type transport struct {
	guard  *Guard
	tenant atlas.TenantID
}

// RoundTrip checks and cleans the request, makes it, and caps the answer.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	host, err := t.guard.match(t.tenant, req.Method, req.URL)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	clean := req.Clone(req.Context())
	clean.URL.Host = host // what was checked is what is dialled and named in TLS
	clean.Host = ""       // no other name in the Host header
	clean.Header = cleaned(req.Header)
	clean.Trailer = nil
	resp, err := t.guard.inner.RoundTrip(clean)
	if err != nil {
		if prohibited(err) {
			return nil, refused(err)
		}
		return nil, err
	}
	resp.Header.Del("Set-Cookie")
	resp.Body = &capped{body: resp.Body, left: t.guard.cfg.MaxBytes}
	return resp, nil
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close() // a RoundTripper closes the body, also on errors; there is nobody to tell
	}
}

// withheld lists headers that never leave: credentials, what belongs to one connection only, and
// what would tell a stranger about our side. Accept-Encoding is Go's own, so that sizes are counted
// after decompression.
var withheld = []string{
	"Authorization", "Cookie", "Proxy-Authorization", "Proxy-Authenticate", "Proxy-Connection",
	"Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Host",
	"Forwarded", "Via", "X-Real-Ip", "Referer", "Origin", "X-Tenant-Id", "X-Api-Key", "Accept-Encoding", "Expect",
}

func cleaned(in http.Header) http.Header {
	out := in.Clone()
	if out == nil {
		out = http.Header{}
	}
	for _, h := range withheld {
		out.Del(h)
	}
	for h := range out {
		if l := strings.ToLower(h); strings.HasPrefix(l, "x-forwarded-") || strings.HasPrefix(l, "x-amz-") ||
			strings.HasPrefix(l, "metadata") || strings.HasPrefix(l, "x-aws-") {
			delete(out, h)
		}
	}
	out.Set("User-Agent", "atlas")
	return out
}

// capped is a body that fails after a number of bytes.
type capped struct {
	body io.ReadCloser
	left int64
}

// Read reads up to the cap. What comes after is an error, not an end: half an answer must not pass
// for a whole one.
func (c *capped) Read(p []byte) (int, error) {
	if c.left < 0 {
		return 0, tooLarge()
	}
	// One byte more than is left tells an answer of just this size from a larger one.
	if int64(len(p)) > c.left+1 {
		p = p[:c.left+1]
	}
	n, err := c.body.Read(p)
	c.left -= int64(n)
	if c.left < 0 {
		return n - 1, tooLarge()
	}
	return n, err
}

func (c *capped) Close() error { return c.body.Close() }

func tooLarge() error {
	return atlas.Errorf(atlas.CodeTooLarge, errors.New("the answer exceeds max_bytes"), "the answer is larger than the limit")
}
