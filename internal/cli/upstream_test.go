package cli_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/rogpeppe/go-internal/testscript"
)

// upstream is the command of scripts for an upstream MCP server:
//
//	upstream start          starts one with the tools echo and count, and names it by $UPSTREAM
//	upstream define T TEXT  gives the tool T the description TEXT
//	upstream remove T       takes the tool T away
func upstream(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: upstream start|define|remove …")
	}
	server, _ := ts.Value(upstreamKey{}).(*upstreamBox)
	switch {
	case args[0] == "start" && len(args) == 1:
		server.Server = sdk.NewServer(&sdk.Implementation{Name: "upstream", Version: "1"}, nil)
		web := httptest.NewServer(sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return server.Server }, &sdk.StreamableHTTPOptions{Stateless: true}))
		ts.Defer(func() {
			web.CloseClientConnections()
			web.Close()
		})
		ts.Setenv("UPSTREAM", web.URL)
		for _, name := range []string{"echo", "count"} {
			server.define(name, "Does as it says.")
		}
	case args[0] == "define" && len(args) == 3:
		server.define(args[1], args[2])
	case args[0] == "remove" && len(args) == 2:
		server.RemoveTools(args[1])
	default:
		ts.Fatalf("usage: upstream start|define|remove …")
	}
}

type upstreamKey struct{}

// An upstreamBox holds a script's upstream, once it is started.
type upstreamBox struct{ *sdk.Server }

func (u *upstreamBox) define(name, description string) {
	u.AddTool(&sdk.Tool{
		Name: name, Description: description, InputSchema: json.RawMessage(`{"type":"object","properties":{"text":{"type":"string"}}}`),
	}, func(_ context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: name + " got " + string(req.Params.Arguments)}}}, nil
	})
}
