package config

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long files must be quiet before a change is taken up: editors and Kubernetes write
// in several steps.
const settle = 200 * time.Millisecond

// Watch calls changed after one of the files was changed, until ctx ends. It watches the folders,
// not the files: editors replace files by renaming, and Kubernetes swaps a symbolic link.
func Watch(ctx context.Context, files []string, log *slog.Logger, changed func()) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch configuration: %w", err)
	}
	defer watcher.Close() //nolint:errcheck // nothing is lost with a watcher
	dirs := map[string]bool{}
	for _, f := range files {
		dirs[filepath.Dir(f)] = true
	}
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		if err := watcher.Add(dir); err != nil {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
	}
	timer := time.NewTimer(settle)
	timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event, ok := <-watcher.Events:
			if !ok {
				return nil
			}
			if !event.Has(fsnotify.Chmod) {
				timer.Reset(settle)
			}
		case err, ok := <-watcher.Errors:
			if !ok {
				return nil
			}
			log.WarnContext(ctx, "watch configuration", "error", err)
		case <-timer.C:
			changed()
		}
	}
}
