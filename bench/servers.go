package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"

	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// answer is what the in-memory tool gives to everybody: one order, as a real tool would.
const answer = `{"order":{"id":"o_9002","customer_id":"CUST-1001","status":"refund_pending","total_cents":4900,"currency":"USD"}}`

const toolName = "order"

const inputSchema = `{"type":"object","properties":{"order_id":{"type":"string","pattern":"^o_[0-9]+$"}},"required":["order_id"],"additionalProperties":false}`

// plainHTTP answers the same JSON-RPC message with net/http and encoding/json and does nothing else:
// what any Go program has to pay.
func plainHTTP() http.Handler {
	type request struct {
		ID     json.RawMessage `json:"id"`
		Params struct {
			Name      string          `json:"name"`
			Arguments json.RawMessage `json:"arguments"`
		} `json:"params"`
	}
	type content struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	type response struct {
		JSONRPC string          `json:"jsonrpc"`
		ID      json.RawMessage `json:"id"`
		Result  struct {
			ResultType string          `json:"resultType"`
			Content    []content       `json:"content"`
			Structured json.RawMessage `json:"structuredContent"`
		} `json:"result"`
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, "read", http.StatusBadRequest)
			return
		}
		var in request
		if err := json.Unmarshal(body, &in); err != nil || in.Params.Name != toolName {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		var out response
		out.JSONRPC, out.ID = "2.0", in.ID
		out.Result.ResultType = "complete"
		out.Result.Content = []content{{"text", answer}}
		out.Result.Structured = json.RawMessage(answer)
		data, err := json.Marshal(out)
		if err != nil {
			http.Error(w, "encode", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(data) //nolint:errcheck // the client is gone then
	})
}

// bareSDK is the official SDK's stateless server with one raw tool and nothing round it.
func bareSDK() http.Handler {
	server := mcp.NewServer(&mcp.Implementation{Name: "bare", Version: "1"}, &mcp.ServerOptions{
		Capabilities: &mcp.ServerCapabilities{Tools: &mcp.ToolCapabilities{}},
		Logger:       slog.New(slog.DiscardHandler),
	})
	server.AddTool(&mcp.Tool{Name: toolName, Description: "One order.", InputSchema: json.RawMessage(inputSchema)},
		func(context.Context, *mcp.CallToolRequest) (*mcp.CallToolResult, error) {
			return &mcp.CallToolResult{
				Content:           []mcp.Content{&mcp.TextContent{Text: answer}},
				StructuredContent: json.RawMessage(answer),
			}, nil
		})
	return mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, &mcp.StreamableHTTPOptions{
		Stateless: true, JSONResponse: true, PropagateRequestCancellation: true, Logger: slog.New(slog.DiscardHandler),
	})
}
