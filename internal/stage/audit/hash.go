package audit

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
)

// keySize is the length of the key in bytes.
const keySize = 32

// LoadKey returns the key in the file, and makes one if there is no file. It refuses a file that
// others may read. Processes that start at the same time agree on one key.
func LoadKey(path string) ([]byte, error) {
	key, err := readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	// Written aside and linked into place: nobody ever reads half a key, and the first one wins.
	tmp, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	fresh := make([]byte, keySize)
	_, _ = rand.Read(fresh) // never fails
	_, err = tmp.WriteString(hex.EncodeToString(fresh) + "\n")
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	return readKey(path)
}

func readKey(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	if keepsModes && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("audit key: %s may be read by others (mode %04o); make it 0600", path, info.Mode().Perm())
	}
	data, err := os.ReadFile(path) //nolint:gosec // the operator's own path
	if err != nil {
		return nil, fmt.Errorf("audit key: %w", err)
	}
	key, err := hex.DecodeString(string(bytes.TrimSpace(data)))
	if err != nil || len(key) != keySize {
		return nil, fmt.Errorf("audit key: %s does not hold %d bytes in hex", path, keySize)
	}
	return key, nil
}

// A hasher makes the keyed hash of arguments. Keyed, because arguments have little entropy: whoever
// has the log could otherwise try all order numbers.
type hasher struct {
	canonical func(json.RawMessage) ([]byte, error)
	macs      sync.Pool // of hash.Hash
}

func newHasher(key []byte, canonical func(json.RawMessage) ([]byte, error)) *hasher {
	key = bytes.Clone(key)
	h := &hasher{canonical: canonical}
	h.macs.New = func() any { return hmac.New(sha256.New, key) }
	return h
}

const hashPrefix = "hmac-sha256:"

func (h *hasher) sum(args json.RawMessage) string {
	if len(args) == 0 {
		args = json.RawMessage("{}")
	}
	data := []byte(args)
	if h.canonical != nil {
		if c, err := h.canonical(args); err == nil {
			data = c
		}
	}
	mac := h.macs.Get().(hash.Hash)
	defer h.macs.Put(mac)
	mac.Reset()
	mac.Write(data)
	var sum [sha256.Size]byte
	var text [len(hashPrefix) + 2*sha256.Size]byte
	copy(text[:], hashPrefix)
	hex.Encode(text[len(hashPrefix):], mac.Sum(sum[:0]))
	return string(text[:])
}
