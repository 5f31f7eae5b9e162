package issuer

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
)

const (
	ringInterval = time.Minute            // between two looks at the key files
	keepRetired  = maxTTL + 5*time.Minute // after its last signature, until no token of a key is good
	maxKeys      = 16                     // key files that are read
)

// A signingKey signs from a moment on, until the next key of the ring does.
type signingKey struct {
	kid     string
	private *ecdsa.PrivateKey
	from    time.Time
	file    string
}

// A ring is the signing keys of one folder: the configured file, which holds the oldest key that is
// still trusted, and beside it later keys, whose names hold the second from which they sign. Files
// are only made (whole, never over another), promoted and removed, and what to do follows from the
// names and the clock alone; so several processes that share the folder come to the same keys.
type ring struct {
	path          string
	after, ahead  time.Duration
	public        jwkset.Storage
	mu            sync.Mutex // held while files are read and written
	keys          atomic.Pointer[[]signingKey]
	publishedJSON atomic.Pointer[[]byte]
}

func openRing(cfg Config) (*ring, error) {
	r := &ring{path: cfg.KeyFile, after: cfg.RotateAfter, ahead: cfg.PublishAhead, public: jwkset.NewMemoryStorage()}
	if err := r.update(time.Now()); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *ring) run(ctx context.Context, failed func(error)) {
	t := time.NewTicker(ringInterval)
	defer t.Stop()
	for now := time.Now(); ; {
		if err := r.update(now); err != nil && failed != nil {
			failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case now = <-t.C:
		}
	}
}

// signing returns the key that signs at the time.
func (r *ring) signing(now time.Time) signingKey {
	keys := *r.keys.Load()
	for _, k := range slices.Backward(keys) {
		if !k.from.After(now) {
			return k
		}
	}
	return keys[0] // a clock that went back; the oldest is known to everybody
}

// document returns the JWKS.
func (r *ring) document() []byte { return *r.publishedJSON.Load() }

// update reads the files, drops keys that no good token can be of, and makes the next key when the
// newest comes of age.
func (r *ring) update(now time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys, err := r.read(now)
	if err != nil {
		return err
	}
	for len(keys) > 1 && now.Sub(keys[1].from) > keepRetired {
		if err := r.drop(keys); err != nil {
			return err
		}
		if keys, err = r.read(now); err != nil {
			return err
		}
	}
	if newest := keys[len(keys)-1]; !newest.from.After(now) && now.Sub(newest.from) >= r.after-r.ahead {
		from := newest.from.Add(r.after)
		if soonest := now.Add(r.ahead); from.Before(soonest) { // nobody was there when it was due
			from = soonest.Truncate(time.Minute).Add(time.Minute)
		}
		if keys, err = r.add(from, now); err != nil {
			return err
		}
	}
	return r.publish(keys)
}

// rotate makes the next key, if it is not there already, and returns when it begins to sign.
func (r *ring) rotate(now time.Time) (time.Time, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	keys, err := r.read(now)
	if err != nil {
		return time.Time{}, err
	}
	if newest := keys[len(keys)-1]; newest.from.After(now) {
		return newest.from, r.publish(keys)
	}
	if keys, err = r.add(now.Add(r.ahead), now); err != nil {
		return time.Time{}, err
	}
	return keys[len(keys)-1].from, r.publish(keys)
}

func (r *ring) add(from, now time.Time) ([]signingKey, error) {
	ext := filepath.Ext(r.path)
	from = from.Truncate(time.Second)
	path := strings.TrimSuffix(r.path, ext) + "-" + strconv.FormatInt(from.Unix(), 10) + ext
	if err := create(path, from); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return r.read(now)
}

// drop removes the oldest key. The configured file never vanishes: a process that starts would take
// that for a first start.
func (r *ring) drop(keys []signingKey) error {
	var err error
	if keys[0].file == r.path {
		err = os.Rename(keys[1].file, r.path)
	} else {
		err = os.Remove(keys[0].file)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // another process was faster
		return fmt.Errorf("key file: %w", err)
	}
	return nil
}

// read returns the keys of all files, the oldest first; there is at least one.
func (r *ring) read(now time.Time) ([]signingKey, error) {
	ext := filepath.Ext(r.path)
	prefix := filepath.Base(strings.TrimSuffix(r.path, ext)) + "-"
	var keys []signingKey
	take := func(file string, private *ecdsa.PrivateKey, from time.Time) error {
		kid, err := thumbprint(&private.PublicKey)
		if err != nil {
			return err
		}
		// A file that is promoted while it is read may be seen twice.
		if !slices.ContainsFunc(keys, func(k signingKey) bool { return k.kid == kid }) {
			keys = append(keys, signingKey{kid, private, from, file})
		}
		return nil
	}
	entries, err := os.ReadDir(filepath.Dir(r.path))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("key file: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), prefix)
		if name, ok = cutSuffix(name, ext, ok); !ok {
			continue
		}
		unix, err := strconv.ParseInt(name, 10, 64)
		if err != nil || unix <= 0 || strconv.FormatInt(unix, 10) != name {
			continue
		}
		if len(keys) == maxKeys {
			return nil, errors.New("key file: there are too many keys beside it")
		}
		file := filepath.Join(filepath.Dir(r.path), e.Name())
		private, err := load(file)
		if errors.Is(err, fs.ErrNotExist) { // promoted or removed just now
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := take(file, private, time.Unix(unix, 0)); err != nil {
			return nil, err
		}
	}
	first, err := loadOrCreate(r.path, now)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(r.path)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	if err := take(r.path, first, info.ModTime()); err != nil {
		return nil, err
	}
	slices.SortStableFunc(keys, func(a, b signingKey) int { return a.from.Compare(b.from) })
	return keys, nil
}

func cutSuffix(s, suffix string, ok bool) (string, bool) {
	if !ok {
		return "", false
	}
	return strings.CutSuffix(s, suffix)
}

// publish makes keys those that sign and are published.
func (r *ring) publish(keys []signingKey) error {
	ctx := context.Background() // a store in memory ignores it
	jwks := make([]jwkset.JWK, 0, len(keys))
	doc := jwkset.JWKSMarshal{Keys: []jwkset.JWKMarshal{}}
	for _, k := range keys {
		jwk, err := jwkset.NewJWKFromKey(&k.private.PublicKey, jwkset.JWKOptions{
			Metadata: jwkset.JWKMetadataOptions{ALG: jwkset.AlgES256, KID: k.kid, USE: jwkset.UseSig},
		})
		if err != nil {
			return fmt.Errorf("publish key: %w", err)
		}
		jwks = append(jwks, jwk)
		doc.Keys = append(doc.Keys, jwk.Marshal())
	}
	data, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("publish key: %w", err)
	}
	// First whoever checks, then whoever signs.
	if err := r.public.KeyReplaceAll(ctx, jwks); err != nil {
		return fmt.Errorf("publish key: %w", err)
	}
	r.publishedJSON.Store(&data)
	r.keys.Store(&keys)
	return nil
}
