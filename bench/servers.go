package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	mcpgo "github.com/mark3labs/mcp-go/mcp"
	mcpgoserver "github.com/mark3labs/mcp-go/server"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// answer is what the in-memory tool gives to everybody: one order, as a real tool would.
const answer = `{"order":{"id":"o_9002","customer_id":"CUST-1001","status":"refund_pending","total_cents":4900,"currency":"USD"}}`

const (
	toolName        = "order" // the one that is called
	benchTools      = 50
	toolDescription = "One order by its id, with status, amount and currency. Use when an order id is known."
)

// toolNameOf names the tools; the first is the one that is called.
func toolNameOf(i int) string {
	if i == 0 {
		return toolName
	}
	return fmt.Sprintf("%s_%02d", toolName, i)
}

const inputSchema = `{"type":"object","properties":{"order_id":{"type":"string","pattern":"^o_[0-9]+$"}},"required":["order_id"],"additionalProperties":false}`

const outputSchema = `{"type":"object","properties":{"order":{"type":"object"}},"required":["order"]}`

// A plainRequest is what a server without any library for MCP reads of a message.
type plainRequest struct {
	ID     json.RawMessage `json:"id"`
	Params struct {
		Name      string          `json:"name"`
		Arguments json.RawMessage `json:"arguments"`
	} `json:"params"`
}

type plainContent struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

type plainResponse struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Result  struct {
		ResultType string          `json:"resultType"`
		Content    []plainContent  `json:"content"`
		Structured json.RawMessage `json:"structuredContent"`
	} `json:"result"`
}

// answer writes the result to who sent the request.
func (in *plainRequest) answer(w http.ResponseWriter, structured []byte) {
	var out plainResponse
	out.JSONRPC, out.ID = "2.0", in.ID
	out.Result.ResultType = "complete"
	out.Result.Content = []plainContent{{"text", string(structured)}}
	out.Result.Structured = structured
	data, err := json.Marshal(out)
	if err != nil {
		http.Error(w, "encode", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data) //nolint:errcheck // the client is gone then
}

// plainHTTP answers the same JSON-RPC message with net/http and encoding/json and does nothing else:
// what any Go program has to pay.
func plainHTTP() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "read", http.StatusBadRequest)
			return
		}
		var in plainRequest
		if err := json.Unmarshal(body, &in); err != nil || in.Params.Name != toolName {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		in.answer(w, []byte(answer))
	})
}

// bareSDK is the official SDK's stateless server with raw tools and nothing round it. Stateless, it
// serves both eras.
func bareSDK() http.Handler {
	server := sdk.NewServer(&sdk.Implementation{Name: "bare", Version: "1"}, &sdk.ServerOptions{
		Capabilities: &sdk.ServerCapabilities{Tools: &sdk.ToolCapabilities{}},
		Logger:       slog.New(slog.DiscardHandler),
	})
	for i := range benchTools {
		server.AddTool(&sdk.Tool{
			Name: toolNameOf(i), Description: toolDescription, InputSchema: json.RawMessage(inputSchema), OutputSchema: json.RawMessage(outputSchema),
		}, func(context.Context, *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			return &sdk.CallToolResult{
				Content:           []sdk.Content{&sdk.TextContent{Text: answer}},
				StructuredContent: json.RawMessage(answer),
			}, nil
		})
	}
	return sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return server }, &sdk.StreamableHTTPOptions{
		Stateless: true, JSONResponse: true, PropagateRequestCancellation: true, Logger: slog.New(slog.DiscardHandler),
	})
}

// bareMCPGo is a server of mcp-go with the same tools, as its own examples set one up. It serves both
// eras.
func bareMCPGo() http.Handler {
	s := mcpgoserver.NewMCPServer("bare", "1", mcpgoserver.WithToolCapabilities(false))
	for i := range benchTools {
		tool := mcpgo.NewToolWithRawSchema(toolNameOf(i), toolDescription, json.RawMessage(inputSchema))
		tool.RawOutputSchema = json.RawMessage(outputSchema)
		s.AddTool(tool, func(context.Context, mcpgo.CallToolRequest) (*mcpgo.CallToolResult, error) {
			return mcpgo.NewToolResultStructured(json.RawMessage(answer), answer), nil
		})
	}
	return mcpgoserver.NewStreamableHTTPServer(s)
}
