package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A sample is what one round of load measured.
type sample struct {
	calls     int64
	failed    int64
	elapsed   time.Duration
	latency   *hdrhistogram.Histogram // microseconds
	allocs    float64                 // server heap allocations per call
	bytes     float64                 // server heap bytes per call
	cpu       time.Duration           // server processor time per call; 0 where it cannot be told
	clientCPU time.Duration           // of this process, per call
	rss       float64                 // bytes of memory that the server holds; 0 where it cannot be told
	firstBad  string
}

func newSample() sample {
	return sample{latency: hdrhistogram.New(1, 60_000_000, 3)}
}

func (s *sample) rate() float64 { return float64(s.calls) / s.elapsed.Seconds() }

// answered counts an answer and looks whether it is right.
func (s *sample) answered(a *answerReader, took time.Duration, want []byte) error {
	if err := s.latency.RecordValue(max(1, took.Microseconds())); err != nil {
		return err
	}
	s.calls++
	if a.status != 200 || !bytes.Contains(a.body, want) {
		s.failed++
		if s.firstBad == "" {
			s.firstBad = fmt.Sprintf("%d %.300s", a.status, a.body)
		}
	}
	return nil
}

// An answerReader takes one answer of HTTP/1.1 after the other from the bytes of a connection. It
// knows just enough to find the end of an answer, and keeps its buffers.
type answerReader struct {
	buf    []byte // what was received and not yet taken
	n      int
	status int
	body   []byte // of the answer that take returned; valid until the next space
	joined []byte // the body of an answer in chunks
}

// space returns where to receive more.
func (r *answerReader) space() []byte {
	if len(r.buf)-r.n < 4096 {
		r.buf = append(make([]byte, 0, 2*len(r.buf)+16384), r.buf[:r.n]...)
		r.buf = r.buf[:cap(r.buf)]
	}
	return r.buf[r.n:]
}

// take reports whether the n bytes more complete an answer. Requests are not pipelined, so nothing may
// follow it.
func (r *answerReader) take(n int) (bool, error) {
	r.n += n
	have := r.buf[:r.n]
	end := bytes.Index(have, []byte("\r\n\r\n"))
	if end < 0 {
		return false, nil
	}
	length, chunked, err := r.head(have[:end])
	if err != nil {
		return false, err
	}
	rest := have[end+4:]
	size := 0
	if chunked {
		if size, err = r.join(rest); size < 0 || err != nil {
			return false, err
		}
		r.body = r.joined
	} else {
		if len(rest) < length {
			return false, nil
		}
		size, r.body = length, rest[:length]
	}
	if size != len(rest) {
		return false, fmt.Errorf("%d bytes follow the answer", len(rest)-size)
	}
	r.n = 0
	return true, nil
}

var (
	contentLength    = []byte("content-length")
	transferEncoding = []byte("transfer-encoding")
)

// head reads the status line and the two fields that say where the body ends.
func (r *answerReader) head(head []byte) (length int, chunked bool, err error) {
	line, head, _ := bytes.Cut(head, []byte("\r\n"))
	if len(line) < 12 {
		return 0, false, fmt.Errorf("odd status line %q", line)
	}
	if r.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, false, err
	}
	length = -1
	for len(head) > 0 {
		line, head, _ = bytes.Cut(head, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case len(name) == len(contentLength) && bytes.EqualFold(name, contentLength):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil || length < 0 {
				return 0, false, fmt.Errorf("odd Content-Length %q", value)
			}
		case len(name) == len(transferEncoding) && bytes.EqualFold(name, transferEncoding):
			chunked = bytes.EqualFold(bytes.TrimSpace(value), []byte("chunked"))
		}
	}
	if length < 0 && !chunked {
		return 0, false, errors.New("an answer without length")
	}
	return length, chunked, nil
}

// join puts the chunks together and returns how many bytes they took, or -1 if the last is not there yet.
func (r *answerReader) join(in []byte) (int, error) {
	r.joined = r.joined[:0]
	at := 0
	for {
		line := bytes.Index(in[at:], []byte("\r\n"))
		if line < 0 {
			return -1, nil
		}
		size, err := strconv.ParseUint(string(in[at:at+line]), 16, 31)
		if err != nil {
			return 0, err
		}
		at += line + 2
		if len(in) < at+int(size)+2 {
			return -1, nil
		}
		r.joined = append(r.joined, in[at:at+int(size)]...)
		at += int(size) + 2
		if size == 0 {
			return at, nil
		}
	}
}
