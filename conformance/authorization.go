package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/atlas-mcp/atlas/internal/app"
)

// runAuthorization has the suite try the embedded authorization server: it registers a client for the
// suite, and plays the person who opens the address that the suite prints.
func (s suite) runAuthorization(ctx context.Context, r runner) ([]result, error) {
	port, err := freePort(ctx)
	if err != nil {
		return nil, err
	}
	issuer := strings.TrimSuffix(r.url, "/mcp")
	p, err := newPerson()
	if err != nil {
		return nil, err
	}
	client, err := p.register(ctx, issuer, "http://127.0.0.1:"+port+"/callback")
	if err != nil {
		return nil, err
	}
	args := append([]string{"authorization", "--url", issuer, "-o", r.out, "--client-id", client, "--resource", r.url, "-p", port}, s.args...)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	signedIn := make(chan error, 1)
	asked, address := false, ""
	times, said, err := s.execute(ctx, r, args, "Running client scenario for authorization server '", func(line string) {
		if strings.HasPrefix(line, issuer+"/oauth/authorize?") {
			address = line
		}
		if strings.HasPrefix(line, "Callback server started") && address != "" && !asked { // it listens after it has asked
			asked = true
			go func() {
				err := p.allow(ctx, address, "copilot@acme")
				if err != nil {
					cancel(fmt.Errorf("sign in: %w", err)) // nobody will answer the suite
				}
				signedIn <- err
			}()
		}
	})
	if asked {
		err = errors.Join(err, <-signedIn)
	}
	if err != nil {
		return nil, err
	}
	return s.collect(r.out, "authorization-server-", times, said)
}

// freePort returns a port that was free a moment ago: the suite listens by itself.
func freePort(ctx context.Context) (string, error) {
	ln, err := app.ListenLoopback(ctx)
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(ln.Addr().String())
	return port, errors.Join(err, ln.Close())
}

// A person signs in and consents as one does in a browser without scripts.
type person struct{ http *http.Client }

func newPerson() (*person, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	return &person{&http.Client{Jar: jar, Timeout: 30 * time.Second, Transport: &http.Transport{}}}, nil
}

// A page is what was answered in the end, and where.
type page struct {
	status int
	at     *url.URL
	body   []byte
}

func (p *person) do(ctx context.Context, method, address, kind, body string) (page, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, strings.NewReader(body))
	if err != nil {
		return page{}, err
	}
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return page{}, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to the end
	data, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	return page{resp.StatusCode, resp.Request.URL, data}, err
}

// register registers a public client (RFC 7591) and returns its id.
func (p *person) register(ctx context.Context, issuer, redirect string) (string, error) {
	body, err := json.Marshal(map[string]any{
		"client_name": "Conformance suite", "redirect_uris": []string{redirect}, "token_endpoint_auth_method": "none",
		"grant_types": []string{"authorization_code"}, "response_types": []string{"code"},
	})
	if err != nil {
		return "", err
	}
	got, err := p.do(ctx, http.MethodPost, issuer+"/oauth/register", "application/json", string(body))
	if err != nil {
		return "", err
	}
	var answer struct {
		ID string `json:"client_id"`
	}
	if err := json.Unmarshal(got.body, &answer); err != nil {
		return "", fmt.Errorf("register a client: %w", err)
	}
	if answer.ID == "" {
		return "", fmt.Errorf("register a client: status %d: %.300s", got.status, got.body)
	}
	return answer.ID, nil
}

// allow opens address, signs in as the persona and allows what the client asks for.
func (p *person) allow(ctx context.Context, address, persona string) error {
	got, err := p.do(ctx, http.MethodGet, address, "", "")
	for _, button := range [][2]string{{"persona", persona}, {"decision", "allow"}} {
		if err != nil {
			return err
		}
		form, ferr := readForm(got.body, button[0])
		if ferr != nil {
			return fmt.Errorf("%s: status %d: %w", got.at.Path, got.status, ferr)
		}
		action, aerr := got.at.Parse(form.action)
		if aerr != nil {
			return aerr
		}
		form.values.Set(button[0], button[1])
		got, err = p.do(ctx, http.MethodPost, action.String(), "application/x-www-form-urlencoded", form.values.Encode())
	}
	return err
}

type webForm struct {
	action string
	values url.Values // hidden fields
}

var (
	formTag   = regexp.MustCompile(`(?s)<form method="post" action="([^"]*)"[^>]*>(.*?)</form>`)
	hiddenTag = regexp.MustCompile(`<input type="hidden" name="([^"]*)" value="([^"]*)">`)
)

// readForm finds the form that has a button of the name.
func readForm(page []byte, button string) (webForm, error) {
	for _, m := range formTag.FindAllSubmatch(page, -1) {
		if !bytes.Contains(m[2], []byte(`name="`+button+`"`)) {
			continue
		}
		f := webForm{action: html.UnescapeString(string(m[1])), values: url.Values{}}
		for _, h := range hiddenTag.FindAllSubmatch(m[2], -1) {
			f.values.Set(html.UnescapeString(string(h[1])), html.UnescapeString(string(h[2])))
		}
		return f, nil
	}
	return webForm{}, fmt.Errorf("the page has no form with a button %s: %.500s", button, page)
}
