// Command atlas-copilot is `atlas copilot` under the seed's name.
package main

import "github.com/atlas-mcp/atlas/cmd/internal/process"

var version = "dev" // set by the linker

func main() { process.Main("atlas-copilot", version, "copilot") }
