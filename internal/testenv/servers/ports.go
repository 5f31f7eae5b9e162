//go:build unix

package servers

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Ports are taken from below the ranges that Linux (32768) and macOS (49152) give to outgoing connections:
// otherwise, while a server is down, a client's connection attempt could be given the server's own port,
// and the server could not come back on it.
const (
	firstPort = 20000
	lastPort  = 31999
)

// freePort returns a port of 127.0.0.1 that was free a moment ago.
func freePort(ctx context.Context) (int, error) {
	const attempts = 100
	for range attempts {
		port := firstPort + rand.IntN(lastPort-firstPort+1) //nolint:gosec // chosen, not secret
		if portFree(ctx, port) {
			return port, nil
		}
		if err := ctx.Err(); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("no free port among %d tried between %d and %d", attempts, firstPort, lastPort)
}

// portFree reports whether the port can be listened on.
func portFree(ctx context.Context, port int) bool {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp4", address(port))
	return err == nil && errors.Join(ln.Close()) == nil
}

// address returns host and port.
func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
