package config

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long files must be quiet before a change is taken up: editors and Kubernetes
	// write in several steps.
	settle = 200 * time.Millisecond
	// longestWait bounds settle: whoever keeps writing must not hold back a revoked right.
	longestWait = 2 * time.Second
	// checkEvery is how often the watch itself is checked. Nothing tells of a folder further up that
	// was replaced, so it must be looked at.
	checkEvery = 2 * time.Second
	// retryFirst is the first wait for a lost folder; it doubles up to checkEvery.
	retryFirst = 50 * time.Millisecond
)

// Watch calls changed after one of the files was changed, or a YAML file beside them came, went or
// was changed, until ctx ends. It calls once the files are quiet, but never later than two seconds
// after the first change that it has not told of. Calls do not overlap.
//
// It watches folders, not files: editors replace files by renaming, and Kubernetes swaps a symbolic
// link. A folder that is itself replaced is followed; one that is gone is an error in the log, and
// changed is called when it is back. An error is returned only if a folder cannot be watched at first.
func Watch(ctx context.Context, files []string, log *slog.Logger, changed func()) error {
	fsw, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch configuration: %w", err)
	}
	defer fsw.Close() //nolint:errcheck // nothing is lost with a watcher
	w := &watch{fsw: fsw, log: log, held: map[string]os.FileInfo{}}
	if err := w.start(ctx, files); err != nil {
		return err
	}
	w.settled = time.NewTimer(settle)
	w.settled.Stop()
	defer w.settled.Stop()
	w.next = time.NewTimer(checkEvery)
	defer w.next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event, ok := <-fsw.Events:
			if !ok {
				return nil
			}
			w.see(ctx, event)
		case err, ok := <-fsw.Errors:
			if !ok {
				return nil
			}
			log.WarnContext(ctx, "watch configuration", "error", err)
			if errors.Is(err, fsnotify.ErrEventOverflow) { // what was dropped may have been ours
				w.touch()
				w.check(ctx)
			}
		case <-w.next.C:
			w.check(ctx)
		case <-w.settled.C:
			w.first = time.Time{}
			w.check(ctx) // a replaced folder must be held before its files are read
			changed()
		}
	}
}

// watch is the state of one Watch; only its goroutine uses it.
type watch struct {
	fsw *fsnotify.Watcher
	log *slog.Logger

	files   []string // absolute, as configured
	folders []*folder

	held  map[string]os.FileInfo // what is watched: real path and identity
	names map[string]bool        // real names of the files, where links lead too
	ways  map[string]bool        // real names that lead to a folder

	first   time.Time // of the first change not told of; zero if there is none
	settled *time.Timer
	next    *time.Timer
	retry   time.Duration // wait before the next check while a folder is lost
}

// folder is a folder that holds configured files.
type folder struct {
	path string      // absolute, as configured
	real string      // without links; empty while it is not there
	id   os.FileInfo // identity of what is watched; nil while it is lost
}

func (w *watch) start(ctx context.Context, files []string) error {
	seen := map[string]bool{}
	for _, f := range files {
		abs, err := filepath.Abs(f)
		if err != nil {
			return fmt.Errorf("watch %s: %w", f, err)
		}
		w.files = append(w.files, abs)
		if dir := filepath.Dir(abs); !seen[dir] {
			seen[dir] = true
			w.folders = append(w.folders, &folder{path: dir})
		}
	}
	failed := w.hold()
	for _, f := range w.folders {
		if f.id = w.held[f.real]; f.id == nil {
			return fmt.Errorf("watch %s: %w", f.path, cause(failed, f))
		}
	}
	w.log.DebugContext(ctx, "watching configuration", "folders", len(w.folders))
	return nil
}

// see judges one event. Others may write beside our files: what is none of our business must
// neither cause a reload nor put one off.
func (w *watch) see(ctx context.Context, event fsnotify.Event) {
	if event.Name == "" || event.Op == fsnotify.Chmod {
		return
	}
	name := filepath.Clean(event.Name) // the root folder gives "//name"
	base := filepath.Base(name)
	_, self := w.held[name]
	// Kubernetes moves "..data" to the new files.
	swap := strings.HasPrefix(base, "..")
	if self || swap || w.ways[name] {
		w.check(ctx)
	}
	if w.names[name] || w.inFolder(name) && (swap || isYAML(base)) {
		w.touch()
	}
}

func (w *watch) inFolder(name string) bool {
	dir := filepath.Dir(name)
	return slices.ContainsFunc(w.folders, func(f *folder) bool { return f.real == dir })
}

func isYAML(name string) bool {
	ext := strings.ToLower(filepath.Ext(name))
	return ext == ".yaml" || ext == ".yml"
}

// touch notes a change: it is told of when it is quiet, or when the first one has waited enough.
func (w *watch) touch() {
	now := time.Now()
	if w.first.IsZero() {
		w.first = now
	}
	w.settled.Reset(max(0, min(settle, longestWait-now.Sub(w.first))))
}

// check brings the watch in line with what the paths lead to now.
func (w *watch) check(ctx context.Context) {
	before := w.names
	failed := w.hold()
	for name := range w.names {
		if !before[name] { // a link on the way was turned
			w.touch()
			break
		}
	}
	lost := false
	for _, f := range w.folders {
		now, was := w.held[f.real], f.id
		f.id = now
		switch {
		case now == nil:
			lost = true
			if was != nil {
				w.log.ErrorContext(ctx, "configuration folder lost; changes are not seen until it is back",
					"folder", f.path, "error", cause(failed, f))
			}
		case was == nil:
			w.log.InfoContext(ctx, "configuration folder is back", "folder", f.path)
			w.touch()
		case now != was: // replaced between two looks
			w.log.InfoContext(ctx, "configuration folder replaced; the new one is watched", "folder", f.path)
			w.touch()
		}
	}
	wait := checkEvery
	if lost {
		w.retry = min(max(retryFirst, 2*w.retry), checkEvery)
		wait = w.retry
	} else {
		w.retry = 0
	}
	w.next.Reset(wait)
}

// hold watches what should be watched and drops what no longer is: the folders, their parents
// (where a replaced folder shows) and the folders that links of files lead to. It returns why a real
// path is not held. The identity in held stays the same value as long as the watch is the same.
func (w *watch) hold() (failed map[string]error) {
	want := map[string]os.FileInfo{}
	failed = map[string]error{}
	w.names, w.ways = map[string]bool{}, map[string]bool{}
	for _, f := range w.folders {
		f.real = wanted(want, failed, f.path)
		if parent := wanted(want, failed, filepath.Dir(f.path)); parent != "" {
			w.ways[filepath.Join(parent, filepath.Base(f.path))] = true
		}
	}
	for _, file := range w.files {
		if dir := wanted(want, failed, filepath.Dir(file)); dir != "" {
			w.names[filepath.Join(dir, filepath.Base(file))] = true
		}
		if target, err := filepath.EvalSymlinks(file); err == nil {
			if dir := wanted(want, failed, filepath.Dir(target)); dir != "" {
				w.names[filepath.Join(dir, filepath.Base(target))] = true
			}
		}
	}

	// The list tells of folders that were removed and made anew with the same inode.
	watched := w.fsw.WatchList()
	for target, id := range w.held {
		if now := want[target]; now == nil || !os.SameFile(now, id) || !slices.Contains(watched, target) {
			_ = w.fsw.Remove(target) // it may be gone already
			delete(w.held, target)
		}
	}
	for target, id := range want {
		if w.held[target] != nil {
			continue
		}
		if err := w.fsw.Add(target); err != nil {
			failed[target] = err
			continue
		}
		if now, err := os.Stat(target); err != nil || !os.SameFile(now, id) { // replaced meanwhile
			_ = w.fsw.Remove(target)
			failed[target] = fs.ErrNotExist
			continue
		}
		w.held[target] = id
	}
	return failed
}

// wanted adds the folder to want and returns its real path. A folder that is there twice, by a bind
// mount, has one watch: the kernel would give both the same.
func wanted(want map[string]os.FileInfo, failed map[string]error, path string) string {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		failed[path] = err
		return ""
	}
	id, err := os.Stat(target)
	if err != nil {
		failed[path] = err
		return ""
	}
	if want[target] != nil {
		return target
	}
	for other, o := range want {
		if os.SameFile(id, o) {
			return other
		}
	}
	want[target] = id
	return target
}

func cause(failed map[string]error, f *folder) error {
	if err := failed[f.real]; err != nil {
		return err
	}
	return failed[f.path]
}
