package mcp_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas/internal/edge/mcp"
)

// older are the revisions that begin with initialize.
var older = []string{"2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"}

func TestEveryRevisionIsNegotiatedOverHTTP(t *testing.T) {
	h, _ := withLibrary(t, mcp.Config{})
	tok := h.token(t, acme)
	for _, tt := range [][2]string{
		{"2025-11-25", "2025-11-25"},
		{"2025-06-18", "2025-06-18"},
		{"2025-03-26", "2025-03-26"},
		{"2024-11-05", "2024-11-05"},
		// Asked for others, it answers with one that it can do.
		{"1.0", "2025-11-25"},
		{"2026-07-28", "2025-11-25"},
		{"2999-01-01", "2025-11-25"},
	} {
		asked, want := tt[0], tt[1]
		initialize := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":%q,"capabilities":{},"clientInfo":{"name":"t","version":"1"}}}`, asked)
		status, _, body := h.post(t, "", tok, initialize, func(r *http.Request) { r.Header.Del("Mcp-Protocol-Version") })
		var msg struct {
			Result struct {
				ProtocolVersion string
				ServerInfo      map[string]any
				Instructions    string
				Capabilities    map[string]map[string]bool
			}
		}
		if err := json.Unmarshal([]byte(body), &msg); err != nil || status != 200 || msg.Result.ProtocolVersion != want {
			t.Errorf("asked for %s: %d %s", asked, status, body)
			continue
		}
		// Without a session there is no stream to be told on, and that is what is said.
		caps := map[string]map[string]bool{"tools": {}, "prompts": {}, "resources": {}, "completions": {}, "logging": {}}
		if diff := cmp.Diff(caps, msg.Result.Capabilities); diff != "" {
			t.Errorf("%s: capabilities (-want +got): %s", asked, diff)
		}
		if msg.Result.ServerInfo["name"] != "atlas-mcp" || msg.Result.ServerInfo["title"] != "Atlas" || msg.Result.Instructions == "" {
			t.Errorf("%s: %s", asked, body)
		}
	}
	for _, revision := range older {
		for method, params := range map[string]string{
			"ping": "", "logging/setLevel": `"level":"warning"`, "tools/list": "", "prompts/list": "", "resources/list": "",
			"resources/read": `"uri":"atlas://logo"`,
		} {
			status, _, body := h.post(t, revision, tok, message0(method, params), nil)
			if status != 200 || !strings.Contains(body, `"result":{`) || strings.Contains(body, `"resultType"`) {
				t.Errorf("%s %s: %d %s", revision, method, status, body)
			}
		}
		if status, _, body := h.post(t, revision, tok, message0("server/discover", ""), nil); !strings.Contains(body, `"error"`) {
			t.Errorf("%s server/discover: %d %s", revision, status, body)
		}
		if status, _, _ := h.post(t, revision, tok, `{"jsonrpc":"2.0","method":"notifications/initialized"}`, nil); status != 202 {
			t.Errorf("%s initialized: %d", revision, status)
		}
	}
}

// message0 is a message without _meta.
func message0(method, params string) string {
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":7,"method":%q,"params":{%s}}`, method, params)
}

func TestEveryRevisionIsNegotiatedOverStdio(t *testing.T) {
	h, _ := withLibrary(t, mcp.Config{})
	for _, revision := range older {
		c := h.console(t, operator)
		m := c.initialize(revision, `{}`)
		if m.Result["protocolVersion"] != revision {
			t.Errorf("%s: %s", revision, c.out.Text())
		}
		c.send(message0("ping", ""))
		if m := c.next(); m.Error != nil || len(m.Result) != 0 {
			t.Errorf("%s ping: %s", revision, c.out.Text())
		}
		c.send(message0("prompts/list", ""))
		if m := c.next(); m.Result["prompts"] == nil {
			t.Errorf("%s prompts/list: %s", revision, c.out.Text())
		}
		c.hangUp()
	}
	c := h.console(t, operator)
	c.send(message(modern, "server/discover", "", ""))
	m := c.next()
	if diff := cmp.Diff([]any{"2026-07-28", "2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"}, m.Result["supportedVersions"]); diff != "" {
		t.Error("(-want +got):", diff)
	}
	c.send(strings.Replace(message(modern, "tools/list", "", ""), modern, "2999-01-01", 1))
	if m := c.next(); m.Error == nil || m.Error.Code != -32022 {
		t.Errorf("a revision to come: %s", c.out.Text())
	}
	c.hangUp()
}

func TestDiscoverSaysWhoAndWhat(t *testing.T) {
	h, _ := withLibrary(t, mcp.Config{})
	var got struct {
		SupportedVersions []string
		Capabilities      map[string]map[string]bool
		Instructions      string
		ResultType        string
		CacheScope        string
		TTLMs             int
		Meta              map[string]struct {
			Name, Title, Version, Description, WebsiteURL string
			Icons                                         []struct{ Src, MimeType string }
		} `json:"_meta"`
	}
	h.result(t, modern, h.token(t, acme), "server/discover", "", &got)
	if diff := cmp.Diff(append([]string{modern}, older...), got.SupportedVersions); diff != "" {
		t.Error("versions (-want +got):", diff)
	}
	caps := map[string]map[string]bool{
		"tools": {"listChanged": true}, "prompts": {"listChanged": true}, "resources": {"listChanged": true, "subscribe": true},
		"completions": {}, "logging": {},
	}
	if diff := cmp.Diff(caps, got.Capabilities); diff != "" {
		t.Error("capabilities (-want +got):", diff)
	}
	self := got.Meta["io.modelcontextprotocol/serverInfo"]
	if self.Name != "atlas-mcp" || self.Title != "Atlas" || self.Version != "1.2.3" || self.Description == "" || !strings.HasPrefix(self.WebsiteURL, "https://") {
		t.Errorf("server %+v", self)
	}
	if len(self.Icons) != 1 || self.Icons[0].MimeType != "image/svg+xml" || !strings.HasPrefix(self.Icons[0].Src, "data:image/svg+xml;base64,") || len(self.Icons[0].Src) > 1024 {
		t.Errorf("icons %+v", self.Icons)
	}
	if got.ResultType != "complete" || got.CacheScope != "private" || got.TTLMs != 10_000 || got.Instructions == "" {
		t.Errorf("%+v", got)
	}
}
