package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A sample is what one round of load measured.
type sample struct {
	calls    int64
	failed   int64
	elapsed  time.Duration
	latency  *hdrhistogram.Histogram // microseconds
	allocs   float64                 // server heap allocations per call
	bytes    float64                 // server heap bytes per call
	firstBad string
}

func (s sample) rate() float64 { return float64(s.calls) / s.elapsed.Seconds() }

// drive sends the same request over conns connections, one at a time on each (closed loop), for d.
// The client is deliberately thin, since it shares the machine with the server: prepared bytes out,
// just enough HTTP/1.1 to find the end of the answer.
func drive(ctx context.Context, addr string, request []byte, want []byte, conns int, d time.Duration) (sample, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var (
		mu    sync.Mutex
		total = sample{latency: newHistogram()}
		errs  error
		wg    sync.WaitGroup
	)
	start := time.Now()
	for range conns {
		wg.Go(func() {
			one, err := driveOne(ctx, addr, request, want)
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

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, 60_000_000, 3) }

func driveOne(ctx context.Context, addr string, request, want []byte) (sample, error) {
	s := sample{latency: newHistogram()}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return s, err
	}
	defer conn.Close() //nolint:errcheck // nothing is lost
	in := bufio.NewReaderSize(conn, 32<<10)
	var body bytes.Buffer
	for ctx.Err() == nil {
		start := time.Now()
		if _, err := conn.Write(request); err != nil {
			return s, err
		}
		status, err := readAnswer(in, &body)
		if err != nil {
			return s, err
		}
		if err := s.latency.RecordValue(max(1, time.Since(start).Microseconds())); err != nil {
			return s, err
		}
		s.calls++
		if status != 200 || !bytes.Contains(body.Bytes(), want) {
			s.failed++
			if s.firstBad == "" {
				s.firstBad = fmt.Sprintf("%d %.300s", status, body.String())
			}
		}
	}
	return s, nil
}

// readAnswer reads one answer with a Content-Length or in chunks.
func readAnswer(in *bufio.Reader, body *bytes.Buffer) (status int, err error) {
	body.Reset()
	length, chunked := -1, false
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if first {
			if len(line) < 12 {
				return 0, fmt.Errorf("odd status line %q", line)
			}
			if status, err = strconv.Atoi(string(line[9:12])); err != nil {
				return 0, err
			}
			continue
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch value = bytes.TrimSpace(value); {
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(value)); err != nil {
				return 0, err
			}
		case bytes.EqualFold(name, []byte("Transfer-Encoding")):
			chunked = bytes.EqualFold(value, []byte("chunked"))
		}
	}
	if !chunked {
		_, err := io.CopyN(body, in, int64(max(0, length)))
		return status, err
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return 0, err
		}
		size, err := strconv.ParseInt(string(bytes.TrimSpace([]byte(line))), 16, 32)
		if err != nil {
			return 0, err
		}
		if _, err := io.CopyN(body, in, size); err != nil {
			return 0, err
		}
		if _, err := in.Discard(2); err != nil {
			return 0, err
		}
		if size == 0 {
			return status, nil
		}
	}
}
