//go:build !linux

package main

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// drive sends the requests, one at a time on each connection (closed loop), for d. The client shares
// the machine with the server, so it is thin: prepared bytes out, the least of HTTP/1.1 in.
func drive(ctx context.Context, addr string, requests [][]byte, want []byte, d time.Duration) (sample, error) {
	var (
		mu    sync.Mutex
		total = newSample()
		errs  error
		wg    sync.WaitGroup
	)
	start := time.Now()
	for _, request := range requests {
		wg.Go(func() {
			one, err := driveOne(ctx, addr, request, want, start.Add(d))
			mu.Lock()
			defer mu.Unlock()
			total.calls += one.calls
			total.failed += one.failed
			total.latency.Merge(one.latency)
			if total.firstBad == "" {
				total.firstBad = one.firstBad
			}
			errs = errors.Join(errs, err)
		})
	}
	wg.Wait()
	total.elapsed = time.Since(start)
	return total, errs
}

func driveOne(ctx context.Context, addr string, request, want []byte, end time.Time) (sample, error) {
	s := newSample()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return s, err
	}
	defer conn.Close() //nolint:errcheck // nothing is lost
	var in answerReader
	for now := time.Now(); now.Before(end); {
		if err := ctx.Err(); err != nil {
			return s, err
		}
		if _, err := conn.Write(request); err != nil {
			return s, err
		}
		for whole := false; !whole; {
			n, err := conn.Read(in.space())
			if err != nil {
				return s, err
			}
			if whole, err = in.take(n); err != nil {
				return s, err
			}
		}
		sent := now
		now = time.Now()
		if err := s.answered(&in, now.Sub(sent), want); err != nil {
			return s, err
		}
	}
	return s, nil
}
