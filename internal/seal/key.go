package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// keepsModes says whether file modes mean something here.
const keepsModes = runtime.GOOS != "windows"

// keySize is the length of a key in bytes.
const keySize = 32

// LoadKey returns the key of 32 bytes in the file, and makes one if there is no file. It refuses a
// file that others may read. Processes that start at the same time agree on one key.
func LoadKey(path string) ([]byte, error) {
	key, err := loadKey(path)
	if err != nil {
		return nil, fmt.Errorf("key: %w", err)
	}
	return key, nil
}

func loadKey(path string) ([]byte, error) {
	key, err := readKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	// Written aside and linked into place: nobody ever reads half a key, and the first one wins.
	tmp, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	fresh := make([]byte, keySize)
	_, _ = rand.Read(fresh) // never fails
	_, err = tmp.WriteString(hex.EncodeToString(fresh) + "\n")
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return nil, err
	}
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return readKey(path)
}

func readKey(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if keepsModes && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s may be read by others (mode %04o); make it 0600", path, info.Mode().Perm())
	}
	data, err := os.ReadFile(path) //nolint:gosec // the operator's own path
	if err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(string(bytes.TrimSpace(data)))
	if err != nil || len(key) != keySize {
		return nil, fmt.Errorf("%s does not hold %d bytes in hex", path, keySize)
	}
	return key, nil
}
