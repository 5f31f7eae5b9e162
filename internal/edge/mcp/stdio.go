package mcp

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

const transportStdio = "stdio"

// RunStdio serves one client over in and out, every request as p, until the client closes in or ctx
// ends; both are no error. Requests that were read by then are answered, and subscriptions end with
// their result, within the drain timeout. Whoever can write to in acts as p. It closes in and out.
func (s *Server) RunStdio(ctx context.Context, in io.ReadCloser, out io.WriteCloser, p *atlas.Principal) error {
	if p == nil {
		return errors.New("mcp: stdio needs a principal")
	}
	if _, err := atlas.ParseTenantID(string(p.Tenant)); err != nil {
		return errors.New("mcp: stdio needs a principal with a tenant")
	}
	ended, end := context.WithCancel(ctx)
	defer end()
	id := newIdentity(&edge.Caller{Principal: p, Tenant: p.Tenant}, transportStdio)
	id.listener, id.ended = s.hub.Join(s.listening(id)), ended
	defer id.listener.Leave()
	// Subscriptions are never answered by themselves: they end with the input.
	ends := newPipe(ctx.Done(), end, in, out, s.cfg.DrainTimeout)
	id.tell, id.taskIDs = ends.tell, ends.taskIDs
	session, err := s.newSDK(id).Connect(ctx, &sdk.IOTransport{Reader: pipeReader{ends}, Writer: pipeWriter{ends}, MaxLineLength: int(s.cfg.MaxBody)}, nil)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer end()
	wg.Go(func() { id.listener.Serve(ended, id.tell) })
	defer context.AfterFunc(ctx, func() { _ = session.Close() })() // Wait tells
	err = session.Wait()
	if ctx.Err() != nil || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (s *Server) sdkLog() *slog.Logger { return slog.New(quiet{s.deps.Log.Handler()}) }

// quiet demotes what the SDK and net/http log: they report every request and every client's fault,
// which is the audit log's business.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelDebug)
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }
