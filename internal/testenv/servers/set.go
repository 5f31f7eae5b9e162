//go:build unix

package servers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// StartAll starts one server of each kind, at once, and returns them in the order of the kinds when all
// serve; one that stands before another is started after it. If one does not start, none is left. Given
// are host and port of servers that run elsewhere, by name of the kind, for others to stand before them.
// Options are those of each; say is told how long it took.
func StartAll(ctx context.Context, cache *Cache, kinds []Kind, given map[string]string, options func(Kind) Options, say io.Writer) (_ []*Server, err error) {
	all := make([]*Server, len(kinds))
	serves := make([]chan struct{}, len(kinds))
	for i := range kinds {
		serves[i] = make(chan struct{})
	}
	start := time.Now()
	took := make([]time.Duration, len(kinds))
	group, limited := errgroup.WithContext(ctx)
	for i, k := range kinds {
		group.Go(func() (err error) {
			opts := options(k)
			if k.Before != "" && opts.Behind == "" {
				if opts.Behind, err = behind(limited, k, kinds, all, serves, given); err != nil {
					return err
				}
			}
			begun := time.Now()
			s, err := Start(limited, cache, k, opts)
			if err != nil {
				return err
			}
			all[i], took[i] = s, time.Since(begun)
			close(serves[i])
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, errors.Join(err, CloseAll(all))
	}
	slowest := 0
	for i := range kinds {
		if took[i] > took[slowest] {
			slowest = i
		}
	}
	if len(kinds) > 0 {
		fmt.Fprintf(say, "%d servers ready in %.1f s (%s %.1f s)\n", len(kinds), time.Since(start).Seconds(), kinds[slowest].Name, took[slowest].Seconds())
	}
	return all, nil
}

// behind waits until the server that k stands before serves, and returns its host and port.
func behind(ctx context.Context, k Kind, kinds []Kind, all []*Server, serves []chan struct{}, given map[string]string) (string, error) {
	if addr := given[k.Before]; addr != "" {
		return addr, nil
	}
	i := slices.IndexFunc(kinds, func(o Kind) bool { return o.Name == k.Before })
	if i < 0 {
		return "", fmt.Errorf("%s stands before %s, which is not among those to start", k.Name, k.Before)
	}
	select {
	case <-serves[i]:
		return all[i].Addr(), nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// CloseAll closes the servers, at once; nil ones are passed over.
func CloseAll(all []*Server) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, s := range slices.All(all) {
		if s != nil {
			wg.Go(func() { errs[i] = s.Close() })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}
