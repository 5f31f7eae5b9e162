// Package source says what a source of data is: a [Source] opened from a [Config], and the small
// capability interfaces that it may have. Each driver is a folder below; sourcetest holds the
// contract that every driver passes.
//
// The law for all capabilities: the tenant is bound by the driver, inside the store, and never by
// anything in the request. What belongs to another tenant is answered exactly like what does not
// exist. Methods are safe for concurrent use, return soon after ctx ends (with an error that
// [errors.Is] the context's), and return failures as *[atlas.Error] whose hint holds no upstream
// text, SQL, path or host name.
package source

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A Config is a driver's settings. Its zero value is what YAML is decoded into.
type Config interface {
	// Validate reports all mistakes, joined.
	Validate() error
	// Open connects. The source owns nothing of deps.
	Open(ctx context.Context, deps Deps) (Source, error)
}

// A Migrator is a Config whose store must be prepared before it can be opened: tables, roles,
// indexes, collections. Only `atlas migrate`, `atlas seed`, the demo and tests use it; the server
// never does, and need not have the rights for it.
type Migrator interface {
	// Migrate brings the store to what the driver needs. Doing it twice is fine.
	Migrate(ctx context.Context, deps Deps) error
}

// Deps are what the program gives to every driver.
type Deps struct {
	Name    string   // the source's name in the configuration
	DataDir string   // directory for drivers that keep files; exists
	Embed   Embedder // for vector sources; nil if none is configured
	Egress  Dialer   // for sources that call out; nil means no outbound calls
	State   State    // what the source must remember beyond its life; nil for drivers that keep nothing
	Log     *slog.Logger

	// TraceParent returns the W3C traceparent of a call's context, "" if it has none: for the comment
	// that names the call in the store's own logs, and for calls to other servers. May be nil.
	TraceParent func(ctx context.Context) string
}

// State keeps small values for one source, in a space of its own, for all replicas of the program:
// a version, never 0, goes with each value, and a write succeeds only over the version that it
// names (0: if there is none).
type State interface {
	// Get returns the value and its version; version 0 means that there is none.
	Get(ctx context.Context, key string) (value []byte, version int64, err error)
	// CompareAndSet returns the new version, or 0 if the version was another.
	CompareAndSet(ctx context.Context, key string, version int64, value []byte) (int64, error)
	// CompareAndDelete reports whether it deleted the value of that version.
	CompareAndDelete(ctx context.Context, key string, version int64) (bool, error)
}

// A Source is an open store.
type Source interface {
	// Ping asks the store whether it can answer.
	Ping(ctx context.Context) error
	// Close releases what the source holds. Closing twice is fine; any call after it fails.
	Close() error
}

// A Querier answers SQL.
type Querier interface {
	// Query runs one read-only statement with bound :name parameters. Codes: invalid_query for a
	// statement that is wrong or not allowed.
	Query(ctx context.Context, tenant atlas.TenantID, q Query) (Rows, error)
	// Inspect finds out what q would read without running it.
	Inspect(ctx context.Context, tenant atlas.TenantID, q Query) (atlas.Facts, error)
	// Schema lists the tables that may be read.
	Schema(ctx context.Context, tenant atlas.TenantID) ([]Table, error)
}

// A Query is one SQL statement.
type Query struct {
	SQL     string
	Args    map[string]any // by parameter name: string, json.Number, int64, float64, bool or nil
	MaxRows int            // at most this many rows; 0 means the source's own limit

	// Agent says that the text was written by an agent, not by the operator: a driver refuses it
	// unless what it could do is bounded by more than the text.
	Agent bool
}

// Rows are the answer to a query.
type Rows struct {
	Columns   []string
	Rows      [][]any // values are nil, string, int64, float64 or bool; blobs as base64 strings
	Truncated bool    // more rows were there
}

// A Table describes what can be queried.
type Table struct {
	Name    string   `json:"name"`
	Columns []Column `json:"columns"`
}

// A Column is one column of a table.
type Column struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// A Searcher answers full-text searches, best hit first.
type Searcher interface {
	Search(ctx context.Context, tenant atlas.TenantID, s Search) (Hits, error)
}

// A Search asks for documents.
type Search struct {
	Text   string         // words; no query syntax: it can never break the search or change its meaning. Empty: filter only, newest first
	Filter map[string]any // exact matches by attribute, or by "id"; a value that is a slice matches any of its elements
	Size   int            // at most this many hits; 0 means 10
}

// A BodySearcher answers searches whose query an agent wrote in the store's own language. The driver
// reads the body, and writes anew what it allows of it: nothing of it is passed on.
type BodySearcher interface {
	// SearchDSL answers a body for the tenant with at most size hits (0 means 10), and with the
	// aggregations that the body asks for, or nil. Codes: invalid_query, with the place of the fault in
	// the context as "at".
	SearchDSL(ctx context.Context, tenant atlas.TenantID, body json.RawMessage, size int) (Hits, json.RawMessage, error)
	// Fields are the fields that a body may name, with their types; Clauses what it may be made of,
	// with their forms. Both are for the tool's description.
	Fields() map[string]string
	Clauses() map[string]string
}

// A VectorIndex answers similarity searches, nearest first. It embeds text itself, so that
// stored and asked vectors always come from one embedder.
type VectorIndex interface {
	Nearest(ctx context.Context, tenant atlas.TenantID, n Nearest) (Hits, error)
}

// Nearest asks for similar documents.
type Nearest struct {
	Text   string         // embedded by the index
	Vector []float32      // instead of Text; must have the index's dimension
	Filter map[string]any // as in Search
	K      int            // at most this many hits; 0 means 10
}

// Hits are found documents.
type Hits struct {
	Total int   // how many match, or -1 if that is not known
	Hits  []Hit // best first
}

// A Hit is one found document.
type Hit struct {
	ID      string         `json:"id"`
	Score   float64        `json:"score"` // higher is better; comparable within one answer only
	Snippet string         `json:"snippet,omitempty"`
	Fields  map[string]any `json:"fields"` // title, body, url and attributes
}

// An ObjectStore holds objects by key. A key is a slash-separated path without empty, "." or ".."
// segments, backslashes or control characters, at most 1,024 bytes long; see [CheckKey].
type ObjectStore interface {
	Get(ctx context.Context, tenant atlas.TenantID, key string, maxBytes int64) (Object, error) // not_found, too_large
	List(ctx context.Context, tenant atlas.TenantID, prefix string, limit int) ([]ObjectInfo, error)
	Put(ctx context.Context, tenant atlas.TenantID, key string, o Object) error
}

// An ObjectInfo describes an object.
type ObjectInfo struct {
	Key      string    `json:"key"`
	Size     int64     `json:"size_bytes"`
	Modified time.Time `json:"modified"`
}

// An Object is an object's content.
type Object struct {
	ObjectInfo
	ContentType string
	Content     []byte
	Truncated   bool
}

// A Linker gives addresses by which one object can be read without a token, for a while.
type Linker interface {
	// Link returns an https (or, on one machine, http) URL of the tenant's object and when it ends.
	// Codes: not_found if there is no such object. Whoever has the URL can read the object.
	Link(ctx context.Context, tenant atlas.TenantID, key string) (url string, expires time.Time, err error)
	// Links says whether the operator allows them at all.
	Links() bool
}

// A Fetcher makes outbound HTTP requests to the tenant's allowed hosts.
type Fetcher interface {
	Fetch(ctx context.Context, tenant atlas.TenantID, r Request) (Response, error)
}

// A Request is an outbound HTTP request. The driver refuses hop-by-hop and credential headers.
type Request struct {
	Method string // GET if empty
	URL    string // https only
	Header map[string]string
	Body   json.RawMessage // sent as application/json; may be nil
}

// A Response is an answer to a Request.
type Response struct {
	Status    int
	Header    map[string]string // a few safe ones: content-type, etag, last-modified
	Body      string
	Truncated bool
}

// A Provider offers tools that run elsewhere, on an upstream MCP server. What it says of its tools
// is another party's word: names, descriptions and schemas are shown only as they were approved.
type Provider interface {
	// Offers returns the tools as they are pinned, sorted by name, whether or not the upstream
	// answers now.
	Offers(ctx context.Context) ([]Offer, error)
	// Invoke calls an offered tool for the tenant with the provider's own credentials. A tool whose
	// definition is no longer the pinned one is refused with definition_changed and not called.
	Invoke(ctx context.Context, tenant atlas.TenantID, name string, args json.RawMessage) (Answer, error)
}

// An Offer is one tool of a provider.
type Offer struct {
	Name, Title, Description string // Name is the upstream's, without prefix
	Input, Output            json.RawMessage
	ReadOnly, Idempotent     bool // what the operator grants; the upstream's own word only lowers it
	Destructive              bool
	Digest                   string        // hex SHA-256 of the canonical definition (RFC 8785)
	Scopes                   []string      // that the operator asks for; nil for the source's usual one
	CacheTTL, Timeout        time.Duration // that the operator grants; 0 for no cache, and the usual timeout
	Blocked                  bool          // the upstream's definition is not, or no longer, the approved one
}

// An Answer is what an upstream's tool answered.
type Answer struct {
	Structured json.RawMessage // may be empty
	Text       string          // the text parts, joined by line breaks
	Failed     bool            // the tool says that it failed; Text says why
}

// An Embedder turns texts into vectors of one dimension.
type Embedder interface {
	Embed(ctx context.Context, texts []string) ([][]float32, error)
	ID() string // stored beside the vectors; vectors of different ids are never compared
	Dim() int
}

// A Loader takes in data for a tenant, replacing what was there under the same ids. Only `atlas
// seed`, the demo and tests use it; no tool does.
type Loader interface {
	// Load writes data into the tenant's part of the store, creating it if needed.
	Load(ctx context.Context, tenant atlas.TenantID, data Data) error
}

// Data is what a Loader takes: each driver takes the part that it can hold and ignores the rest.
type Data struct {
	Tables    []TableData
	Documents []Document
	Objects   []Object
}

// TableData is a table with its rows.
type TableData struct {
	Name    string
	Columns []Column // the first is the primary key; Type is an SQL type such as TEXT or INTEGER
	Rows    [][]any
}

// A Document is what search and vector sources hold.
type Document struct {
	ID    string
	Title string
	Body  string
	URL   string
	Attrs map[string]any // strings, numbers and booleans, for filters
}
