package mcp

import (
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/atlas-mcp/atlas"
	"github.com/atlas-mcp/atlas/internal/edge"
)

// How the server names itself. The registry's name is the one in server.json.
const (
	serverName        = "atlas-mcp"
	serverTitle       = "Atlas"
	serverDescription = "Governed access to company data: each call authorised, limited and audited for its tenant"
	registryName      = "io.github.atlas-mcp/atlas"
	websiteURL        = "https://github.com/atlas-mcp/atlas"
)

// Paths of the documents by which a server is found.
const (
	CardPath    = Path + "/server-card"
	CatalogPath = "/.well-known/ai-catalog.json"
)

const cardType = "application/mcp-server-card+json"

//go:embed icon.svg
var iconSVG []byte

// serverIcons returns the pictures of the server (SEP-973). It is part of the program, so that a
// client fetches nothing to show it.
func serverIcons() []atlas.Icon {
	return []atlas.Icon{{Src: "data:image/svg+xml;base64," + base64.StdEncoding.EncodeToString(iconSVG), MIME: "image/svg+xml", Sizes: []string{"any"}}}
}

// sdkIcons returns icons as the SDK writes them.
func sdkIcons(icons []atlas.Icon) []sdk.Icon {
	if len(icons) == 0 {
		return nil
	}
	out := make([]sdk.Icon, len(icons))
	for i, icon := range icons {
		out[i] = sdk.Icon{Source: icon.Src, MIMEType: icon.MIME, Sizes: icon.Sizes, Theme: sdk.IconTheme(icon.Theme)}
	}
	return out
}

// card is the server card (SEP-2127, experimental): how to connect, before there is a token. It is
// for everybody, so it has no word of tools, prompts, resources or tenants.
func (s *Server) card() any {
	type header struct {
		Name        string `json:"name"`
		Description string `json:"description"`
		Required    bool   `json:"isRequired"`
		Secret      bool   `json:"isSecret"`
	}
	type remote struct {
		Type     string   `json:"type"`
		URL      string   `json:"url"`
		Headers  []header `json:"headers"`
		Versions []string `json:"supportedProtocolVersions"`
	}
	return struct {
		Schema      string            `json:"$schema"`
		Name        string            `json:"name"`
		Title       string            `json:"title"`
		Description string            `json:"description"`
		Version     string            `json:"version"`
		WebsiteURL  string            `json:"websiteUrl"`
		Repository  map[string]string `json:"repository"`
		Icons       []atlas.Icon      `json:"icons"`
		Remotes     []remote          `json:"remotes"`
	}{
		Schema: "https://static.modelcontextprotocol.io/schemas/v1/server-card.schema.json",
		Name:   registryName, Title: serverTitle, Description: serverDescription, Version: s.deps.Version,
		WebsiteURL: websiteURL, Repository: map[string]string{"url": websiteURL, "source": "github"}, Icons: serverIcons(),
		Remotes: []remote{{
			Type: "streamable-http", URL: ResourceURL(s.cfg.PublicURL), Versions: sdk.SupportedProtocolVersions(),
			Headers: []header{{"Authorization", "Bearer and an access token for this server", true, true}},
		}},
	}
}

// aiCatalog lists what the host has for agents, which is this server.
func (s *Server) aiCatalog() any {
	host := "localhost"
	if u, err := url.Parse(s.cfg.PublicURL); err == nil {
		host = cmp.Or(strings.ReplaceAll(u.Hostname(), ":", "-"), host) // a colon parts the segments of a URN
	}
	return map[string]any{
		"specVersion": "1.0",
		"entries": []map[string]string{{
			"identifier": "urn:air:" + host + ":atlas", "displayName": serverTitle, "description": serverDescription,
			"type": cardType, "url": s.cfg.PublicURL + CardPath,
		}},
	}
}

// constant serves a document that everybody may read and that is the same as long as the server
// runs: also web pages and caches.
func constant(mediaType string, v any) http.Handler {
	body, err := json.Marshal(v)
	if err != nil {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			edge.WriteFailure(w, atlas.Errorf(atlas.CodeInternal, err, ""))
		})
	}
	sum := sha256.Sum256(body)
	etag := `"` + hex.EncodeToString(sum[:16]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			notAllowed(w, http.MethodGet, http.MethodHead)
			return
		}
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Access-Control-Allow-Methods", "GET")
		h.Set("Cache-Control", "public, max-age=3600")
		h.Set("Vary", "Accept")
		h.Set("ETag", etag)
		if known(r.Header.Get("If-None-Match"), etag) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		h.Set("Content-Type", mediaType)
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write(body) // the client may have gone
	})
}

// known reports whether a client has the document of the tag (RFC 9110 section 13.1.2).
func known(ifNoneMatch, etag string) bool {
	for tag := range strings.SplitSeq(ifNoneMatch, ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if tag == etag || tag == "*" {
			return true
		}
	}
	return false
}
