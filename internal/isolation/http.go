package isolation

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Over says how a proof reaches an Atlas over the network.
type Over struct {
	URL string // of the server, with or without /mcp
	// Roles names the rights; Tokens has a token of each side for each of them.
	Roles  []string
	Tokens [2][]string
	Client *http.Client // nil: one of its own
}

// HTTP is a [Doorway] to a server: MCP of the revision 2026-07-28 over Streamable HTTP, and the paths beside it.
type HTTP struct {
	base   string
	over   Over
	client *http.Client

	mu      sync.Mutex
	mirrors map[string]map[string]string // by tool and argument: the header field that repeats it (SEP-2243)
}

const (
	revision      = "2026-07-28"
	legacy        = "2025-11-25"
	maxAnswer     = 8 << 20
	answerTime    = time.Minute
	maxListPages  = 20
	sessionHeader = "Mcp-Session-Id"
)

// NewHTTP returns the target. Tokens go over plain HTTP to this machine only, and no redirect is followed.
func NewHTTP(over Over) (*HTTP, error) {
	u, err := url.Parse(strings.TrimSpace(over.URL))
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil:
		return nil, errors.New("the URL must look like http://127.0.0.1:8080 or https://host")
	case u.Scheme == "http" && !local(u.Hostname()):
		return nil, errors.New("the URL must be https, unless the host is this machine")
	}
	n := len(over.Roles)
	if n == 0 || len(over.Tokens[A]) != n || len(over.Tokens[B]) != n {
		return nil, errors.New("a token of each side is needed")
	}
	for _, t := range slices.Concat(over.Tokens[A], over.Tokens[B]) {
		if t == "" || strings.ContainsAny(t, " \r\n\t") {
			return nil, errors.New("a token is empty or holds white space")
		}
	}
	h := &HTTP{base: strings.TrimSuffix(strings.TrimSuffix(u.Scheme+"://"+u.Host+u.Path, "/"), "/mcp"), over: over, mirrors: map[string]map[string]string{}}
	client := http.Client{Transport: &http.Transport{Proxy: http.ProxyFromEnvironment, MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 10 * time.Second}}
	if over.Client != nil {
		client = *over.Client
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	h.client = &client
	return h, nil
}

func local(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Roles implements [Target].
func (h *HTTP) Roles() []string { return h.over.Roles }

// Token implements [Doorway].
func (h *HTTP) Token(who Caller) string { return h.over.Tokens[who.Side][who.Role] }

// Raw implements [Doorway].
func (h *HTTP) Raw(ctx context.Context, who Caller, method, path string, header http.Header, body []byte) (Answer, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, h.base+path, bytes.NewReader(body))
	if err != nil {
		return Answer{}, nil, fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+h.Token(who))
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json, text/event-stream")
	for name, values := range header {
		req.Header[name] = values
		if len(values) == 1 && values[0] == "" {
			delete(req.Header, name)
		}
	}
	begun := time.Now()
	res, err := h.client.Do(req)
	if err != nil {
		return Answer{}, nil, err
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	err = errors.Join(err, res.Body.Close())
	a := Answer{Status: res.StatusCode, Took: time.Since(begun), Text: string(data)}
	var fields strings.Builder
	for _, name := range slices.Sorted(maps.Keys(res.Header)) {
		fmt.Fprintf(&fields, "\n%s: %s", name, strings.Join(res.Header[name], ", "))
	}
	a.body = lastEvent(res.Header.Get("Content-Type"), data)
	a.read(a.body)
	a.Text += fields.String()
	return a, res.Header, err
}

// lastEvent returns the message of the answer: the body, or the data of the last event of a stream.
func lastEvent(contentType string, body []byte) []byte {
	if !strings.HasPrefix(contentType, "text/event-stream") {
		return body
	}
	var last []byte
	for line := range bytes.SplitSeq(body, []byte("\n")) {
		if data, ok := bytes.CutPrefix(line, []byte("data:")); ok {
			last = bytes.TrimSpace(data)
		}
	}
	return last
}

// A reply is a JSON-RPC response, or a failure of the paths beside MCP.
type reply struct {
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

// An rpcError is the error of a JSON-RPC response.
type rpcError struct {
	Code    int             `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data"`
}

// A result is what results of the protocol have.
type result struct {
	Type       string                     `json:"resultType"`
	Meta       map[string]json.RawMessage `json:"_meta"`
	Structured json.RawMessage            `json:"structuredContent"`
	IsError    bool                       `json:"isError"`
	State      string                     `json:"requestState"`
	TaskID     string                     `json:"taskId"`
	Task       *struct {
		ID string `json:"taskId"`
	} `json:"task"`
}

// read fills in what the body says.
func (a *Answer) read(body []byte) {
	var r reply
	_ = json.Unmarshal(body, &r) // what is no JSON has a status
	var rpc rpcError
	var f atlas.Failure
	switch {
	case json.Unmarshal(r.Error, &rpc) == nil:
		a.Failure = failureOf(rpc.Code, rpc.Message, rpc.Data)
	case (json.Unmarshal(r.Error, &f) == nil || json.Unmarshal(body, &f) == nil) && f.Code != "":
		a.Failure = &f
	case r.Result != nil:
		a.readResult(r.Result)
	case a.Status >= http.StatusBadRequest:
		a.Failure = &atlas.Failure{Code: statusCode(a.Status)}
	}
	if a.Failure != nil {
		a.RequestID = cmp.Or(a.RequestID, a.Failure.RequestID)
		a.Approval, _ = a.Failure.Context["approval_id"].(string)
	}
}

func statusCode(status int) atlas.Code { return atlas.Code(fmt.Sprintf("http_%d", status)) }

// failureOf is a JSON-RPC error as a failure: Atlas's own in its data, or the protocol's.
func failureOf(code int, message string, data json.RawMessage) *atlas.Failure {
	var f atlas.Failure
	if json.Unmarshal(data, &f) == nil && f.Code != "" {
		return &f
	}
	f = atlas.Failure{Code: atlas.Code(fmt.Sprintf("rpc_%d", -code)), Hint: message}
	switch message {
	case "Unknown tool", "Unknown prompt":
		f.Code = atlas.CodeToolNotFound
	case "Resource not found":
		f.Code = atlas.CodeNotFound
	}
	return &f
}

func (a *Answer) readResult(raw json.RawMessage) {
	var r result
	if json.Unmarshal(raw, &r) != nil {
		return
	}
	_ = json.Unmarshal(r.Meta["atlas/request_id"], &a.RequestID) // it may be missing
	a.Structured, a.State, a.Asked = r.Structured, r.State, r.Type == "input_required"
	if a.Task = r.TaskID; r.Task != nil {
		a.Task = r.Task.ID
	}
	if r.Type != "task" {
		a.Task = ""
	}
	if r.IsError {
		var f atlas.Failure
		if json.Unmarshal(r.Structured, &f) != nil || f.Code == "" {
			f.Code = atlas.CodeSourceError
		}
		a.Failure, a.Structured = &f, nil
		return
	}
	var next struct {
		Cursor string `json:"next_cursor"`
	}
	if json.Unmarshal(r.Structured, &next) == nil {
		a.Cursor = next.Cursor
	}
}

// Do implements [Target].
func (h *HTTP) Do(ctx context.Context, who Caller, ask Ask) (Answer, error) {
	if ask.Cancel > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, ask.Cancel)
		defer cancel()
	}
	if ask.Op == OpTools || ask.Op == OpResources {
		return h.list(ctx, who, ask)
	}
	params, target := h.params(ask)
	return h.send(ctx, who, ask, params, target)
}

func (h *HTTP) list(ctx context.Context, who Caller, ask Ask) (Answer, error) {
	var all Answer
	cursor := ""
	for range maxListPages {
		params := map[string]any{}
		if cursor != "" {
			params["cursor"] = cursor
		}
		a, err := h.send(ctx, who, ask, params, "")
		if err != nil || a.Failure != nil {
			return a, err
		}
		a.Text = all.Text + "\n" + a.Text
		all = a
		var page struct {
			Result struct {
				Next string `json:"nextCursor"`
			} `json:"result"`
		}
		_ = json.Unmarshal(a.body, &page) // the last page has none
		if cursor = page.Result.Next; cursor == "" {
			break
		}
	}
	return all, nil
}

// params are the parameters of a request and what it is about, which a header field repeats.
func (h *HTTP) params(ask Ask) (params map[string]any, target string) {
	args := ask.Args
	if len(args) == 0 {
		args = json.RawMessage("{}")
	}
	switch ask.Op {
	case OpCall, OpGet:
		params, target = map[string]any{"name": ask.Name, "arguments": args}, ask.Name
		if ask.State != "" {
			params["requestState"] = ask.State
		}
		if ask.Reply != nil {
			params["inputResponses"] = ask.Reply
		}
	case OpRead:
		params, target = map[string]any{"uri": ask.URI}, ask.URI
	case OpComplete:
		ref := map[string]any{"type": "ref/prompt", "name": ask.Name}
		if ask.URI != "" {
			ref = map[string]any{"type": "ref/resource", "uri": ask.URI}
		}
		params = map[string]any{"ref": ref, "argument": map[string]any{"name": ask.Argument, "value": ask.Prefix}}
	case OpTask, OpCancel:
		params, target = map[string]any{"taskId": ask.Task}, ask.Task
	case OpTools, OpResources:
	}
	return params, target
}

func (h *HTTP) send(ctx context.Context, who Caller, ask Ask, params map[string]any, target string) (Answer, error) {
	can := map[string]any{}
	if ask.Elicit {
		can["elicitation"] = map[string]any{"form": map[string]any{}}
	}
	if ask.Follow || ask.Op == OpTask || ask.Op == OpCancel {
		can["extensions"] = map[string]any{"io.modelcontextprotocol/tasks": map[string]any{}}
	}
	meta := map[string]any{
		"io.modelcontextprotocol/protocolVersion":    revision,
		"io.modelcontextprotocol/clientCapabilities": can,
	}
	if ask.Key != "" {
		meta["atlas/idempotency_key"] = ask.Key
	}
	params["_meta"] = meta
	header := http.Header{"Mcp-Protocol-Version": {revision}, "Mcp-Method": {string(ask.Op)}}
	if target != "" {
		header["Mcp-Name"] = []string{headerText(target)}
	}
	for name, value := range h.mirrored(ask) {
		header[name] = []string{value}
	}
	for name, value := range ask.Header {
		header[http.CanonicalHeaderKey(name)] = []string{value}
	}
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": cmp.Or(ask.Repeat, "1"), "method": ask.Op, "params": params})
	if err != nil {
		return Answer{}, fmt.Errorf("write the request: %w", err)
	}
	path := "/mcp"
	if ask.Query != "" {
		path += "?" + ask.Query
	}
	a, _, err := h.Raw(ctx, who, http.MethodPost, path, header, body)
	return a, err
}

// headerText writes a text that a header field may not hold in base64 (SEP-2243).
func headerText(s string) string {
	plain := s == strings.TrimSpace(s) && !strings.HasPrefix(s, "=?")
	for i := range len(s) {
		plain = plain && s[i] >= 0x20 && s[i] < 0x7f
	}
	if plain {
		return s
	}
	return "=?base64?" + base64.StdEncoding.EncodeToString([]byte(s)) + "?="
}

// mirrored are the header fields that repeat arguments of the tool.
func (h *HTTP) mirrored(ask Ask) map[string]string {
	h.mu.Lock()
	fields := h.mirrors[ask.Name]
	h.mu.Unlock()
	var args map[string]any
	if len(fields) == 0 || json.Unmarshal(ask.Args, &args) != nil {
		return nil
	}
	out := map[string]string{}
	for argument, name := range fields {
		if v, ok := args[argument]; ok && v != nil {
			out[name] = headerText(fmt.Sprint(v))
		}
	}
	return out
}

// A listed is one entry of a list.
type listed struct {
	Name        string          `json:"name"`
	URI         string          `json:"uri"`
	Template    string          `json:"uriTemplate"`
	Description string          `json:"description"`
	Input       json.RawMessage `json:"inputSchema"`
	Annotations *struct {
		ReadOnly    bool  `json:"readOnlyHint"`
		Destructive *bool `json:"destructiveHint"`
	} `json:"annotations"`
	Arguments []struct {
		Name     string `json:"name"`
		Required bool   `json:"required"`
	} `json:"arguments"`
}

// maxDocuments bounds the single resources that are attacked: they are the documents behind templates.
const maxDocuments = 8

// Tools implements [Target].
func (h *HTTP) Tools(ctx context.Context, who Caller) ([]Tool, error) {
	var out []Tool
	for _, l := range []struct {
		op   Op
		key  string
		kind atlas.Kind
	}{
		{OpTools, "tools", atlas.KindTool},
		{"prompts/list", "prompts", atlas.KindPrompt},
		{"resources/templates/list", "resourceTemplates", atlas.KindResource},
		{OpResources, "resources", atlas.KindResource},
	} {
		entries, err := h.entries(ctx, who, l.op, l.key)
		if err != nil {
			return nil, err
		}
		if l.op == OpResources {
			entries = entries[:min(len(entries), maxDocuments)]
		}
		for _, e := range entries {
			out = append(out, h.tool(e, l.kind))
		}
	}
	return out, nil
}

func (h *HTTP) entries(ctx context.Context, who Caller, op Op, key string) ([]listed, error) {
	var out []listed
	cursor := ""
	for range maxListPages {
		params := map[string]any{}
		if cursor != "" {
			params["cursor"] = cursor
		}
		a, err := h.send(ctx, who, Ask{Op: op}, params, "")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", op, err)
		}
		if a.Failure != nil {
			if op != OpTools { // a server without prompts or resources
				return out, nil
			}
			return nil, fmt.Errorf("%s: %s %s", op, a.Failure.Code, a.Failure.Hint)
		}
		var r struct {
			Result map[string]json.RawMessage `json:"result"`
		}
		var page []listed
		if err := errors.Join(json.Unmarshal(a.body, &r), json.Unmarshal(r.Result[key], &page)); err != nil {
			return nil, fmt.Errorf("%s: %w", op, err)
		}
		out = append(out, page...)
		cursor = ""
		_ = json.Unmarshal(r.Result["nextCursor"], &cursor) // the last page has none
		if cursor == "" {
			break
		}
	}
	return out, nil
}

func (h *HTTP) tool(e listed, kind atlas.Kind) Tool {
	t := Tool{Name: e.Name, Kind: kind, URI: cmp.Or(e.Template, e.URI), Description: e.Description, Input: e.Input, ReadOnly: true}
	switch kind {
	case atlas.KindTool:
		t.ReadOnly = e.Annotations != nil && e.Annotations.ReadOnly
		t.Destructive = !t.ReadOnly && (e.Annotations == nil || e.Annotations.Destructive == nil || *e.Annotations.Destructive)
		h.remember(e)
	case atlas.KindPrompt:
		properties, required := map[string]any{}, []string{}
		for _, a := range e.Arguments {
			properties[a.Name] = map[string]string{"type": "string"}
			if a.Required {
				required = append(required, a.Name)
			}
		}
		t.Input = encode(map[string]any{"type": "object", "properties": properties, "required": required})
	case atlas.KindResource:
		t.Name = cmp.Or(e.URI, e.Name) // two documents may have one name
	}
	return t
}

// remember notes the arguments that a client repeats in header fields.
func (h *HTTP) remember(e listed) {
	var schema struct {
		Properties map[string]struct {
			Header string `json:"x-mcp-header"`
		} `json:"properties"`
	}
	if json.Unmarshal(e.Input, &schema) != nil {
		return
	}
	fields := map[string]string{}
	for name, p := range schema.Properties {
		if p.Header != "" {
			fields[name] = http.CanonicalHeaderKey("Mcp-Param-" + p.Header)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mirrors[e.Name] = fields
}
