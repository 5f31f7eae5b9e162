package sqlitefile

import (
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"modernc.org/libc"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// Bounds of what statements of readers may write to temporary files, which is where SQLite puts
// what it sorts, groups, joins or makes distinct beyond a few MiB.
const (
	// SpillLimit is for one connection, and so for one statement, in bytes.
	SpillLimit = 64 << 20
	// spillFiles is for one connection: files open at once, for descriptors are scarce too.
	spillFiles = 32
	// spillTotal is for all connections of the process, in bytes.
	spillTotal = 1 << 30
	// spillReserve is what a connection may write though spillTotal is used up, in bytes: callers
	// who fill the disk must not stop the small statements of others.
	spillReserve = 1 << 20
)

// spillCode is what a write beyond the bounds fails with: an extended result code of our own, which
// SQLite hands through as it does those of any VFS. Its primary code is about the statement
// (SQLITE_FULL would be about the disk, and make SQLite roll back what else the connection does).
const spillCode = sqlite3.SQLITE_TOOBIG | 0x41<<8

// Spilled reports whether a statement failed for what it wrote to temporary files.
func Spilled(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code() == spillCode
}

// spillVFS is the name of the VFS of readers.
const spillVFS = "atlas-reader"

// spill is the platform's VFS but for the bounds on temporary files. SQLite has no limit of its own
// for them: max_page_count holds for the temporary database only, and the heap limit, which would
// do with temporary files in memory, is compiled out, can be turned on only before anything
// initializes the library (sqlite-vec does, on import), and is one limit for everybody's statements,
// the state store's too.
//
// Like the library's functions, a VFS is the process's and is never taken away.
var spill = sync.OnceValue(registerSpill)

// spilled are the temporary files that are open.
var spilled = spillBook{files: map[uintptr]spillFile{}, owners: map[int32]spillUse{}}

// A spillBook counts what is in temporary files. A file counts with its greatest size.
type spillBook struct {
	mu    sync.Mutex
	total int64
	files map[uintptr]spillFile // by sqlite3_file
	// owners are those with open files.
	owners map[int32]spillUse
}

// A spillUse is what one owner has.
type spillUse struct {
	files int
	bytes int64
}

// A spillFile is a temporary file. Its owner is the number of the C thread that opened it, of which
// the driver has one for each connection.
type spillFile struct {
	owner int32
	size  int64
}

// open reports whether the owner may have one more file, and counts it.
func (b *spillBook) open(file uintptr, owner int32) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	use := b.owners[owner]
	if use.files++; use.files > spillFiles {
		return false
	}
	b.owners[owner] = use
	b.files[file] = spillFile{owner: owner}
	return true
}

// grow reports whether the file may grow to end, and counts it.
func (b *spillBook) grow(file uintptr, end int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, ok := b.files[file]
	more := end - f.size
	if !ok || more <= 0 {
		return ok
	}
	use := b.owners[f.owner]
	use.bytes += more
	if use.bytes > SpillLimit || b.total+more > spillTotal && use.bytes > spillReserve {
		return false
	}
	f.size = end
	b.files[file] = f
	b.owners[f.owner] = use
	b.total += more
	return true
}

func (b *spillBook) close(file uintptr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f, ok := b.files[file]
	if !ok {
		return
	}
	delete(b.files, file)
	b.total -= f.size
	use := b.owners[f.owner]
	use.bytes -= f.size
	if use.files--; use.files == 0 {
		delete(b.owners, f.owner)
		return
	}
	b.owners[f.owner] = use
}

// The platform's VFS, which does not change once ours is registered, and the I/O methods of its
// temporary files, of which there are one or two kinds, with ours that take the place of them.
var (
	platform  uintptr // *sqlite3_vfs
	openFile  uintptr // its xOpen
	methodsMu sync.RWMutex
	methods   = map[uintptr]uintptr{} // our copy of sqlite3_io_methods by the platform's
	originals = map[uintptr]uintptr{} // the other way round
)

func registerSpill() error {
	tls := libc.NewTLS()
	defer tls.Close()
	platform = sqlite3.Xsqlite3_vfs_find(tls, 0)
	if platform == 0 {
		return errors.New("SQLite has no VFS")
	}
	size := unsafe.Sizeof(sqlite3.Tsqlite3_vfs{})
	p := libc.Xmalloc(tls, libc.Tsize_t(size))
	if p == 0 {
		return errors.New("no memory for a VFS")
	}
	name, err := libc.CString(spillVFS)
	if err != nil {
		libc.Xfree(tls, p)
		return err
	}
	v := at[sqlite3.Tsqlite3_vfs](p)
	*v = *at[sqlite3.Tsqlite3_vfs](platform)
	openFile = v.FxOpen
	v.FzName, v.FpNext, v.FxOpen = name, 0, pointer(spillOpen)
	if rc := sqlite3.Xsqlite3_vfs_register(tls, p, 0); rc != sqlite3.SQLITE_OK {
		libc.Xfree(tls, name)
		libc.Xfree(tls, p)
		return fmt.Errorf("register VFS: SQLite code %d", rc)
	}
	return nil
}

// spillOpen is xOpen. Only temporary files are deleted on closing.
func spillOpen(tls *libc.TLS, _, name, file uintptr, flags int32, outFlags uintptr) int32 {
	rc := function[func(*libc.TLS, uintptr, uintptr, uintptr, int32, uintptr) int32](openFile)(tls, platform, name, file, flags, outFlags)
	f := at[sqlite3.Tsqlite3_file](file)
	if rc != sqlite3.SQLITE_OK || flags&sqlite3.SQLITE_OPEN_DELETEONCLOSE == 0 || f.FpMethods == 0 {
		return rc
	}
	ours := bounded(tls, f.FpMethods)
	switch {
	case ours == 0:
		rc = sqlite3.SQLITE_NOMEM
	case !spilled.open(file, tls.ID):
		rc = spillCode
	default:
		f.FpMethods = ours
		return rc
	}
	function[func(*libc.TLS, uintptr) int32](at[sqlite3.Tsqlite3_io_methods](f.FpMethods).FxClose)(tls, file)
	f.FpMethods = 0
	return rc
}

// bounded returns the I/O methods m with ours for writing and closing; 0 without memory for them.
func bounded(tls *libc.TLS, m uintptr) uintptr {
	methodsMu.Lock()
	defer methodsMu.Unlock()
	if ours, ok := methods[m]; ok {
		return ours
	}
	p := libc.Xmalloc(tls, libc.Tsize_t(unsafe.Sizeof(sqlite3.Tsqlite3_io_methods{})))
	if p == 0 {
		return 0
	}
	o := at[sqlite3.Tsqlite3_io_methods](p)
	*o = *at[sqlite3.Tsqlite3_io_methods](m)
	// Version 1 has no mapping into memory, by which a file could be written past xWrite.
	o.FiVersion, o.FxWrite, o.FxClose = 1, pointer(spillWrite), pointer(spillClose)
	methods[m], originals[p] = p, m
	return p
}

func original(file uintptr) *sqlite3.Tsqlite3_io_methods {
	methodsMu.RLock()
	defer methodsMu.RUnlock()
	return at[sqlite3.Tsqlite3_io_methods](originals[at[sqlite3.Tsqlite3_file](file).FpMethods])
}

// spillWrite is xWrite.
func spillWrite(tls *libc.TLS, file, data uintptr, n int32, offset int64) int32 {
	if !spilled.grow(file, offset+int64(n)) {
		return spillCode
	}
	return function[func(*libc.TLS, uintptr, uintptr, int32, int64) int32](original(file).FxWrite)(tls, file, data, n, offset)
}

// spillClose is xClose.
func spillClose(tls *libc.TLS, file uintptr) int32 {
	closeFile := original(file).FxClose
	spilled.close(file)
	return function[func(*libc.TLS, uintptr) int32](closeFile)(tls, file)
}

// The library is C translated to Go: its memory lies outside of Go's heap, and its pointers to
// functions are those of Go. What follows is how the library itself writes them.

func at[T any](p uintptr) *T { return *(**T)(unsafe.Pointer(&p)) } //nolint:gosec // see above

// function returns the function at p.
func function[F any](p uintptr) F { return *(*F)(unsafe.Pointer(&p)) } //nolint:gosec // see above

// pointer returns what C calls f, a function at top level, by.
func pointer[F any](f F) uintptr { return *(*uintptr)(unsafe.Pointer(&f)) } //nolint:gosec // see above
