package message

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A Dialect is how results are written for one era by one server. The zero Dialect is the older era's.
type Dialect struct {
	Modern bool   // results say their type and who made them
	Server []byte // who makes them, as JSON; may be nil
}

// begin appends the beginning of a result: its type, and _meta up to where its members go.
func (d Dialect) begin(dst []byte, resultType string, requestID string) []byte {
	dst = append(dst, '{')
	if d.Modern { // required since 2026-07-28, unknown before
		dst = append(dst, `"resultType":"`...)
		dst = append(dst, resultType...)
		dst = append(dst, `",`...)
	}
	dst = append(dst, `"_meta":{"`+metaRequestID+`":`...)
	dst = AppendString(dst, requestID)
	if d.Modern && d.Server != nil {
		dst = append(dst, `,"`+metaServer+`":`...)
		dst = append(dst, d.Server...)
	}
	return dst
}

const (
	complete      = "complete"
	inputRequired = "input_required"
)

// errBroken is the cause of a result that cannot be written.
var errBroken = errors.New("the answer is not JSON")

// AppendCallResult appends the result of tools/call: what the tool answers as content, or structured
// and the same as text for clients and models that read text only. Reads is how far the answer can be
// trusted. An answer that is not JSON is a failure.
func (d Dialect) AppendCallResult(dst []byte, res *atlas.Result, reads atlas.Reads, requestID string) []byte {
	start := len(dst)
	structured := res.Structured
	if len(structured) == 0 && len(res.Content) == 0 {
		structured = json.RawMessage("{}")
	}
	dst = d.begin(dst, complete, requestID)
	dst = appendReads(dst, reads)
	dst = appendFreshness(dst, res)
	dst = append(dst, `},"content":[`...)
	if len(res.Content) == 0 {
		dst = append(dst, `{"type":"text","text":`...)
		dst = AppendString(dst, structured)
		dst = append(dst, '}')
	}
	for i := range res.Content {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendContent(dst, &res.Content[i])
	}
	dst = append(dst, ']')
	if len(structured) > 0 {
		dst = append(dst, `,"structuredContent":`...)
		var ok bool
		if dst, ok = appendJSON(dst, structured); !ok {
			return d.AppendFailedCall(dst[:start], atlas.Errorf(atlas.CodeInternal, errBroken, ""), requestID)
		}
	}
	return append(dst, '}')
}

// appendReads appends to _meta how far an answer can be trusted: not at all, until it is known better.
func appendReads(dst []byte, reads atlas.Reads) []byte {
	if reads != atlas.ReadsPrivate {
		reads = atlas.ReadsUntrusted
	}
	dst = append(dst, `,"`+metaReads+`":`...)
	return AppendString(dst, string(reads))
}

// appendFreshness appends to _meta how old and how whole an answer is.
func appendFreshness(dst []byte, res *atlas.Result) []byte {
	if !res.AsOf.IsZero() {
		dst = append(dst, `,"`+metaAsOf+`":"`...)
		dst = res.AsOf.UTC().AppendFormat(dst, time.RFC3339Nano)
		dst = append(dst, '"')
	}
	if res.Partial {
		dst = append(dst, `,"`+metaPartial+`":true`...)
	}
	if res.Truncated { // the guard stage has put the cursor into the answer, where the model reads it
		dst = append(dst, `,"`+metaTruncated+`":true`...)
	}
	return dst
}

// AppendFailedCall appends a failure as a result of tools/call that a model can act on: a line to
// read, then the same as JSON.
func (d Dialect) AppendFailedCall(dst []byte, e *atlas.Error, requestID string) []byte {
	f := e.Failure(requestID)
	dst = d.begin(dst, complete, requestID)
	dst = append(dst, `},"content":[{"type":"text","text":`...)
	text := appendLine(make([]byte, 0, 512), &f)
	text = append(text, '\n')
	body := len(text)
	text = appendFailure(text, &f)
	dst = AppendString(dst, text)
	dst = append(dst, `}],"structuredContent":`...)
	dst = append(dst, text[body:]...)
	return append(dst, `,"isError":true}`...)
}

// AppendAsk appends a result that asks the client for input first (SEP-2322). It is of the newer era.
func (d Dialect) AppendAsk(dst []byte, ask *atlas.Ask, requestID string) []byte {
	dst = d.begin(dst, inputRequired, requestID)
	dst = append(dst, `},"inputRequests":{`...)
	for i, key := range slices.Sorted(maps.Keys(ask.Requests)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendString(dst, key)
		dst = append(dst, ':', '{')
		dst = appendRequest(dst, ask.Requests[key])
		dst = append(dst, '}')
	}
	dst = append(dst, '}')
	if len(ask.State) > 0 {
		dst = append(dst, `,"requestState":`...)
		dst = AppendString(dst, ask.State)
	}
	return append(dst, '}')
}

// appendRequest appends method and params of a request to a client.
func appendRequest(dst []byte, r atlas.ClientRequest) []byte {
	dst = append(dst, `"method":`...)
	dst = AppendString(dst, r.Method)
	dst = append(dst, `,"params":`...)
	params, ok := appendJSON(dst, r.Params)
	if !ok { // none, which readers of params do not all expect
		return append(dst, "{}"...)
	}
	return params
}

// AppendRequest appends a whole request to a client of the older era.
func AppendRequest(dst []byte, id string, r atlas.ClientRequest) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","id":`...)
	dst = AppendString(dst, id)
	dst = append(dst, ',')
	dst = appendRequest(dst, r)
	return append(dst, '}')
}

// AppendContent appends one block of content.
func AppendContent(dst []byte, c *atlas.Content) []byte {
	dst = append(dst, `{"type":`...)
	switch c.Type {
	case atlas.ContentImage, atlas.ContentAudio:
		dst = AppendString(dst, string(c.Type))
		dst = append(dst, `,"data":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, c.Data)
		dst = append(dst, '"')
		dst = appendMember(dst, "mimeType", c.MIME)
	case atlas.ContentResource:
		dst = append(dst, `"resource","resource":`...)
		dst = AppendContents(dst, c)
	case atlas.ContentResourceLink:
		dst = append(dst, `"resource_link"`...)
		dst = appendLink(dst, c)
	default:
		dst = append(dst, `"text","text":`...)
		dst = AppendString(dst, c.Text)
	}
	return append(dst, '}')
}

// AppendContents appends the text or the bytes of a resource: what resources/read answers with, and
// what an embedded resource holds.
func AppendContents(dst []byte, c *atlas.Content) []byte {
	dst = append(dst, `{"uri":`...)
	dst = AppendString(dst, c.URI)
	dst = appendMember(dst, "mimeType", c.MIME)
	if c.Data != nil {
		dst = append(dst, `,"blob":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, c.Data)
		dst = append(dst, '"')
	} else {
		dst = append(dst, `,"text":`...)
		dst = AppendString(dst, c.Text)
	}
	return append(dst, '}')
}

func appendLink(dst []byte, c *atlas.Content) []byte {
	dst = append(dst, `,"uri":`...)
	dst = AppendString(dst, c.URI)
	dst = append(dst, `,"name":`...)
	name := c.Name
	if name == "" { // required
		name = c.URI
	}
	dst = AppendString(dst, name)
	dst = appendMember(dst, "title", c.Title)
	dst = appendMember(dst, "description", c.Description)
	dst = appendMember(dst, "mimeType", c.MIME)
	if c.Size > 0 {
		dst = append(dst, `,"size":`...)
		dst = strconv.AppendInt(dst, c.Size, 10)
	}
	return dst
}

// AppendLink appends a link to a resource as one entry of resources/list.
func AppendLink(dst []byte, c *atlas.Content) []byte {
	from := len(dst)
	dst = appendLink(dst, c)
	dst[from] = '{' // in place of the comma
	return append(dst, '}')
}

// AppendPrompt appends the result of prompts/get: the content as messages. A prompt that answers with
// one JSON object says it as one message of the user. Reads is as in AppendCallResult.
func (d Dialect) AppendPrompt(dst []byte, description string, res *atlas.Result, reads atlas.Reads, requestID string) []byte {
	dst = d.begin(dst, complete, requestID)
	dst = appendReads(dst, reads)
	dst = appendFreshness(dst, res)
	dst = append(dst, '}')
	dst = appendMember(dst, "description", description)
	dst = append(dst, `,"messages":[`...)
	content := res.Content
	if len(content) == 0 && len(res.Structured) > 0 {
		content = []atlas.Content{{Type: atlas.ContentText, Text: string(res.Structured)}}
	}
	for i := range content {
		if i > 0 {
			dst = append(dst, ',')
		}
		role := content[i].Role
		if role == "" {
			role = "user"
		}
		dst = append(dst, `{"role":`...)
		dst = AppendString(dst, role)
		dst = append(dst, `,"content":`...)
		dst = AppendContent(dst, &content[i])
		dst = append(dst, '}')
	}
	return append(dst, "]}"...)
}

// AppendRead appends the result of resources/read. A resource that answers with one JSON object says
// it as text of the URI that was asked for. Reads is as in AppendCallResult.
func (d Dialect) AppendRead(dst []byte, uri string, res *atlas.Result, reads atlas.Reads, ttl time.Duration, requestID string) []byte {
	dst = d.begin(dst, complete, requestID)
	dst = appendReads(dst, reads)
	dst = appendFreshness(dst, res)
	dst = append(dst, '}')
	dst = appendCacheable(dst, ttl)
	dst = append(dst, `,"contents":[`...)
	content := res.Content
	if len(content) == 0 && len(res.Structured) > 0 {
		content = []atlas.Content{{URI: uri, MIME: "application/json", Text: string(res.Structured)}}
	}
	for i := range content {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = AppendContents(dst, &content[i])
	}
	return append(dst, "]}"...)
}

// appendCacheable appends how long a client may keep an answer. What a caller may see is nobody
// else's to see.
func appendCacheable(dst []byte, ttl time.Duration) []byte {
	dst = append(dst, `,"cacheScope":"private","ttlMs":`...)
	return strconv.AppendInt(dst, ttl.Milliseconds(), 10)
}

// AppendList appends the result of a list: under the key, the items, each JSON, and the cursor of the
// next page, if there is one.
func (d Dialect) AppendList(dst []byte, key string, items [][]byte, next string, ttl time.Duration) []byte {
	dst = append(dst, '{')
	if d.Modern {
		dst = append(dst, `"resultType":"`+complete+`",`...)
		if d.Server != nil {
			dst = append(dst, `"_meta":{"`+metaServer+`":`...)
			dst = append(dst, d.Server...)
			dst = append(dst, `},`...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, key...)
	dst = append(dst, `":[`...)
	for i, item := range items {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, item...)
	}
	dst = append(dst, ']')
	dst = appendMember(dst, "nextCursor", next)
	dst = appendCacheable(dst, ttl)
	return append(dst, '}')
}

// AppendTask appends the handle of a call that goes on as a task (SEP-2663), from its own members. It
// is of the newer era.
func (d Dialect) AppendTask(dst, task []byte, requestID string) []byte {
	return appendMembers(d.begin(dst, "task", requestID), task)
}

// AppendTaskState appends the result of tasks/get, from the task's own members, or of the other methods
// of tasks, which have none. It is of the newer era.
func (d Dialect) AppendTaskState(dst, task []byte, requestID string) []byte {
	return appendMembers(d.begin(dst, complete, requestID), task)
}

// appendMembers ends _meta and the result, with the members of an object.
func appendMembers(dst, task []byte) []byte {
	dst = append(dst, '}')
	if members, ok := bytes.CutPrefix(task, []byte("{")); ok && len(members) > 1 {
		dst = append(dst, ',')
		return append(dst, members...)
	}
	return append(dst, '}')
}
