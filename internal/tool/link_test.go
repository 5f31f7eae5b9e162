package tool_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/tool"
)

// A linkStore is an object store that gives links, if its operator wants it to.
type linkStore struct {
	*objectStore
	on    bool
	asked []string
}

func (s *linkStore) Links() bool { return s.on }

func (s *linkStore) Link(_ context.Context, tenant atlas.TenantID, key string) (string, time.Time, error) {
	s.asked = append(s.asked, string(tenant)+":"+key)
	if key != "a.txt" {
		return "", time.Time{}, atlas.Errorf(atlas.CodeNotFound, nil, "")
	}
	return "https://objects.example/a.txt?sig=1", time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC), nil
}

func TestLinkVerb(t *testing.T) {
	for _, on := range []bool{false, true} {
		h := newHouse(t)
		s := &linkStore{objectStore: h.files, on: on}
		h.sources["files"] = tool.Source{Kind: "s3", Source: s}
		h.build()
		if offered := h.tools["files_link"] != nil; offered != on {
			t.Fatalf("links allowed: %v, offered: %v", on, offered)
		}
		if !on {
			continue
		}
		res, err := h.ask(t.Context(), "acme", "files_link", `{"key":"a.txt"}`)
		if want := `{"expires_at":"2026-11-23T12:00:00Z","key":"a.txt","url":"https://objects.example/a.txt?sig=1"}`; err != nil || string(res.Structured) != want {
			t.Errorf("got %s, %v", res.Structured, err)
		}
		if _, err := h.ask(t.Context(), "acme", "files_link", `{"key":"../globex/a.txt"}`); atlas.CodeOf(err) != atlas.CodeInvalidArguments {
			t.Errorf("got %v", err)
		}
		if _, err := h.ask(t.Context(), "globex", "files_link", `{"key":"b.txt"}`); !errors.Is(err, &atlas.Error{Code: atlas.CodeNotFound}) {
			t.Errorf("got %v", err)
		}
		if len(s.asked) != 2 || s.asked[0] != "acme:a.txt" || s.asked[1] != "globex:b.txt" {
			t.Errorf("the store was asked %v", s.asked)
		}
		if h.tools["files_link"].CacheTTL != 0 || h.tools["files_link"].Effects != atlas.EffectsEgress {
			t.Error("a link is cached, or no egress")
		}
	}
}
