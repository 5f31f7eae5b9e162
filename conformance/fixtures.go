package main

import (
	"context"

	"github.com/atlas-mcp/atlas"
)

// fixtures makes the tools, prompts and resources that the suite names. They come anew with each
// generation of the configuration.
type fixtures struct {
	reload func(context.Context) error
}

func (f *fixtures) tools() []*atlas.Tool { return nil }
