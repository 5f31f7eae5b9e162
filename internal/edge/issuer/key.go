package issuer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	pemType    = "PRIVATE KEY"
	secretSize = 32
)

// loadOrCreate reads the P-256 key in the file at path. If there is no file, it makes a key that
// signs from now on and writes it; of several processes that do so at once, one wins and the others
// read its key.
func loadOrCreate(path string, now time.Time) (*ecdsa.PrivateKey, error) {
	key, err := load(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := create(path, now); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return load(path)
}

func load(path string) (*ecdsa.PrivateKey, error) {
	data, err := readPrivate(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != pemType {
		return nil, errors.New("key file: holds no PKCS #8 private key; delete it to get a new one")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("key file: holds no valid PKCS #8 private key; delete it to get a new one")
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("key file: holds another kind of key than P-256")
	}
	return key, nil
}

// readPrivate reads a small file that nobody else may read.
func readPrivate(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > 64<<10 {
		return nil, errors.New("key file: is not a regular small file")
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("key file: others may read it (mode %04o); chmod 600 it, or delete it to get a new key", perm)
	}
	data, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	return data, nil
}

// create writes a new key to path, and fails with fs.ErrExist if path exists. The file's time of
// modification says from when on the key signs.
func create(path string, from time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	return writePrivate(path, pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), from)
}

// writePrivate writes a new file of mode 0600, whole or not at all, and fails with fs.ErrExist if
// path exists.
func writePrivate(path string, data []byte, modified time.Time) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	f, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close(), os.Chtimes(f.Name(), modified, modified)); err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	// A link, unlike a rename, never replaces a key that another process has just made.
	if err := os.Link(f.Name(), path); err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	return nil
}

// secret reads the key that seals refresh tokens and forms, and makes it at first use.
func secret(keyFile string) ([]byte, error) {
	path := strings.TrimSuffix(keyFile, filepath.Ext(keyFile)) + ".secret"
	data, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		fresh := make([]byte, secretSize)
		_, _ = rand.Read(fresh) // never fails
		if err := writePrivate(path, fresh, time.Now()); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		data, err = readPrivate(path)
	}
	if err != nil {
		return nil, err
	}
	if len(data) != secretSize {
		return nil, errors.New("key file: the secret beside it has another size; delete it to get a new one")
	}
	return data, nil
}

// thumbprint returns the RFC 7638 thumbprint of key, which serves as its kid.
func thumbprint(key *ecdsa.PublicKey) (string, error) {
	raw, err := key.Bytes() // 0x04, X, Y (SEC 1)
	if err != nil {
		return "", fmt.Errorf("public key: %w", err)
	}
	n := (len(raw) - 1) / 2
	enc := base64.RawURLEncoding
	// Field order and the lack of spaces are part of the RFC.
	sum := sha256.Sum256(fmt.Appendf(nil, `{"crv":"P-256","kty":"EC","x":"%s","y":"%s"}`,
		enc.EncodeToString(raw[1:1+n]), enc.EncodeToString(raw[1+n:])))
	return enc.EncodeToString(sum[:]), nil
}
