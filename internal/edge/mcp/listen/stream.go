package listen

import (
	"net/http"
	"strings"
	"sync"
	"time"
)

// A Stream is a ResponseWriter that becomes a stream of events when its content type says so. It sends a
// comment when the stream has been silent for a while (HTML, server-sent events: "authors are advised
// to include a comment line every 15 seconds or so"), and gives each event its own time to be taken: a
// client that stops reading must not hold a stream for good. Events are written whole, one Write each,
// as the SDK does.
type Stream struct {
	http.ResponseWriter
	every, timeout time.Duration

	mu     sync.Mutex // guards the connection once it is a stream, and the rest
	wrote  bool
	stream bool
	last   time.Time // when something was written
	stop   chan struct{}
	done   chan struct{}
}

// Tell writes a JSON-RPC message as an event. It is a [Teller].
func (w *Stream) Tell(message []byte) error {
	event := make([]byte, 0, len(message)+32)
	event = append(event, "event: message\ndata: "...)
	event = append(event, message...)
	if _, err := w.Write(append(event, "\n\n"...)); err != nil {
		return err
	}
	return w.FlushError()
}

// Unwrap lets http.ResponseController reach the connection.
func (w *Stream) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// FlushError flushes, in turn with the comments.
func (w *Stream) FlushError() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// WriteHeader implements [http.ResponseWriter].
func (w *Stream) WriteHeader(status int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeHeader(status)
}

func (w *Stream) writeHeader(status int) {
	if !w.wrote {
		w.wrote = true
		w.stream = strings.HasPrefix(w.Header().Get("Content-Type"), "text/event-stream")
	}
	w.ResponseWriter.WriteHeader(status)
	if w.stream && w.stop == nil {
		w.last = time.Now()
		w.stop, w.done = make(chan struct{}), make(chan struct{})
		go w.comment()
	}
}

// Write writes, and extends the time for it if this is a stream.
func (w *Stream) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.wrote {
		w.writeHeader(http.StatusOK)
	}
	if w.stream {
		w.extend()
	}
	return w.ResponseWriter.Write(p)
}

// extend gives the client time for what is written next. The caller holds mu.
func (w *Stream) extend() {
	w.last = time.Now()
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(w.last.Add(w.timeout)) // not all writers can
}

// comment sends comments while the stream is silent.
func (w *Stream) comment() {
	defer close(w.done)
	tick := time.NewTicker(w.every)
	defer tick.Stop()
	for {
		select {
		case <-w.stop:
			return
		case <-tick.C:
		}
		w.mu.Lock()
		var err error
		if time.Since(w.last) >= w.every-w.every/10 {
			w.extend()
			if _, err = w.ResponseWriter.Write([]byte(": keep-alive\n\n")); err == nil {
				err = http.NewResponseController(w.ResponseWriter).Flush()
			}
		}
		w.mu.Unlock()
		if err != nil {
			return // the connection ends the request's context
		}
	}
}

// Close ends the comments. Nothing may use the writer after its handler has returned.
func (w *Stream) Close() {
	w.mu.Lock()
	stop := w.stop
	w.mu.Unlock()
	if stop != nil {
		close(stop)
		<-w.done
	}
}
