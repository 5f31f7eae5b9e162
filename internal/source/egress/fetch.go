package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"time"
)

const (
	maxDocument  = 64 << 10
	documentTime = 5 * time.Second
)

// Fetch reads one JSON document over https from any public host, for parts that are told where to
// look by strangers, such as the description of an OAuth client: no tenant's allowlist applies, so it
// sends nothing but the request for the document. Addresses are checked as for tenants. It follows no
// redirect, and bounds size (64 KiB) and time (5 s). Its errors are for operators.
func (g *Guard) Fetch(ctx context.Context, raw string) (body []byte, header http.Header, err error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, nil, errors.New("fetch: not an https URL without credentials and fragment")
	}
	ctx, cancel := context.WithTimeout(ctx, documentTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, nil, fmt.Errorf("fetch: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "atlas")
	res, err := g.inner.RoundTrip(req) // a transport follows no redirect
	if err != nil {
		return nil, nil, fmt.Errorf("fetch: %w", err)
	}
	defer func() { err = errors.Join(err, res.Body.Close()) }()
	if res.StatusCode != http.StatusOK {
		return nil, nil, fmt.Errorf("fetch: status %d", res.StatusCode)
	}
	if ct, _, err := mime.ParseMediaType(res.Header.Get("Content-Type")); err != nil || !isJSON(ct) {
		return nil, nil, errors.New("fetch: the document is not JSON")
	}
	body, err = io.ReadAll(io.LimitReader(res.Body, maxDocument+1))
	if err != nil {
		return nil, nil, fmt.Errorf("fetch: %w", err)
	}
	if len(body) > maxDocument {
		return nil, nil, fmt.Errorf("fetch: the document is longer than %d bytes", maxDocument)
	}
	return body, res.Header, nil
}

func isJSON(mediaType string) bool {
	switch mediaType {
	case "application/json", "application/jwk-set+json":
		return true
	}
	return false
}
