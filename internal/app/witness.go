package app

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas/internal/stage/audit"
)

// A witness remembers how far the audit log has come in the state, too, where that is kept elsewhere: who
// can cut off the end of the log can cut the head beside it to match, but not this one. It never moves back,
// and it may lag: the log does not wait for a state that is away.
type witness struct {
	beside audit.Head
	store  kv
	key    string // of this log; replicas have logs of their own
	log    *slog.Logger

	mu      sync.Mutex // guards what follows; the log's writer calls Set, an operator Get
	version int64
	seq     uint64
	silent  time.Time // until when the state is not asked again after a failure
}

const (
	witnessSpace   = "audit.head"
	witnessTimeout = 500 * time.Millisecond
	witnessSilence = 5 * time.Second
)

// position is what is kept.
type position struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
}

// newWitness returns the witness of the log with the id.
func newWitness(beside audit.Head, store kv, id []byte, log *slog.Logger) *witness {
	return &witness{beside: beside, store: store, key: hex.EncodeToString(id), log: log}
}

// Get returns the position that is further on. That the state has none, or is away, is no error: the head
// beside the log still counts.
func (w *witness) Get() (uint64, string, error) {
	seq, hash, err := w.beside.Get()
	if err != nil {
		return 0, "", err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 10*witnessTimeout)
	defer cancel()
	p, err := w.read(ctx)
	if err != nil {
		w.log.WarnContext(ctx, "the audit log's head is not compared with the one in the state", "error", err)
		return seq, hash, nil
	}
	if p.Seq > seq || hash == "" {
		return p.Seq, p.Hash, nil
	}
	return seq, hash, nil
}

// read returns the position in the state. The caller holds mu.
func (w *witness) read(ctx context.Context) (position, error) {
	data, version, err := w.store.Get(ctx, witnessSpace, w.key)
	if err != nil {
		return position{}, err
	}
	var p position
	if version != 0 {
		if err := json.Unmarshal(data, &p); err != nil {
			return position{}, err
		}
	}
	w.version, w.seq = version, p.Seq
	return p, nil
}

// Set remembers a position beside the log, and in the state if that can be had at once.
func (w *witness) Set(seq uint64, hash string) error {
	if err := w.beside.Set(seq, hash); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if now.Before(w.silent) {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), witnessTimeout)
	defer cancel()
	if err := w.move(ctx, position{seq, hash}); err != nil {
		w.silent = now.Add(witnessSilence)
		w.log.WarnContext(ctx, "the state does not remember how far the audit log has come; the head beside the log does", "error", err)
	}
	return nil
}

// move moves the position in the state on. The caller holds mu.
func (w *witness) move(ctx context.Context, p position) error {
	data, err := json.Marshal(p)
	if err != nil {
		return err
	}
	for range 3 {
		if w.version != 0 && w.seq > p.Seq {
			return nil // it never moves back
		}
		version, err := w.store.CompareAndSet(ctx, witnessSpace, w.key, w.version, data, time.Time{})
		if err != nil {
			return err
		}
		if version != 0 {
			w.version, w.seq = version, p.Seq
			return nil
		}
		if _, err := w.read(ctx); err != nil {
			return err
		}
	}
	return nil // somebody else moves it on
}
