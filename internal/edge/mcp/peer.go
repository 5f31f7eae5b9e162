package mcp

import (
	"context"
	"encoding/json"
	"sync"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
)

// maxQueued bounds the notifications of one call that its client has not taken yet. What comes when
// the queue is full is dropped: both kinds may be lost by their nature.
const maxQueued = 64

// A peer is the client of a running call on a connection that is kept, which is stdio. A tool must
// not wait for a client that does not read, so notifications are sent on a goroutine, which starts
// with the first of them and which close waits for: nothing comes after the answer.
type peer struct {
	ctx context.Context
	x   exchange

	mu     sync.Mutex // guards the rest
	closed bool
	last   float64 // of the progress
	queue  chan func()
	done   chan struct{}
}

func newPeer(ctx context.Context, x exchange) *peer { return &peer{ctx: ctx, x: x, last: -1} }

// Progress implements [atlas.Peer].
func (p *peer) Progress(done, total float64, message string) {
	if p.x.token == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if done <= p.last { // it must grow (MCP, basic/utilities/progress)
		return
	}
	p.last = done
	params := &sdk.ProgressNotificationParams{ProgressToken: p.x.token, Progress: done, Total: total, Message: message}
	p.put(func() { _ = p.x.session.NotifyProgress(p.ctx, params) }) // the client may have gone
}

// Log implements [atlas.Peer]. The SDK knows which level the client asked for.
func (p *peer) Log(level atlas.LogLevel, logger string, data any) {
	raw, err := json.Marshal(data) // now: the tool may change it
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	params := &sdk.LoggingMessageParams{Level: sdk.LoggingLevel(level), Logger: logger, Data: json.RawMessage(raw)} //nolint:staticcheck // see capabilities
	p.put(func() { _ = p.x.session.Log(p.ctx, params) })                                                            //nolint:staticcheck // as above
}

// put queues send. The caller holds mu.
func (p *peer) put(send func()) {
	if p.closed {
		return
	}
	if p.queue == nil {
		p.queue, p.done = make(chan func(), maxQueued), make(chan struct{})
		go func() {
			defer close(p.done)
			for send := range p.queue {
				send()
			}
		}()
	}
	select {
	case p.queue <- send:
	default:
	}
}

// close ends the peer when the call has been answered, after what is queued has been sent.
func (p *peer) close() {
	p.mu.Lock()
	p.closed = true
	queue := p.queue
	p.mu.Unlock()
	if queue != nil {
		close(queue)
		<-p.done
	}
}
