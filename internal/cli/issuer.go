package cli

import (
	"context"
	"io"
	"strings"

	"github.com/atlas-mcp/atlas/internal/app"
)

type issuerCmd struct {
	Rotate       issuerRotateCmd       `cmd:"" help:"Sign with a new key soon; tokens of the old one stay good."`
	HashPassword issuerHashPasswordCmd `cmd:"" help:"Turn a password, read from the standard input, into what issuer.users holds."`
}

type issuerRotateCmd struct{}

// Run rotates the key.
func (issuerRotateCmd) Run(ctx context.Context, p *Program, g *globals) error {
	a, err := p.open(ctx, g)
	if err != nil {
		return err
	}
	defer a.Close() //nolint:errcheck // reported by the app's log
	at, err := a.RotateIssuerKey()
	if err != nil {
		return usage("%w", err)
	}
	if g.JSON {
		return p.printJSON(map[string]any{"signs_from": at})
	}
	p.printf("The new key is published now and signs from %s on.\n", at)
	return nil
}

type issuerHashPasswordCmd struct{}

// maxPassword is more than any password has.
const maxPassword = 4 << 10

// Run prints the hash.
func (issuerHashPasswordCmd) Run(p *Program, g *globals) error {
	data, err := io.ReadAll(io.LimitReader(p.Stdin, maxPassword))
	if err != nil {
		return err
	}
	hash, err := app.HashPassword(strings.TrimRight(string(data), "\r\n"))
	if err != nil {
		return usage("%w", err)
	}
	if g.JSON {
		return p.printJSON(map[string]any{"password_hash": hash})
	}
	p.printf("%s\n", hash)
	return nil
}
