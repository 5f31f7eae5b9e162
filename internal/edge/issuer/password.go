package issuer

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	hashRounds    = 600_000 // OWASP's advice for PBKDF2 with SHA-256
	maxHashRounds = 10_000_000
	minHashRounds = 1000
	minPassword   = 8
	maxPassword   = 256
	hashScheme    = "$pbkdf2-sha256$i="
)

// hash is a salted hash of a password.
type hash struct {
	rounds    int
	salt, sum []byte
}

// HashPassword returns what the configuration holds of a password of 8 to 256 bytes:
// "$pbkdf2-sha256$i=<rounds>$<salt>$<hash>", in base64 without padding (RFC 8018, PHC string format).
func HashPassword(password string) (string, error) {
	if len(password) < minPassword || len(password) > maxPassword {
		return "", fmt.Errorf("a password must have %d to %d bytes", minPassword, maxPassword)
	}
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // never fails
	sum, err := pbkdf2.Key(sha256.New, password, salt, hashRounds, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("hash password: %w", err)
	}
	enc := base64.RawStdEncoding
	return hashScheme + strconv.Itoa(hashRounds) + "$" + enc.EncodeToString(salt) + "$" + enc.EncodeToString(sum), nil
}

func parseHash(s string) (hash, error) {
	rest, ok := strings.CutPrefix(s, hashScheme)
	fields := strings.Split(rest, "$")
	if !ok || len(fields) != 3 {
		return hash{}, errors.New("must be " + hashScheme + "<rounds>$<salt>$<hash>")
	}
	rounds, err := strconv.Atoi(fields[0])
	if err != nil || rounds < minHashRounds || rounds > maxHashRounds {
		return hash{}, fmt.Errorf("must have between %d and %d rounds", minHashRounds, maxHashRounds)
	}
	enc := base64.RawStdEncoding.Strict()
	salt, err1 := enc.DecodeString(fields[1])
	sum, err2 := enc.DecodeString(fields[2])
	if err1 != nil || err2 != nil || len(salt) < 8 || len(sum) != sha256.Size {
		return hash{}, errors.New("must have a salt of 8 bytes or more and a hash of 32, in base64 without padding")
	}
	return hash{rounds, salt, sum}, nil
}

// nobody is hashed against where there is no such user.
var nobody = hash{0, make([]byte, 16), make([]byte, sha256.Size)}

// mostRounds returns what a try costs: as much as the slowest user's.
func mostRounds(users []User) int {
	most := 0
	for _, u := range users {
		if h, err := parseHash(u.PasswordHash); err == nil {
			most = max(most, h.rounds)
		}
	}
	return most
}

// cost returns how many rounds a try at h takes, and how many are done in vain: together as many for
// everybody, known or not, so that the time does not tell who is.
func (s *Server) cost(h hash) (own, vain int) {
	if h.rounds == 0 {
		return s.rounds, 0
	}
	return h.rounds, s.rounds - h.rounds
}

// rightPassword reports whether the password is that of h, which a zero h has not. It takes a
// fraction of a second of one processor, and waits for its turn.
func (s *Server) rightPassword(ctx context.Context, h hash, password string) (bool, error) {
	select {
	case s.hashing <- struct{}{}:
		defer func() { <-s.hashing }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	known := h.rounds > 0
	if !known {
		h = nobody
	}
	if len(password) > maxPassword {
		password, known = password[:maxPassword], false
	}
	own, vain := s.cost(h)
	sum, err := pbkdf2.Key(sha256.New, password, h.salt, max(1, own), len(h.sum))
	if err == nil && vain > 0 {
		_, err = pbkdf2.Key(sha256.New, password, h.salt, vain, len(h.sum))
	}
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(sum, h.sum) == 1 && known, nil
}
