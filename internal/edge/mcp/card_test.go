package mcp_test

import (
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/atlas-mcp/atlas/internal/edge/mcp"
)

// A card is a server card, and what of server.json is in it too.
type card struct {
	Schema      string `json:"$schema"`
	Name        string
	Title       string
	Description string
	Version     string
	WebsiteURL  string
	Repository  map[string]string
	Icons       []struct{ Src, MimeType string }
	Packages    []any
	Remotes     []struct {
		Type, URL string
		Headers   []struct {
			Name                 string
			IsRequired, IsSecret bool
		}
		Variables map[string]struct{ Description string }
		Versions  []string `json:"supportedProtocolVersions"`
	}
}

func TestServerCard(t *testing.T) {
	h, _ := withLibrary(t, mcp.Config{PublicURL: "https://atlas.example"})
	status, hd, body := h.get(t, "/mcp/server-card", func(r *http.Request) { r.Header.Set("Origin", "https://somewhere.example") })
	if status != 200 || hd.Get("Content-Type") != "application/mcp-server-card+json" || hd.Get("Access-Control-Allow-Origin") != "*" || !strings.Contains(hd.Get("Cache-Control"), "max-age") {
		t.Fatalf("%d %v %s", status, hd, body)
	}
	var c card
	if err := json.Unmarshal([]byte(body), &c); err != nil {
		t.Fatal(err)
	}
	if c.Name != "io.github.atlas-mcp/atlas" || c.Title != "Atlas" || c.Version != "1.2.3" || len(c.Description) > 100 || c.Schema != "https://static.modelcontextprotocol.io/schemas/v1/server-card.schema.json" {
		t.Errorf("card %+v", c)
	}
	r := c.Remotes[0]
	if len(c.Remotes) != 1 || r.Type != "streamable-http" || r.URL != "https://atlas.example/mcp" || !r.Headers[0].IsSecret || r.Headers[0].Name != "Authorization" {
		t.Errorf("remotes %+v", c.Remotes)
	}
	if diff := cmp.Diff(append([]string{modern}, older...), r.Versions); diff != "" {
		t.Error("versions (-want +got):", diff)
	}
	// It is for everybody: nothing of what callers have is in it.
	for _, tool := range h.tools {
		if strings.Contains(body, `"`+tool.Name+`"`) || tool.URI != "" && strings.Contains(body, tool.URI) {
			t.Errorf("the card names %s", tool.Name)
		}
	}
	etag := hd.Get("ETag")
	for _, have := range []string{etag, "W/" + etag, `"x", ` + etag, "*"} {
		if status, hd, body := h.get(t, "/mcp/server-card", func(r *http.Request) { r.Header.Set("If-None-Match", have) }); status != 304 || body != "" || hd.Get("ETag") != etag {
			t.Errorf("have %s: %d %q", have, status, body)
		}
	}
	if status, _, _ := h.get(t, "/mcp/server-card", func(r *http.Request) { r.Header.Set("If-None-Match", `"other"`) }); status != 200 {
		t.Errorf("have another: %d", status)
	}
	if status, hd, _ := h.get(t, "/mcp/server-card", func(r *http.Request) { r.Method = http.MethodPost }); status != 405 || hd.Get("Allow") == "" {
		t.Errorf("POST: %d", status)
	}

	status, hd, body = h.get(t, "/.well-known/ai-catalog.json", nil)
	var catalog struct {
		Entries []struct{ Identifier, Type, URL string }
	}
	if err := json.Unmarshal([]byte(body), &catalog); err != nil || status != 200 || hd.Get("Access-Control-Allow-Origin") != "*" || hd.Get("ETag") == "" {
		t.Fatalf("%d %v %s", status, hd, body)
	}
	if e := catalog.Entries[0]; len(catalog.Entries) != 1 || e.Identifier != "urn:air:atlas.example:atlas" || e.Type != "application/mcp-server-card+json" || e.URL != "https://atlas.example/mcp/server-card" {
		t.Errorf("catalog %+v", catalog)
	}
}

// The picture is one that a browser shows, and has nothing in it that runs or is fetched.
func TestIconIsAPicture(t *testing.T) {
	h, _ := withLibrary(t, mcp.Config{})
	_, _, body := h.get(t, "/mcp/server-card", nil)
	var c card
	if err := json.Unmarshal([]byte(body), &c); err != nil {
		t.Fatal(err)
	}
	svg, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(c.Icons[0].Src, "data:image/svg+xml;base64,"))
	if err != nil {
		t.Fatal(err)
	}
	dec := xml.NewDecoder(strings.NewReader(string(svg)))
	for n := 0; ; n++ {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) && n > 0 {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		el, _ := tok.(xml.StartElement)
		if n == 0 && el.Name.Local != "svg" {
			t.Errorf("begins with %v", tok)
		}
		for _, a := range el.Attr {
			if strings.HasPrefix(a.Name.Local, "on") || a.Name.Local == "href" {
				t.Errorf("%s has %v", el.Name.Local, a)
			}
		}
		if el.Name.Local == "script" || el.Name.Local == "image" || el.Name.Local == "foreignObject" {
			t.Errorf("there is a %s", el.Name.Local)
		}
	}
}

// server.json is what the registry takes (its schema of 2025-12-11), and says what the server says.
func TestRegistryEntryFitsTheServer(t *testing.T) {
	raw, err := os.ReadFile("../../../server.json")
	if err != nil {
		t.Fatal(err)
	}
	var entry card
	dec := json.NewDecoder(strings.NewReader(string(raw)))
	if err := dec.Decode(&entry); err != nil {
		t.Fatal(err)
	}
	h, _ := withLibrary(t, mcp.Config{PublicURL: "https://atlas.example"})
	_, _, body := h.get(t, "/mcp/server-card", nil)
	var served card
	if err := json.Unmarshal([]byte(body), &served); err != nil {
		t.Fatal(err)
	}
	type facts struct {
		Name, Title, Description, WebsiteURL string
		Repository                           map[string]string
	}
	of := func(c card) facts { return facts{c.Name, c.Title, c.Description, c.WebsiteURL, c.Repository} }
	if diff := cmp.Diff(of(served), of(entry)); diff != "" {
		t.Error("server.json and the card differ (-card +server.json):", diff)
	}
	if !regexp.MustCompile(`^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$`).MatchString(entry.Name) || entry.Schema != "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json" ||
		entry.Description == "" || len(entry.Description) > 100 || len(entry.Title) > 100 || len(entry.Version) > 255 {
		t.Errorf("entry %+v", entry)
	}
	// The registry takes versions, not ranges and not "latest".
	if !regexp.MustCompile(`^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`).MatchString(entry.Version) {
		t.Errorf("version %q", entry.Version)
	}
	changes, err := os.ReadFile("../../../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	released := "0.0.0-unreleased" // until there is a release
	if m := regexp.MustCompile(`(?m)^## v?(\d+\.\d+\.\d+\S*)`).FindSubmatch(changes); m != nil {
		released = string(m[1])
	}
	if entry.Version != released {
		t.Errorf("version %q, the newest release is %q", entry.Version, released)
	}
	if entry.Packages != nil {
		t.Error("nothing is published: there are no packages")
	}
	if len(entry.Remotes) != 1 || entry.Remotes[0].Type != served.Remotes[0].Type || entry.Remotes[0].Headers[0].Name != served.Remotes[0].Headers[0].Name || !entry.Remotes[0].Headers[0].IsSecret {
		t.Fatalf("remotes %+v", entry.Remotes)
	}
	// With its variables filled in, the URL is the one that the server has.
	filled := regexp.MustCompile(`\{(\w+)\}`).ReplaceAllStringFunc(entry.Remotes[0].URL, func(v string) string {
		if entry.Remotes[0].Variables[strings.Trim(v, "{}")].Description == "" {
			t.Errorf("variable %s is not explained", v)
		}
		return "atlas.example"
	})
	if u, err := url.Parse(filled); err != nil || u.String() != mcp.ResourceURL("https://atlas.example") {
		t.Errorf("the URL is %s, the server's %s", filled, mcp.ResourceURL("https://atlas.example"))
	}
}
