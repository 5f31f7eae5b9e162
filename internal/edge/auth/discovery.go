package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const maxMetadata = 256 << 10

// metadataURLs are where an issuer's metadata may be: OpenID Connect Discovery 1.0 section 4, then
// RFC 8414 section 3.1, which puts the well-known part before the issuer's path.
func metadataURLs(issuer string) []string {
	out := []string{strings.TrimSuffix(issuer, "/") + "/.well-known/openid-configuration"}
	if u, err := url.Parse(issuer); err == nil {
		u.Path = "/.well-known/oauth-authorization-server" + strings.TrimSuffix(u.Path, "/")
		out = append(out, u.String())
	}
	return out
}

// discover returns the jwks_uri of the issuer's metadata. The document must name the very issuer that was
// asked for (RFC 8414 section 3.3), or one issuer's keys could pass for another's.
func discover(ctx context.Context, client *http.Client, issuer string) (string, error) {
	var errs []error
	for _, at := range metadataURLs(issuer) {
		uri, err := readMetadata(ctx, client, at, issuer)
		if err == nil {
			return uri, nil
		}
		errs = append(errs, fmt.Errorf("metadata at %s: %w", at, err))
		if ctx.Err() != nil {
			break
		}
	}
	return "", errors.Join(errs...)
}

func readMetadata(ctx context.Context, client *http.Client, at, issuer string) (string, error) {
	body, _, err := get(ctx, client, at, maxMetadata)
	if err != nil {
		return "", err
	}
	doc, err := decodeObject(body)
	if err != nil {
		return "", err
	}
	if got, _ := doc["issuer"].(string); got != issuer {
		return "", fmt.Errorf("it is of issuer %q", got)
	}
	uri, _ := doc["jwks_uri"].(string)
	if err := secureURL(uri); err != nil {
		return "", fmt.Errorf("jwks_uri %w", err)
	}
	return uri, nil
}

// get reads a document of at most limit bytes, and when its server says that it is.
func get(ctx context.Context, client *http.Client, at string, limit int64) ([]byte, time.Time, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, time.Time{}, err
	}
	req.Header.Set("Accept", "application/json, application/jwk-set+json")
	return send(client, req, limit)
}

// send sends a request and reads the answer, which must be 200 OK.
func send(client *http.Client, req *http.Request, limit int64) ([]byte, time.Time, error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, time.Time{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	date, _ := http.ParseTime(resp.Header.Get("Date")) // zero if there is none
	if resp.StatusCode != http.StatusOK {
		return nil, date, fmt.Errorf("status %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, date, err
	}
	if int64(len(body)) > limit {
		return nil, date, errors.New("is larger than the limit")
	}
	return body, date, nil
}
