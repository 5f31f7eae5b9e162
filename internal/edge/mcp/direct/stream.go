package direct

import (
	"encoding/json"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

const (
	maxQueued     = 128       // notifications that the client has not taken yet
	maxQueuedSize = 256 << 10 // bytes of them
)

// A stream is the answer of a call as it becomes a stream of events: with the first thing that there
// is to tell. A tool must not wait for a client that does not read, so events are written on a
// goroutine, which starts with the first of them and which close waits for. Notifications that find
// the queue full are dropped: they may be lost by their nature.
type stream struct {
	x        *exchange
	progress []byte // token, as written; nil if the client wants none
	level    atlas.LogLevel

	mu      sync.Mutex // guards what follows
	closed  bool
	last    float64 // of the progress
	queue   [][]byte
	size    int // bytes of the queue
	started bool
	wake    chan struct{} // holds one token while there is something to do
	done    chan struct{} // closed when the goroutine has ended
}

func newStream(x *exchange, progress []byte, level atlas.LogLevel) *stream {
	return &stream{x: x, progress: progress, level: level, last: math.Inf(-1)}
}

// Progress implements [atlas.Peer].
func (s *stream) Progress(done, total float64, text string) {
	if s.progress == nil || math.IsNaN(done) || math.IsInf(done, 0) {
		return
	}
	b := append(make([]byte, 0, 128), `{"progressToken":`...)
	b = append(b, s.progress...)
	b = append(b, `,"progress":`...)
	b = strconv.AppendFloat(b, done, 'g', -1, 64)
	if total != 0 && !math.IsNaN(total) && !math.IsInf(total, 0) {
		b = append(b, `,"total":`...)
		b = strconv.AppendFloat(b, total, 'g', -1, 64)
	}
	if text != "" {
		b = append(b, `,"message":`...)
		b = message.AppendString(b, text)
	}
	b = append(b, '}')
	event := message.AppendNotification(nil, message.MethodProgress, b)
	s.mu.Lock()
	defer s.mu.Unlock()
	if done > s.last { // it must grow (2026-07-28, basic/utilities/progress)
		s.last = done
		s.put(event)
	}
}

// Log implements [atlas.Peer].
func (s *stream) Log(level atlas.LogLevel, logger string, data any) {
	if s.level == "" || !message.Reaches(level, s.level) {
		return
	}
	raw, err := json.Marshal(data) // now: the tool may change it
	if err != nil {
		return
	}
	b := append(make([]byte, 0, len(raw)+64), `{"level":`...)
	b = message.AppendString(b, string(level))
	if logger != "" {
		b = append(b, `,"logger":`...)
		b = message.AppendString(b, logger)
	}
	b = append(b, `,"data":`...)
	b = append(b, raw...)
	b = append(b, '}')
	event := message.AppendNotification(nil, message.MethodLog, b)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put(event)
}

// put queues an event, if there is room. The caller holds mu.
func (s *stream) put(event []byte) {
	if !s.closed && len(s.queue) < maxQueued && s.size+len(event) <= maxQueuedSize {
		s.enqueue(event)
	}
}

// ask queues a request to the client, which is never dropped: its call waits for the answer.
func (s *stream) ask(request []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.enqueue(request)
	}
}

// enqueue queues an event and sees to it that it is written. The caller holds mu.
func (s *stream) enqueue(event []byte) {
	s.queue = append(s.queue, event)
	s.size += len(event)
	if !s.started {
		s.started = true
		s.wake, s.done = make(chan struct{}, 1), make(chan struct{})
		go s.write()
	}
	s.signal()
}

func (s *stream) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// close ends the stream with the last event, if there is a stream; else it reports false and the
// answer is still to be given. It waits until everything is written. From then on nothing is.
func (s *stream) close(last []byte) bool {
	s.mu.Lock()
	if !s.started {
		s.closed = true
		s.mu.Unlock()
		return false
	}
	if !s.closed {
		s.closed = true
		if last != nil {
			s.enqueue(last)
		}
		s.signal()
	}
	s.mu.Unlock()
	<-s.done
	return true
}

// take returns what there is to write, and whether that is all there will be.
func (s *stream) take() (events [][]byte, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	events, s.queue, s.size = s.queue, nil, 0
	return events, s.closed
}

// keepAlive is a comment, which readers of events skip.
var keepAlive = []byte(": keep-alive\n\n")

// write writes events as they come, and signs of life between them. A client that takes too long to
// read one is cut off; one that reads may take as long as its call does.
func (s *stream) write() {
	defer close(s.done)
	w, cfg := s.x.w, &s.x.server.cfg
	control := http.NewResponseController(w)
	h := w.Header()
	h["Content-Type"], h["X-Accel-Buffering"] = streamType, noBuffer
	w.WriteHeader(http.StatusOK)
	tick := time.NewTicker(cfg.KeepAlive)
	defer tick.Stop()
	broken := false
	var b []byte
	for {
		b = b[:0]
		closed := false
		select {
		case <-s.wake:
			var events [][]byte
			events, closed = s.take()
			for _, e := range events {
				b = append(b, "event: message\ndata: "...)
				b = append(b, e...)
				b = append(b, "\n\n"...)
			}
			tick.Reset(cfg.KeepAlive)
		case <-tick.C:
			b = append(b, keepAlive...)
		}
		if len(b) > 0 && !broken {
			_ = control.SetWriteDeadline(time.Now().Add(cfg.WriteTimeout)) // not all writers can
			_, err := w.Write(b)
			if err == nil {
				err = control.Flush()
			}
			broken = err != nil // the call ends by its context
		}
		if closed {
			return
		}
	}
}
