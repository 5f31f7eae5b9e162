package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// The reasons for a Fault.
const (
	ReasonUnreadable = "unreadable line"
	ReasonHash       = "hash mismatch"     // the record was changed
	ReasonPrev       = "prev mismatch"     // the record does not follow the one before
	ReasonSeq        = "sequence gap"      // records are missing or doubled
	ReasonStart      = "beginning missing" // the oldest records are not there
	ReasonTail       = "tail truncated"    // records known to the head are not there
	ReasonTorn       = "torn last line"    // the log does not end with a whole line
	ReasonHead       = "head mismatch"     // the record that the head knows has another hash: the log was rewritten
	ReasonNoHead     = "head missing"      // there are records but no head: whether the end was cut off cannot be told
)

// A Fault is one break of the chain.
type Fault struct {
	File   string `json:"file"`
	Line   int    `json:"line"`          // from 1; 0 when it is not about a line
	Seq    uint64 `json:"seq,omitempty"` // of the record, as far as it can be read, or that was expected
	Reason string `json:"reason"`
}

// String tells where and why.
func (f Fault) String() string {
	return fmt.Sprintf("%s:%d: record %d: %s", f.File, f.Line, f.Seq, f.Reason)
}

// maxFaults bounds how many faults are listed.
const maxFaults = 100

// A Report is what Verify found.
type Report struct {
	Files     int      `json:"files"`
	Records   int      `json:"records"`
	FirstSeq  uint64   `json:"first_seq"`
	LastSeq   uint64   `json:"last_seq"`
	LastHash  string   `json:"last_hash"`
	HeadSeq   uint64   `json:"head_seq"`              // as the head remembers it; 0 if it does not
	Faults    []Fault  `json:"faults,omitempty"`      // in order; the first 100
	Torn      []string `json:"torn_files,omitempty"`  // files with broken ends that were set aside
	Truncated bool     `json:"more_faults,omitempty"` // there are more faults
}

// OK reports whether the chain is whole.
func (r Report) OK() bool { return len(r.Faults) == 0 }

// A VerifyOptions says what a log may look like.
type VerifyOptions struct {
	// AllowMissingStart accepts a log whose oldest files were archived: the chain is then checked
	// from the oldest record there is.
	AllowMissingStart bool
	// AllowMissingHead accepts records without a head, such as a copy of a log or one of its older
	// files. Whether the end was cut off is then not checked.
	AllowMissingHead bool
}

// Verify checks the log at the path across its files, reading each byte once, and names what is
// broken, the first break first. A nil head is the one beside the log. The log may be in use.
//
// A chain proves that nothing was changed, removed or inserted by who cannot rewrite all that follows;
// the head shows a cut end (its own absence is a fault too) and, for who cannot write the head, a rewritten log.
func Verify(ctx context.Context, path string, head Head, opts VerifyOptions) (Report, error) {
	if head == nil {
		head = fileHead(headPath(path))
	}
	var rep Report
	// The head is read before the log, which may only have grown since.
	seq, hash, err := head.Get()
	if err != nil {
		return rep, fmt.Errorf("audit: head: %w", err)
	}
	rep.HeadSeq = seq
	parts, err := quiesce(ctx, path)
	if err != nil {
		return rep, fmt.Errorf("audit: %w", err)
	}
	defer closeParts(parts)
	noHead := hash == ""
	if noHead { // a log that was begun since has one by now
		_, hash, err := head.Get()
		if err != nil {
			return rep, fmt.Errorf("audit: head: %w", err)
		}
		noHead = hash == ""
	}
	if rep.Torn, err = torn(path); err != nil {
		return rep, fmt.Errorf("audit: %w", err)
	}
	v := verifier{rep: &rep, head: position{seq, hash}, opts: opts, at: origin}
	for _, p := range parts {
		if err := v.file(ctx, p); err != nil {
			return rep, fmt.Errorf("audit: %s: %w", p.name, err)
		}
	}
	rep.Files = len(parts)
	rep.LastSeq, rep.LastHash = v.at.seq, v.at.hash
	switch end := parts[len(parts)-1].name; {
	case v.at.seq < seq:
		v.fault(end, v.line, v.at.seq+1, ReasonTail)
	case noHead && rep.Records > 0 && !opts.AllowMissingHead:
		v.fault(end, v.line, v.at.seq+1, ReasonNoHead)
	}
	return rep, nil
}

// quiesce opens the log's files between two writes, if it can have the lock.
func quiesce(ctx context.Context, path string) ([]part, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	guard, err := openReadLock(lockPath(path))
	if err != nil { // a copy of a log, or an auditor who may only read
		return openParts(path)
	}
	if err := guard.lock(ctx, false); err != nil {
		return nil, errors.Join(err, guard.close())
	}
	parts, err := openParts(path)
	if err := errors.Join(err, guard.unlock(), guard.close()); err != nil {
		closeParts(parts)
		return nil, err
	}
	return parts, nil
}

type verifier struct {
	rep     *Report
	head    position
	opts    VerifyOptions
	at      position // the record before
	started bool
	lost    bool // the record before could not be read or trusted: do not blame this one for it
	line    int
	scratch []byte
}

func (v *verifier) fault(file string, line int, seq uint64, reason string) {
	if len(v.rep.Faults) == maxFaults {
		v.rep.Truncated = true
		return
	}
	v.rep.Faults = append(v.rep.Faults, Fault{file, line, seq, reason})
}

func (v *verifier) file(ctx context.Context, p part) error {
	r := bufio.NewReaderSize(io.NewSectionReader(p.f, 0, p.size), maxLine)
	for v.line = 1; ; v.line++ {
		if v.line%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		line, err := r.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF) && len(line) == 0:
			v.line--
			return nil
		case errors.Is(err, io.EOF):
			v.fault(p.name, v.line, v.at.seq+1, ReasonTorn)
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			v.fault(p.name, v.line, v.at.seq+1, ReasonUnreadable)
			v.lost = true
			if err := skipLine(r); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		v.record(p.name, bytes.TrimSuffix(line, []byte("\n")))
	}
}

func skipLine(r *bufio.Reader) error {
	for {
		_, err := r.ReadSlice('\n')
		if err == nil || errors.Is(err, io.EOF) {
			return nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}

// record checks one line.
func (v *verifier) record(file string, line []byte) {
	var l link
	err := errNoLink
	if len(line) > 0 {
		l, v.scratch, err = readLink(line, v.scratch)
	}
	if err != nil {
		v.fault(file, v.line, v.at.seq+1, ReasonUnreadable)
		v.lost = true
		v.at.seq++
		return
	}
	v.rep.Records++
	lost := v.lost
	if !v.started {
		v.started = true
		v.rep.FirstSeq = l.seq
		if l.seq != 1 && l.sound {
			if !v.opts.AllowMissingStart {
				v.fault(file, v.line, l.seq, ReasonStart)
			}
			v.at, lost = position{l.seq - 1, l.prev}, false
		}
	}
	v.lost = false
	switch {
	case !l.sound:
		v.fault(file, v.line, v.at.seq+1, ReasonHash)
		// Neither its number nor its hash can be believed.
		v.at.seq++
		v.lost = true
		return
	case l.seq != v.at.seq+1:
		v.fault(file, v.line, l.seq, ReasonSeq)
	case !lost && l.prev != v.at.hash:
		v.fault(file, v.line, l.seq, ReasonPrev)
	}
	v.at = position{l.seq, l.hash}
	if l.seq == v.head.seq && l.hash != v.head.hash {
		v.fault(file, v.line, l.seq, ReasonHead)
	}
}
