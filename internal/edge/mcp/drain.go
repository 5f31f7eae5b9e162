package mcp

import (
	"bytes"
	"encoding/json"
	"io"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas/internal/edge/mcp/listen"
)

// A pipe is the two ends of a stdio connection. It holds the end of the input back until the requests
// that were read have been answered: the SDK ends with its input, and who pipes requests into the
// program closes the pipe long before the answers are there.
type pipe struct {
	in   io.ReadCloser
	out  io.WriteCloser
	wait time.Duration   // at most, for answers
	done <-chan struct{} // closed when the connection is told to stop
	end  func()          // called at the end of the input

	writing sync.Mutex // held while a message is written

	mu      sync.Mutex
	partial []byte              // of the line that is being read
	open    map[string][]string // requests that have no answer yet: the tasks that they want to follow, by their ids
	idle    chan struct{}       // closed when open is empty and something waits
}

func newPipe(done <-chan struct{}, end func(), in io.ReadCloser, out io.WriteCloser, wait time.Duration) *pipe {
	return &pipe{done: done, end: end, in: in, out: out, wait: wait, open: map[string][]string{}}
}

// reader and writer are the pipe's ends, for the SDK.
type (
	pipeReader struct{ *pipe }
	pipeWriter struct{ *pipe }
)

// Read reads, and tells the end only when nothing is owed any more.
func (p pipeReader) Read(b []byte) (int, error) {
	n, err := p.in.Read(b)
	p.note(b[:n])
	if err == io.EOF {
		if n > 0 {
			return n, nil // the end comes with the next read
		}
		p.end()
		p.drain()
	}
	return n, err
}

// Close closes the input.
func (p pipeReader) Close() error { return p.in.Close() }

// note takes down the ids of the requests in what was read.
func (p *pipe) note(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		p.partial = append(p.partial, line...)
		if !whole {
			return
		}
		for _, m := range headsOf(p.partial) {
			if m.call() {
				var follows []string
				if m.Method == "subscriptions/listen" {
					follows = listen.TaskIDsIn(p.partial)
				}
				p.open[string(m.ID)] = follows
			}
		}
		p.partial, b = p.partial[:0], rest
	}
}

// A head is what tells a JSON-RPC message from another.
type head struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
}

func (h head) call() bool   { return h.hasID() && h.Method != "" }
func (h head) answer() bool { return h.hasID() && h.Method == "" }
func (h head) hasID() bool  { return len(h.ID) > 0 && string(h.ID) != "null" }

// headsOf returns the heads of the messages in a line: of one, or of a batch, which 2025-03-26 has.
func headsOf(line []byte) []head {
	if line = bytes.TrimSpace(line); bytes.HasPrefix(line, []byte("[")) {
		var batch []head
		_ = json.Unmarshal(line, &batch) // the SDK refuses what is none
		return batch
	}
	var m head
	if json.Unmarshal(line, &m) != nil {
		return nil
	}
	return []head{m}
}

// Write writes one message, as the SDK does, and crosses off the request that it answers.
func (p pipeWriter) Write(b []byte) (int, error) {
	p.writing.Lock()
	n, err := p.out.Write(b)
	p.writing.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range headsOf(b) {
		if m.answer() {
			delete(p.open, string(m.ID))
		}
	}
	if len(p.open) == 0 && p.idle != nil {
		close(p.idle)
		p.idle = nil
	}
	return n, err
}

// tell writes a message beside the SDK.
func (p *pipe) tell(message []byte) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	_, err := p.out.Write(append(message, '\n'))
	return err
}

// taskIDs returns the tasks that an open subscription wants to follow.
func (p *pipe) taskIDs(subscription any) []string {
	id, err := json.Marshal(subscription)
	if err != nil {
		return nil // it came from JSON
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open[string(id)]
}

// Close closes the output.
func (p pipeWriter) Close() error { return p.out.Close() }

// drain waits until every request has its answer, for a while.
func (p *pipe) drain() {
	p.mu.Lock()
	if len(p.open) == 0 {
		p.mu.Unlock()
		return
	}
	idle := make(chan struct{})
	p.idle = idle
	p.mu.Unlock()
	timer := time.NewTimer(p.wait)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
	case <-p.done:
	}
}
