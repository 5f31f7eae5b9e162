// Command atlas is the whole program: server, copilot and operator's tools. See atlas --help.
package main

import "github.com/atlas-mcp/atlas/cmd/internal/process"

var version = "dev" // set by the linker

func main() { process.Main("atlas", version) }
