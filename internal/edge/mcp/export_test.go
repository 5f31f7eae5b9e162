package mcp

import "net/http"

// Reference returns the routes with the SDK in the place of package direct, for tests to compare the
// two and to measure what the difference is worth.
func (s *Server) Reference() http.Handler { return s.routes(s.bridge()) }
