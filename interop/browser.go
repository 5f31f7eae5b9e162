package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// browsers are the names that Chromium goes by.
var browsers = []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}

// browser has a person sign in for a client that has no token, with the embedded authorization server.
func (l *lab) browser(ctx context.Context, name, want, client string) (r row) {
	r = row{Version: want, Cells: map[string]string{}}
	fail := func(err error) row {
		r.Error = err.Error()
		return r
	}
	program, err := l.findBrowser(ctx)
	if err != nil {
		return fail(err)
	}
	home, err := l.js()
	if err != nil {
		return fail(err)
	}
	own := filepath.Join(l.dir, name)
	if err := os.MkdirAll(own, 0o750); err != nil {
		return fail(err)
	}
	var o struct {
		outcome
		Login     string `json:"login"`
		Consent   string `json:"consent"`
		Cancelled string `json:"cancelled"` // the error that the client got after a person's no
		Refreshed bool   `json:"refreshed"`
		Document  struct {
			Visits int    `json:"visits"`
			Text   string `json:"text"`
		} `json:"document"`
	}
	err = l.drive(ctx, name, l.cache.Node(ctx, home, filepath.Join(home, "drivers", "browser.mjs"), client), struct {
		job
		Chromium    string `json:"chromium"`
		Screenshots string `json:"screenshots"`
		Persona     string `json:"persona"`
	}{
		job{URL: l.url, Expired: l.expired, Call: allowedCall, Denied: deniedCall, Home: own, Version: want},
		program, filepath.Join(l.out, "screenshots"), persona,
	}, &o)
	if err != nil {
		return fail(err)
	}
	if o.Version != want {
		r.Error = fmt.Sprintf("it speaks %q, which should be %q", o.Version, want)
	}
	r.Cells["login"] = judgePage(o.Login, "Sign in", persona)
	r.Cells["consent"] = judgePage(o.Consent, "to act for you?", persona, "acme", l.url)
	r.Cells["list"] = judgeList(o.Tools, l.tools)
	r.Cells["call"] = judgeAnswer(o.Call, false, allowedWord)
	r.Cells["denied"] = judgeAnswer(o.Denied, true, deniedWord)
	r.Cells["cancel"], r.Cells["refresh"], r.Cells["document"] = none, none, none
	if client == "ts2" { // the other cannot be made to ask twice
		r.Cells["cancel"] = ok
		if o.Cancelled != "access_denied" {
			r.Cells["cancel"] = fmt.Sprintf("after a no the client got %q", o.Cancelled)
		}
		r.Cells["refresh"] = ok
		if !o.Refreshed {
			r.Cells["refresh"] = "the refresh token gave no new tokens, or not a new refresh token"
		}
		r.Cells["document"] = judgePage(o.Document.Text, "This does not work")
		if o.Document.Visits > 0 {
			r.Cells["document"] = "the authorization server fetched a client's description from this machine"
		}
	}
	return r
}

// judgePage says whether a page shows the words.
func judgePage(page string, words ...string) string {
	page = strings.Join(strings.Fields(page), " ")
	for _, w := range words {
		if !strings.Contains(page, w) {
			return fmt.Sprintf("the page does not show %q: %.600s", w, page)
		}
	}
	return ok
}

// findBrowser finds Chromium, or installs it where that can be done without asking: as root on Debian.
func (l *lab) findBrowser(ctx context.Context) (string, error) {
	l.installing.Lock()
	defer l.installing.Unlock()
	for _, b := range browsers {
		if path, err := exec.LookPath(b); err == nil {
			return path, nil
		}
	}
	apt, err := exec.LookPath("apt-get")
	if err != nil || os.Geteuid() != 0 {
		return "", errors.New("there is no Chromium on the PATH; install it (Debian: apt-get install chromium)")
	}
	for _, args := range [][]string{{"update", "-qq"}, {"install", "-y", "-qq", "--no-install-recommends", "chromium"}} {
		cmd := exec.CommandContext(ctx, apt, args...) //nolint:gosec // found on the PATH
		cmd.Env = append(append([]string{}, l.env...), "DEBIAN_FRONTEND=noninteractive")
		if said, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("install Chromium: %w\n%s", err, said)
		}
	}
	return exec.LookPath("chromium")
}
