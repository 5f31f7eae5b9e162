package redis

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/atlas-mcp/atlas"
)

// A Topic says what a message is about.
type Topic string

// The topics.
const (
	// TopicGap is never sent. A listener gets it whenever it may have missed something: once it listens,
	// after each loss of the connection, and when it is too slow. It then drops what it cannot be sure of.
	TopicGap      Topic = "gap"
	TopicReload   Topic = "reload"           // the configuration was reloaded at the sender
	TopicResource Topic = "resource.updated" // Tenant's resource with URI Name
)

// A Message is what replicas tell each other.
type Message struct {
	Topic  Topic          `json:"topic"`
	Tenant atlas.TenantID `json:"tenant,omitempty"`
	Name   string         `json:"name,omitempty"`
}

// topics says of each topic that may be sent whether it is about something by name, of a tenant.
var topics = map[Topic]bool{
	TopicReload:   false,
	TopicResource: true,
}

const (
	maxName = 2048
	// maxWire is the longest message in bytes as it is sent: twice the longest name, for escapes, and
	// room for the rest. What is longer is not even parsed.
	maxWire = 6*maxName + 1024
	// maxAge is how old a message may be, and by how much clocks of replicas may differ.
	maxAge = 10 * time.Minute
)

func (m Message) check() error {
	named, ok := topics[m.Topic]
	if !ok {
		return fmt.Errorf("there is no topic %q", m.Topic)
	}
	if (m.Tenant != "") != named || (m.Name != "") != named {
		return fmt.Errorf("a message about %s has a part too few or too many", m.Topic)
	}
	if m.Tenant != "" {
		if _, err := atlas.ParseTenantID(string(m.Tenant)); err != nil {
			return err
		}
	}
	if len(m.Name) > maxName || !utf8.ValidString(m.Name) || strings.ContainsFunc(m.Name, unicode.IsControl) {
		return fmt.Errorf("a name must be at most %d bytes of text", maxName)
	}
	return nil
}

// An envelope is a message on its way. On the wire a MAC of the JSON, or "-", and a dot stand before
// the JSON.
type envelope struct {
	Version int     `json:"v"`
	Node    string  `json:"node"` // who sent it
	Seq     uint64  `json:"seq"`  // counts the node's messages, from 1
	At      int64   `json:"at"`   // milliseconds since 1970
	Message Message `json:"msg"`
}

const (
	wireVersion = 1
	maxNode     = 32
	noMAC       = "-"
)

// mac binds a body to the bus of one installation.
func mac(key []byte, channel string, body []byte) []byte {
	h := hmac.New(sha256.New, key)
	_, _ = h.Write([]byte("atlas bus 1\x00" + channel + "\x00")) // never fails
	_, _ = h.Write(body)
	return h.Sum(nil)
}

func (e envelope) encode(key []byte, channel string) (string, error) {
	body, err := json.Marshal(e)
	if err != nil {
		return "", err
	}
	sum := noMAC
	if len(key) > 0 {
		sum = base64.RawURLEncoding.EncodeToString(mac(key, channel, body))
	}
	if wire := sum + "." + string(body); len(wire) <= maxWire {
		return wire, nil
	}
	return "", errors.New("a message is too long")
}

var (
	errMalformed = errors.New("malformed")
	errForged    = errors.New("forged")
)

// decode takes a message apart. Nothing is parsed that is too long or, if there is a key, was not made
// with it. The error is errMalformed or errForged.
func decode(wire string, key []byte, channel string) (envelope, error) {
	if len(wire) > maxWire {
		return envelope{}, errMalformed
	}
	sum, text, ok := strings.Cut(wire, ".")
	if !ok {
		return envelope{}, errMalformed
	}
	body := []byte(text)
	if len(key) > 0 {
		got, err := base64.RawURLEncoding.Strict().DecodeString(sum)
		if err != nil || !hmac.Equal(got, mac(key, channel, body)) {
			return envelope{}, errForged
		}
	}
	var e envelope
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&e); err != nil || d.InputOffset() != int64(len(body)) {
		return envelope{}, errMalformed
	}
	if e.Version != wireVersion || e.Node == "" || len(e.Node) > maxNode || e.Seq == 0 || e.Message.check() != nil {
		return envelope{}, errMalformed
	}
	return e, nil
}

// maxNodes is how many senders are remembered; the one that was silent for longest goes first.
const maxNodes = 1024

// senders remember the newest message of each node. A node sends one after the other, so an older one
// is a copy, and one that is missing in between was lost or could not be sent.
type senders map[string]*sender

type sender struct {
	seq uint64
	at  int64
}

// take notes a message, and reports whether it is new and whether others before it are missing.
func (ss senders) take(e envelope) (fresh, gap bool) {
	s := ss[e.Node]
	if s == nil {
		if len(ss) >= maxNodes {
			oldest := ""
			for node, other := range ss {
				if oldest == "" || other.at < ss[oldest].at {
					oldest = node
				}
			}
			delete(ss, oldest)
		}
		ss[e.Node] = &sender{seq: e.Seq, at: e.At}
		return true, e.Seq != 1
	}
	if e.Seq <= s.seq {
		return false, false
	}
	gap = e.Seq != s.seq+1
	s.seq, s.at = e.Seq, max(s.at, e.At)
	return true, gap
}
