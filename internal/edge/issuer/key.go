package issuer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const pemType = "PRIVATE KEY"

// loadOrCreate reads the P-256 key in the file at path. If there is no file, it makes a key and
// writes it; of several processes that do so at once, one wins and the others read its key.
func loadOrCreate(path string) (*ecdsa.PrivateKey, error) {
	key, err := load(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if err := create(path); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return load(path)
}

func load(path string) (*ecdsa.PrivateKey, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("key file: is not a regular file")
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return nil, fmt.Errorf("key file: others may read it (mode %04o); chmod 600 it, or delete it to get a new key", perm)
	}
	data, err := os.ReadFile(path) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("key file: %w", err)
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

// create writes a new key to path, whole or not at all, and fails with fs.ErrExist if path exists.
func create(path string) (err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	f, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(f.Name())) }()
	err = pem.Encode(f, &pem.Block{Type: pemType, Bytes: der})
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	// A link, unlike a rename, never replaces a key that another process has just made.
	if err := os.Link(f.Name(), path); err != nil {
		return fmt.Errorf("key file: %w", err)
	}
	return nil
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

func metadata(issuer string) ([]byte, error) {
	return json.Marshal(struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}{issuer, issuer + "/.well-known/jwks.json"})
}
