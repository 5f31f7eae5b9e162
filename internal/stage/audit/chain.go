package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/atlas-mcp/atlas"
)

// A position is a place in the chain: the record's number and hash. The zero position, with
// zeroHash, is before the first record.
type position struct {
	seq  uint64
	hash string
}

var origin = position{hash: zeroHash}

// maxLine bounds a line of the log.
const maxLine = 1 << 20

// A chain appends records to the log's files. It belongs to one goroutine; other processes are kept
// out by a file lock while it works.
type chain struct {
	path     string
	maxBytes int64
	head     Head
	guard    *fileLock
	log      *slog.Logger

	f          *os.File    // the active file; nil when it must be opened anew
	info       os.FileInfo // of f, when it was opened
	size       int64       // of f, as this chain left it
	first      uint64      // number of the first record in f; 0 if it is empty
	tail       position    // the last record
	dirtySince time.Time   // when the first record was written that is not yet synced; zero if none

	notes        []*atlas.AuditRecord // what happened to the log itself, to be recorded next
	rotateFailed bool                 // and that was logged

	recs         []*atlas.AuditRecord // for reuse
	buf, scratch []byte               // for reuse

	// For tests of a failing disk.
	writeTo func(*os.File, []byte) (int, error)
	syncTo  func(*os.File) error
}

func openChain(path string, maxBytes int64, head Head, log *slog.Logger) (*chain, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	guard, err := openLock(lockPath(path))
	if err != nil {
		return nil, err
	}
	c := &chain{
		path: path, maxBytes: maxBytes, head: head, guard: guard, log: log, tail: origin,
		writeTo: (*os.File).Write, syncTo: (*os.File).Sync,
	}
	// Loads the tail, so that what is wrong with it shows now; and writes down what was found.
	if _, err := c.write(nil, true); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *chain) dirty() bool { return !c.dirtySince.IsZero() }

func (c *chain) close() error {
	var err error
	if c.f != nil {
		err = c.f.Close()
		c.f = nil
	}
	return errors.Join(err, c.guard.close())
}

// write appends the records and, if durable, waits for the disk. written says whether they are in the
// file; if not, nothing is.
func (c *chain) write(recs []*atlas.AuditRecord, durable bool) (written bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := c.guard.lock(ctx, true); err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, c.guard.unlock()) }()
	if err := c.refresh(); err != nil {
		return false, err
	}
	if err := c.writeLines(recs); err != nil {
		return false, err
	}
	if durable && c.dirty() {
		if err := c.sync(); err != nil {
			return true, err
		}
	}
	if c.size >= c.maxBytes {
		c.rotate()
	}
	return true, nil
}

// writeLines appends the notes and the records in one write.
func (c *chain) writeLines(recs []*atlas.AuditRecord) error {
	if len(c.notes)+len(recs) == 0 {
		return nil
	}
	c.buf = c.buf[:0]
	pos := c.tail
	for _, part := range [][]*atlas.AuditRecord{c.notes, recs} {
		for _, r := range part {
			c.buf, c.scratch = seal(c.buf, c.scratch, r, pos.seq+1, pos.hash)
			pos = position{r.Seq, r.Hash}
		}
	}
	n, err := c.writeTo(c.f, c.buf)
	if err != nil {
		// Part of it may be there: take it out again, or find it as a torn line next time.
		if n > 0 {
			err = errors.Join(err, c.f.Truncate(c.size))
		}
		return errors.Join(err, c.forget())
	}
	if c.first == 0 {
		c.first = c.tail.seq + 1
	}
	c.size += int64(n)
	c.tail = pos
	c.notes = nil
	if !c.dirty() {
		c.dirtySince = time.Now()
	}
	if cap(c.buf) > 4<<20 {
		c.buf = nil
	}
	return nil
}

// sync waits for the disk and then moves the head: it never promises more than is there.
func (c *chain) sync() error {
	if err := c.syncTo(c.f); err != nil {
		return err
	}
	if err := c.head.Set(c.tail.seq, c.tail.hash); err != nil {
		return fmt.Errorf("remember the audit log's head: %w", err)
	}
	c.dirtySince = time.Time{}
	return nil
}

// rotate sets the full file aside. A failure is not one of the log: the file just grows.
func (c *chain) rotate() {
	err := c.sync()
	if err == nil {
		err = c.forget() // some systems do not rename open files
	}
	if err == nil {
		err = os.Rename(c.path, rotatedPath(c.path, c.first))
	}
	if err == nil {
		err = syncDir(filepath.Dir(c.path))
	}
	if err != nil && !c.rotateFailed {
		c.log.Error("audit log cannot be rotated; its file grows past max_bytes", "error", err)
	}
	c.rotateFailed = err != nil
}

// forget makes the next write load the tail from the file.
func (c *chain) forget() error {
	f := c.f
	c.f = nil
	if f == nil {
		return nil
	}
	return f.Close()
}

// refresh opens the active file if need be and learns its tail, if another process has written since.
func (c *chain) refresh() error {
	if c.f != nil {
		info, err := os.Stat(c.path)
		if err == nil && info.Size() == c.size && os.SameFile(info, c.info) {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := c.forget(); err != nil {
			return err
		}
	}
	if err := c.load(); err != nil {
		return errors.Join(err, c.forget())
	}
	return nil
}

// load opens the active file and finds the tail.
func (c *chain) load() error {
	known, remembered, err := c.known()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(c.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	c.f = f
	end, found, err := findTail(f)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(c.path), err)
	}
	tail := found.last
	if found.unreadable > 0 && tail == nil && known.seq == 0 { // nothing tells where the chain was
		return fmt.Errorf("%s: %w", filepath.Base(c.path), errNoTail)
	}
	torn, err := c.setAside(end)
	if err != nil {
		return err
	}
	if c.info, err = f.Stat(); err != nil {
		return err
	}
	c.size = end
	c.first = 0
	if tail == nil {
		if tail, err = c.rotatedTail(); err != nil {
			return err
		}
	} else if c.first, err = firstSeq(f); err != nil {
		c.first = tail.seq // only names the file later; Verify tells that the line is broken
	}
	c.tail = origin
	if tail != nil {
		c.tail = position{tail.seq, tail.hash}
	}
	if found.unreadable > 0 {
		// They stay where they are: a crash tears one line at most, so somebody wrote them.
		c.note("audit.unreadable_lines", fmt.Sprintf("%d after record %d", found.unreadable, c.tail.seq))
	}
	switch {
	case remembered:
	case tail != nil || torn || found.unreadable > 0:
		// What may have been cut off cannot be told any more, only that it cannot.
		c.note("audit.head_missing", fmt.Sprintf("after record %d", c.tail.seq))
	default:
		// A new log has a head before it has records, so that records without a head are always
		// the sign of one that was taken away, and never of a crash.
		if err := c.head.Set(origin.seq, origin.hash); err != nil {
			return fmt.Errorf("remember the audit log's head: %w", err)
		}
	}
	c.compare(known)
	return nil
}

// known returns the last position that this process or the head knows of, and whether there is a
// head.
func (c *chain) known() (p position, remembered bool, err error) {
	seq, hash, err := c.head.Get()
	if err != nil {
		return position{}, false, fmt.Errorf("read the audit log's head: %w", err)
	}
	if seq > c.tail.seq {
		return position{seq, hash}, true, nil
	}
	return c.tail, hash != "", nil
}

// compare notes records that are missing at the end. The chain then goes on from the last one
// known, so that the gap stays to be seen.
func (c *chain) compare(known position) {
	switch {
	case c.tail.seq < known.seq:
		c.note("audit.tail_missing", fmt.Sprintf("records %d to %d", c.tail.seq+1, known.seq))
		c.tail = known
	case c.tail.seq == known.seq && c.tail.hash != known.hash:
		c.note("audit.tail_rewritten", fmt.Sprintf("record %d", known.seq))
		c.tail = known
	}
}

// setAside moves what stands behind end into a file of its own and reports whether there was anything.
func (c *chain) setAside(end int64) (bool, error) {
	info, err := c.f.Stat()
	if err != nil || info.Size() == end {
		return false, err
	}
	name := fmt.Sprintf("%s.torn-%s", c.path, time.Now().UTC().Format("20060102T150405.000000000Z"))
	side, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // beside the log
	if err != nil {
		return false, err
	}
	_, err = io.Copy(side, io.NewSectionReader(c.f, end, info.Size()-end))
	if err = errors.Join(err, side.Sync(), side.Close(), syncDir(filepath.Dir(name))); err != nil {
		return false, errors.Join(err, os.Remove(name))
	}
	if err := errors.Join(c.f.Truncate(end), c.f.Sync()); err != nil {
		return false, err
	}
	c.note("audit.torn_tail", fmt.Sprintf("%d bytes set aside in %s", info.Size()-end, filepath.Base(name)))
	return true, nil
}

// note has the log tell of itself, here and in the operator's log.
func (c *chain) note(action, target string) {
	for _, n := range c.notes {
		if n.Action == action && n.Target == target {
			return // found again while the disk fails
		}
	}
	c.log.Error("audit log is damaged", "action", action, "target", target)
	c.notes = append(c.notes, &atlas.AuditRecord{
		Time: time.Now().UTC(), Kind: KindAdmin, Caller: "atlas", Status: StatusError, Transport: "internal",
		Action: action, Target: target,
	})
}

// rotatedTail returns the last record of the newest file set aside, or nil if there is none.
func (c *chain) rotatedTail() (*link, error) {
	names, err := rotated(c.path)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	name := names[len(names)-1]
	f, err := os.Open(name) //nolint:gosec // beside the log
	if err != nil {
		return nil, err
	}
	_, found, err := findTail(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(name), err)
	}
	return found.last, nil
}

var errNoTail = errors.New("the end of the log holds no sound record; verify it, move it away and start again")

// A tail is what the end of a file holds.
type tail struct {
	last       *link // the last sound record; nil if there is none
	unreadable int   // lines behind it that are no sound records and yet not torn
}

// findTail returns the tail of a file and where it ends: at the end of the file, or before a last line that a
// crash may have torn. It looks at the last two lines' worth of bytes only.
func findTail(f *os.File) (end int64, t tail, err error) {
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return 0, tail{}, err
	}
	from := max(0, info.Size()-2*maxLine)
	data := make([]byte, info.Size()-from)
	if _, err := f.ReadAt(data, from); err != nil {
		return 0, tail{}, err
	}
	size, t, err := lastRecord(data, from == 0)
	return from + int64(size), t, err
}

// lastRecord finds the tail in data, the end of a file or, if whole, all of it. Only the last line can
// be torn: lines are appended in order, so what stands before a line break was written whole.
func lastRecord(data []byte, whole bool) (end int, t tail, err error) {
	var scratch []byte
	end = len(data)
	for stop := end; stop > 0; {
		begin := bytes.LastIndexByte(data[:stop-1], '\n') + 1
		if begin == 0 && !whole { // the line may have begun before data
			if stop == len(data) {
				return 0, tail{}, errNoTail
			}
			break
		}
		if line, ended := bytes.CutSuffix(data[begin:stop], []byte("\n")); ended && len(line) > 0 {
			var l link
			if l, scratch, err = readLink(line, scratch); err == nil && l.sound {
				t.last = &l
				return end, t, nil
			}
		}
		if stop == len(data) {
			end = begin
		} else {
			t.unreadable++
		}
		stop = begin
	}
	return end, t, nil
}

// firstSeq returns the number of the file's first record.
func firstSeq(f *os.File) (uint64, error) {
	line, err := bufio.NewReader(io.NewSectionReader(f, 0, maxLine)).ReadBytes('\n')
	if err != nil {
		return 0, fmt.Errorf("first record: %w", err)
	}
	l, _, err := readLink(line[:len(line)-1], nil)
	if err != nil {
		return 0, fmt.Errorf("first record: %w", err)
	}
	return l.seq, nil
}
