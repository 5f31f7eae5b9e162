package issuer_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/MicahParks/jwkset"

	"github.com/atlas-mcp/atlas/internal/edge/auth"
	"github.com/atlas-mcp/atlas/internal/edge/issuer"
)

func published(t testing.TB, i *issuer.Issuer) []string {
	t.Helper()
	w := httptest.NewRecorder()
	i.ServeJWKS(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil))
	var set struct {
		Keys []map[string]string
	}
	if err := json.Unmarshal(w.Body.Bytes(), &set); err != nil {
		t.Fatal(err)
	}
	var kids []string
	for _, k := range set.Keys {
		if k["d"] != "" {
			t.Fatal("a private key is published")
		}
		kids = append(kids, k["kid"])
	}
	slices.Sort(kids)
	return kids
}

func kidOf(t testing.TB, i *issuer.Issuer) string {
	t.Helper()
	tok, err := i.Sign(issuer.Claims{Tenant: "acme", Subject: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	return part(t, tok, 0)["kid"].(string)
}

// For days, every token that any of three processes signs is good to each of them until it
// expires, although the keys change, and each key was published before it signed.
func TestKeysRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "issuer.pem")
		ctx, stop := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var all []*issuer.Issuer
		var verifiers []*auth.Verifier
		for range 3 {
			i, err := issuer.New(issuer.Config{KeyFile: file, RotateAfter: 18 * time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			wg.Go(func() { _ = i.Run(ctx, func(err error) { t.Error(err) }) })
			v, err := auth.New(auth.Config{Issuers: []auth.Issuer{{Issuer: i.URL(), Audience: []string{i.Audience()}}}},
				auth.Deps{Keys: map[string]jwkset.Storage{i.URL(): i.Keys()}})
			if err != nil {
				t.Fatal(err)
			}
			all, verifiers = append(all, i), append(verifiers, v)
		}
		type signed struct {
			token string
			until time.Time
		}
		var tokens []signed
		signers := map[string]bool{}
		known := map[string]bool{} // published by all, an hour ago or more
		for end := time.Now().Add(80 * time.Hour); time.Now().Before(end); time.Sleep(time.Hour + 7*time.Minute) {
			synctest.Wait()
			common := published(t, all[0])
			for _, i := range all[1:] {
				if !slices.Equal(published(t, i), common) {
					t.Fatalf("%s: the processes publish different keys", time.Now())
				}
			}
			if len(common) > 2 {
				t.Fatalf("%d keys at once", len(common))
			}
			for _, i := range all {
				tok, err := i.Sign(issuer.Claims{Tenant: "acme", Subject: "ann", TTL: 12 * time.Hour})
				if err != nil {
					t.Fatal(err)
				}
				kid := part(t, tok, 0)["kid"].(string)
				if kid != kidOf(t, all[0]) {
					t.Fatal("the processes sign with different keys")
				}
				if !slices.Contains(common, kid) {
					t.Fatal("signed with a key that is not published")
				}
				if len(signers) > 0 && !signers[kid] && !known[kid] {
					t.Fatal("a key signs that was published just now")
				}
				signers[kid] = true
				tokens = append(tokens, signed{tok, time.Now().Add(12 * time.Hour)})
			}
			for _, kid := range common {
				known[kid] = true
			}
			tokens = slices.DeleteFunc(tokens, func(s signed) bool { return !time.Now().Before(s.until) })
			for _, s := range tokens {
				for _, v := range verifiers {
					if _, err := v.Verify(t.Context(), s.token, ""); err != nil {
						t.Fatalf("%s: a good token: %v", time.Now(), err)
					}
				}
			}
		}
		stop()
		wg.Wait()
		if len(signers) != 5 { // the first, and one for each 18 hours
			t.Errorf("%d keys signed", len(signers))
		}
		entries, err := os.ReadDir(filepath.Dir(file))
		if err != nil || len(entries) > 2 {
			t.Errorf("left behind: %v %v", entries, err)
		}
		for _, e := range entries {
			if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v %v", e.Name(), info.Mode(), err)
			}
		}
		// The configured file is one of the keys that are trusted now: a start finds it.
		again, err := issuer.New(issuer.Config{KeyFile: file, RotateAfter: 18 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		if kidOf(t, again) != kidOf(t, all[0]) {
			t.Error("a start signs with another key")
		}
	})
}

func TestRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "issuer.pem")
		newOne := func() *issuer.Issuer {
			i, err := issuer.New(issuer.Config{KeyFile: file})
			if err != nil {
				t.Fatal(err)
			}
			return i
		}
		i := newOne()
		old := kidOf(t, i)
		from, err := i.Rotate()
		if err != nil || time.Until(from) > time.Hour || time.Until(from) < time.Hour-time.Second {
			t.Fatal(from, err)
		}
		if again, err := i.Rotate(); err != nil || !again.Equal(from) { // not a key for each call
			t.Errorf("again: %v %v", again, err)
		}
		if kidOf(t, i) != old || len(published(t, i)) != 2 {
			t.Error("the next key is not published before it signs")
		}
		time.Sleep(time.Hour)
		if kidOf(t, i) == old || kidOf(t, i) != kidOf(t, newOne()) {
			t.Error("the next key does not sign")
		}
		if len(published(t, newOne())) != 2 {
			t.Error("the old key is gone while its tokens are good")
		}
		time.Sleep(13 * time.Hour)
		if kids := published(t, newOne()); len(kids) != 1 || kids[0] == old {
			t.Errorf("the old key stays: %v", kids)
		}
		// A long sleep: the next key comes late, and no earlier than an hour after it is published.
		time.Sleep(400 * 24 * time.Hour)
		late := newOne()
		before := kidOf(t, late)
		if len(published(t, late)) != 2 {
			t.Error("no next key after a long sleep")
		}
		time.Sleep(59 * time.Minute)
		if kidOf(t, late) != before {
			t.Error("a key signs that was published just now")
		}
		time.Sleep(3 * time.Minute)
		if kidOf(t, late) == before {
			t.Error("the old key signs on")
		}
	})
}

// Many processes at once, through all that is done with the files.
func TestRotationRaces(t *testing.T) {
	file := filepath.Join(t.TempDir(), "issuer.pem")
	past := time.Now().Add(-200 * 24 * time.Hour)
	if _, err := issuer.New(issuer.Config{KeyFile: file}); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if err := os.Chtimes(file, past, past); err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				i, err := issuer.New(issuer.Config{KeyFile: file})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := i.Rotate(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		entries, err := os.ReadDir(filepath.Dir(file))
		if err != nil || len(entries) < 2 || len(entries) > 3 {
			t.Fatalf("files: %v %v", entries, err)
		}
		// As if the next key had been due long ago: it is promoted to the configured file.
		for n, e := range entries {
			if e.Name() == "issuer.pem" || n > 1 {
				continue
			}
			if err := os.Rename(filepath.Join(filepath.Dir(file), e.Name()), filepath.Join(filepath.Dir(file), "issuer-1000000000.pem")); err != nil {
				t.Fatal(err)
			}
		}
	}
}
