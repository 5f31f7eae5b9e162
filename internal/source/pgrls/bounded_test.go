package pgrls

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"
)

// readers cut a stream into pieces in several ways.
var readers = map[string]func(io.Reader) io.Reader{
	"whole": func(r io.Reader) io.Reader { return r },
	"bytes": iotest.OneByteReader,
	"half":  iotest.HalfReader,
	"error": iotest.DataErrReader,
}

// What is short passes as it is; what is long is replaced by one error.
func TestBounded(t *testing.T) {
	message := func(kind byte, body int) []byte {
		n := body + 4
		return append([]byte{kind, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, bytes.Repeat([]byte{kind}, body)...)
	}
	for _, sizes := range [][]int{{}, {0}, {3, 0, 100, 7}, {101}, {100, 101, 100}, {500_000, 1, 0, 200, 200, 99}, {0, 0, 0, 101, 0}} {
		var in, want []byte
		for i, size := range sizes {
			m := message('A'+byte(i), size)
			in = append(in, m...)
			if size > 100 {
				m = refusal
			}
			want = append(want, m...)
		}
		for name, cut := range readers {
			got, err := io.ReadAll(&bounded{r: cut(bytes.NewReader(in)), max: 100})
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%v, %s: got %q, %v; want %q", sizes, name, got, err, want)
			}
		}
	}
	if _, err := io.ReadAll(&bounded{r: iotest.ErrReader(io.ErrClosedPipe), max: 100}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
}

// No stream of bytes makes it hold more than a message, or run on.
func FuzzBounded(f *testing.F) {
	f.Add([]byte("Z\x00\x00\x00\x05I"))
	f.Add([]byte("D\xff\xff\xff\xffxxxx"))
	f.Add([]byte("D\x00\x00\x00\x00D\x00\x00\x00\x03"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var last []byte
		for name, cut := range readers {
			b := &bounded{r: cut(bytes.NewReader(in)), max: 16}
			got, err := io.ReadAll(io.LimitReader(b, int64(len(in))*100+1000))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if last != nil && !bytes.Equal(got, last) {
				t.Errorf("%s: got %q, but %q before", name, got, last)
			}
			last = got
		}
	})
}
