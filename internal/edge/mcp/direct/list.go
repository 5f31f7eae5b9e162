package direct

import (
	"context"
	"errors"
	"net/http"
	"sync"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge/mcp/message"
)

// list answers tools/list with what the pipeline says this caller may use.
func (x *exchange) list(ctx context.Context) {
	s := x.server
	call := x.newCall(atlas.OpList)
	call.Args.Raw, call.Reply = nil, nil
	var invalid *message.Error // what the edge itself finds wrong; the pipeline refuses it and records that
	if cursor := x.m.Cursor; len(cursor) > 0 {
		if _, ok := message.ReadCursor(cursor); !ok {
			invalid = message.ErrCursor
			call.Fault = atlas.Errorf(atlas.CodeInvalidCursor, nil, "")
		}
	}
	if fault := call.Fault; invalid == nil && fault != nil {
		invalid = &message.Error{Code: message.CodeInvalidParams, Message: atlas.ErrorOf(fault).Hint}
	}
	res, err := s.runList(ctx, call)
	switch {
	case invalid != nil:
		x.refuse(invalid)
		return
	case err != nil:
		e := atlas.ErrorOf(err)
		failure := message.ErrorOf(e, &call)
		if failure == nil || e.Code == atlas.CodeToolNotFound {
			failure = message.Failure(e, call.ID, 0)
		}
		if errors.Is(err, errPanic) {
			failure = message.ErrInternal
		}
		x.challenge(err, failure.HTTPStatus(x.modern))
		x.refuse(failure)
		return
	}
	b := buffers.Get().(*buffer)
	b.data = message.AppendResponse(b.data, x.m.ID)
	if len(x.m.Cursor) == 0 {
		b.data = append(b.data, s.pages.first(s, res.Tools, x.modern)...)
	} else {
		page, next, _ := message.Page(res.Tools, x.m.Cursor, s.cfg.PageSize)
		b.data = x.dialect().AppendList(b.data, "tools", s.deps.Listing().Items(page), next, s.cfg.ListTTL)
	}
	b.data = message.AppendEnd(b.data)
	writeJSON(x.w, b.data, http.StatusOK)
	b.free()
}

// runList asks the pipeline. It survives its panic.
func (s *Server) runList(ctx context.Context, call atlas.Call) (res atlas.Result, err error) {
	defer s.survive(ctx, &call, &err)
	return s.deps.List(ctx, call)
}

// pages holds first pages of lists as they are sent. The registry answers one caller with one and the
// same slice for a while, so a page is found by the slice. Its key is a pointer into the slice, which
// keeps it: as long as the page is there, no other list can be at that place in memory.
type pages struct {
	mu   sync.RWMutex // guards the rest
	held map[pageKey]*page
	size int // bytes of all
}

type pageKey struct {
	first  **atlas.Tool // where the slice begins
	len    int
	modern bool
}

type page struct {
	listing *message.Listing
	json    []byte
}

const (
	maxPages     = 1024
	maxPagesSize = 32 << 20 // bytes
)

// first returns the first page of tools, as JSON.
func (p *pages) first(s *Server, tools []*atlas.Tool, modern bool) []byte {
	listing := s.deps.Listing()
	if len(tools) == 0 {
		return renderPage(s, listing, nil, modern)
	}
	key := pageKey{&tools[0], len(tools), modern}
	p.mu.RLock()
	held := p.held[key]
	p.mu.RUnlock()
	if held != nil && held.listing == listing {
		return held.json
	}
	made := &page{listing, renderPage(s, listing, tools, modern)}
	p.mu.Lock()
	defer p.mu.Unlock()
	if old := p.held[key]; old != nil {
		p.drop(key, old)
	}
	for k, old := range p.held { // any: the order of a map is random, so no caller can keep another out
		if len(p.held) < maxPages && p.size+len(made.json) <= maxPagesSize {
			break
		}
		p.drop(k, old)
	}
	p.held[key] = made
	p.size += len(made.json)
	return made.json
}

func (p *pages) drop(key pageKey, old *page) {
	delete(p.held, key)
	p.size -= len(old.json)
}

func renderPage(s *Server, listing *message.Listing, tools []*atlas.Tool, modern bool) []byte {
	page, next, _ := message.Page(tools, nil, s.cfg.PageSize)
	d := s.dialects[0]
	if modern {
		d = s.dialects[1]
	}
	return d.AppendList(nil, "tools", listing.Items(page), next, s.cfg.ListTTL)
}
