package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Config is the log's settings.
type Config struct {
	Path         string        `yaml:"path"`          // the file that is appended to; required
	MaxBytes     int64         `yaml:"max_bytes"`     // a file of this size is set aside and a new one begun; default 100 MiB
	Queue        int           `yaml:"queue"`         // calls running and records kept in memory at most; default 4096
	Linger       time.Duration `yaml:"linger"`        // how long a read's record may wait for company; default 5ms
	SyncInterval time.Duration `yaml:"sync_interval"` // how long a read's record may wait for the disk; default 1s
}

func (c Config) withDefaults() Config {
	c.MaxBytes = cmp.Or(c.MaxBytes, 100<<20)
	c.Queue = cmp.Or(c.Queue, 4096)
	c.Linger = cmp.Or(c.Linger, 5*time.Millisecond)
	c.SyncInterval = cmp.Or(c.SyncInterval, time.Second)
	return c
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	d := c.withDefaults()
	if c.Path == "" {
		errs = append(errs, errors.New("path is missing"))
	}
	if d.MaxBytes < 4096 {
		errs = append(errs, fmt.Errorf("max_bytes is %d; must be at least 4096", c.MaxBytes))
	}
	if d.Queue < 1 || d.Queue > 1_000_000 {
		errs = append(errs, fmt.Errorf("queue is %d; must be between 1 and 1000000", c.Queue))
	}
	if d.Linger < 0 || d.Linger > time.Second {
		errs = append(errs, fmt.Errorf("linger is %v; must be between 0 and 1s", c.Linger))
	}
	if d.SyncInterval < 0 || d.SyncInterval > time.Minute {
		errs = append(errs, fmt.Errorf("sync_interval is %v; must be between 0 and 1m", c.SyncInterval))
	}
	return errors.Join(errs...)
}

// A Log is an open audit log. One goroutine writes to it, many records at a time; several processes
// may have the same log open. It is safe for concurrent use.
type Log struct {
	cfg   Config
	log   *slog.Logger
	chain *chain // of the writer

	slots  chan struct{}         // one taken for every record that is promised or kept
	failed atomic.Pointer[error] // why the last attempt failed; nil if it did not
	urgent chan struct{}         // a caller waits for the disk
	wake   chan struct{}         // the queue is no longer empty
	quit   chan struct{}         // closed by Close
	done   chan struct{}         // closed when the writer has ended
	err    error                 // of Close; set before done is closed

	mu     sync.Mutex // guards what follows
	queue  []job
	closed bool

	pending []job // of the writer: taken from the queue, not yet in the file
	spare   []job // of the writer: for reuse as the queue
}

// A job is a record to write, or just a request for the disk.
type job struct {
	rec  *atlas.AuditRecord // nil for a flush
	done chan error         // of a caller who waits for the disk; else nil
	slot bool               // a slot is given back when the record is written
}

var errClosed = errors.New("the audit log is closed")

// Open opens the log, making it if there is none, and starts its writer; Close ends it. What a crash
// left of a last record is set aside in a file beside it. A tail that is missing by what head
// remembers, a head that is missing itself, and unreadable lines at the end are noted in the log. A nil head is kept in a file beside the log.
func Open(cfg Config, head Head, log *slog.Logger) (*Log, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	cfg = cfg.withDefaults()
	if head == nil {
		head = fileHead(headPath(cfg.Path))
	}
	ch, err := openChain(cfg.Path, cfg.MaxBytes, head, log)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	l := &Log{
		cfg: cfg, log: log, chain: ch,
		slots:  make(chan struct{}, cfg.Queue),
		urgent: make(chan struct{}, 1),
		wake:   make(chan struct{}, 1),
		quit:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	go l.run()
	return l, nil
}

// Healthy returns why records cannot be written at the moment, or nil. While it is not nil, writes are
// refused and reads go on as long as their records can be kept.
func (l *Log) Healthy() error {
	if err := l.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Record writes the record of an administrative act and returns when it is on disk. Kind and time
// are filled in if empty. The error is an [atlas.Error] of audit_unavailable; the act must then not be done.
func (l *Log) Record(ctx context.Context, rec atlas.AuditRecord) error {
	rec.Kind = cmp.Or(rec.Kind, KindAdmin)
	rec.Status = cmp.Or(rec.Status, StatusOK)
	if rec.Time.IsZero() {
		rec.Time = time.Now()
	}
	rec.Time = rec.Time.UTC()
	if _, err := l.reserve(ctx, true); err != nil {
		return unavailable(err)
	}
	defer l.unreserve()
	if err := l.append(ctx, &rec); err != nil {
		return unavailable(err)
	}
	return nil
}

// Flush returns when all records put in before are on disk.
func (l *Log) Flush(ctx context.Context) error { return l.append(ctx, nil) }

// Close writes what is left and ends the writer. Call it when no more calls run. It reports how many
// records could not be written. Closing twice is fine.
func (l *Log) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.quit)
	}
	l.mu.Unlock()
	<-l.done
	return l.err
}

// reserve takes a place for one record and reports whether it did. With wait, it waits for a place
// until ctx ends. Without, it goes on with no place when the log is just busy: a child call must not
// wait for what its parent holds, and the parents bound the children.
func (l *Log) reserve(ctx context.Context, wait bool) (bool, error) {
	select {
	case <-l.quit:
		return false, errClosed
	default:
	}
	select {
	case l.slots <- struct{}{}:
		return true, nil
	default:
	}
	// The queue is full. If the writer is at work, that is a matter of milliseconds.
	if err := l.Healthy(); err != nil {
		return false, fmt.Errorf("the audit log fails and its queue is full: %w", err)
	}
	if !wait {
		return false, nil
	}
	select {
	case l.slots <- struct{}{}:
		return true, nil
	case <-l.quit:
		return false, errClosed
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

func (l *Log) unreserve() { <-l.slots }

// recordPool holds the records of calls that were written; they carry nothing from one use to the next.
var recordPool = sync.Pool{New: func() any { return new(atlas.AuditRecord) }}

// put hands over a record, with the place that was reserved for it if there is one. It does not block.
// The record is the log's from then on, which gives it to the next call once it is written.
func (l *Log) put(rec *atlas.AuditRecord, slot bool) {
	if err := l.enqueue(job{rec: rec, slot: slot}); err != nil {
		if slot {
			l.unreserve()
		}
		l.log.Error("audit record lost: the log was closed before the call ended",
			"request_id", rec.RequestID, "tool", rec.Tool, "status", rec.Status)
	}
}

// append hands over a record and waits until it is on disk. If ctx ends first, the record may still
// be written.
func (l *Log) append(ctx context.Context, rec *atlas.AuditRecord) error {
	done := make(chan error, 1)
	if err := l.enqueue(job{rec: rec, done: done}); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (l *Log) enqueue(j job) error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return errClosed
	}
	first := len(l.queue) == 0
	l.queue = append(l.queue, j)
	l.mu.Unlock()
	if j.done != nil {
		notify(l.urgent)
	} else if first {
		notify(l.wake)
	}
	return nil
}

func notify(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// run is the writer.
func (l *Log) run() {
	defer close(l.done)
	const first, most = 100 * time.Millisecond, 5 * time.Second
	backoff := first
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for stop := false; !stop; {
		select {
		case <-l.wake:
			if l.Healthy() == nil {
				timer.Reset(l.cfg.Linger)
			}
			continue
		case <-l.urgent:
		case <-timer.C:
		case <-l.quit:
			stop = true
		}
		err := l.flush(stop)
		switch {
		case err != nil:
			timer.Reset(backoff)
			backoff = min(2*backoff, most)
		case l.chain.dirty():
			backoff = first
			timer.Reset(time.Until(l.chain.dirtySince.Add(l.cfg.SyncInterval)))
		default:
			backoff = first
			timer.Stop()
		}
	}
	if n := len(l.pending); n > 0 {
		l.err = fmt.Errorf("audit: %d records could not be written: %w", n, l.Healthy())
	}
	l.err = errors.Join(l.err, l.chain.close())
}

// flush writes what is queued. Callers who wait are answered either way; the records of the others
// are kept for the next attempt if this one fails.
func (l *Log) flush(force bool) error {
	l.mu.Lock()
	batch := l.queue
	l.queue = l.spare[:0]
	l.mu.Unlock()
	l.pending = append(l.pending, batch...)
	clear(batch)
	l.spare = batch[:0]

	durable := force || l.chain.dirty() && time.Since(l.chain.dirtySince) >= l.cfg.SyncInterval
	recs := l.chain.recs[:0]
	for _, j := range l.pending {
		durable = durable || j.done != nil
		if j.rec != nil {
			recs = append(recs, j.rec)
		}
	}
	l.chain.recs = recs
	written, err := l.chain.write(recs, durable)
	clear(recs)
	l.report(err) // before anyone is answered, who may ask Healthy next

	kept := l.pending[:0]
	for _, j := range l.pending {
		switch {
		case j.done != nil:
			j.done <- err // has room
		case written:
			if j.slot {
				l.unreserve()
			}
			*j.rec = atlas.AuditRecord{}
			recordPool.Put(j.rec)
		default:
			kept = append(kept, j)
		}
	}
	clear(l.pending[len(kept):])
	l.pending = kept
	return err
}

// report remembers how the log is, and logs it when that changes.
func (l *Log) report(err error) {
	was := l.failed.Load()
	switch {
	case err != nil:
		l.failed.Store(&err)
		if was == nil {
			l.log.Error("audit log cannot be written; writes are refused until it can", "error", err)
		}
	case was != nil:
		l.failed.Store(nil)
		l.log.Info("audit log can be written again")
	}
}
