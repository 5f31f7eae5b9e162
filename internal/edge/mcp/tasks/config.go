package tasks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/atlas-mcp/atlas"
)

// Config sets up a Manager. The bounds hold for one process.
type Config struct {
	TTL          time.Duration `yaml:"ttl"`           // how long a task is kept beyond its longest run; default 15m
	PollInterval time.Duration `yaml:"poll_interval"` // that clients are told; default 1s
	Lease        time.Duration `yaml:"lease"`         // how long after a process died its tasks still look alive; default 30s

	MaxResult int   `yaml:"max_result"` // bytes of one task's result; default 256 KiB
	MaxKept   int64 `yaml:"max_kept"`   // bytes of all results of one caller; default 8 MiB

	// Tasks that run now. A call that finds no place runs as if its client knew no tasks.
	MaxRunning       int `yaml:"max_running"`        // of one caller; default 16
	MaxRunningTenant int `yaml:"max_running_tenant"` // of all callers of one home tenant; default 64
	MaxRunningTotal  int `yaml:"max_running_total"`  // default 256

	// Tasks that are kept, those that have ended too.
	MaxTasks       int `yaml:"max_tasks"`        // of one caller; default 256
	MaxTasksTenant int `yaml:"max_tasks_tenant"` // of all callers of one home tenant; default 2000
	MaxTasksTotal  int `yaml:"max_tasks_total"`  // default 10000
}

// Validate reports all mistakes.
func (c Config) Validate() error {
	var errs []error
	for _, f := range []struct {
		name     string
		value    time.Duration
		at, most time.Duration
	}{
		{"ttl", c.TTL, time.Second, 7 * 24 * time.Hour},
		{"poll_interval", c.PollInterval, 10 * time.Millisecond, time.Minute},
		{"lease", c.Lease, time.Second, 10 * time.Minute},
	} {
		if f.value != 0 && (f.value < f.at || f.value > f.most) {
			errs = append(errs, fmt.Errorf("%s is %v; must be between %v and %v", f.name, f.value, f.at, f.most))
		}
	}
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"max_result", int64(c.MaxResult)},
		{"max_kept", c.MaxKept},
		{"max_running", int64(c.MaxRunning)},
		{"max_running_tenant", int64(c.MaxRunningTenant)},
		{"max_running_total", int64(c.MaxRunningTotal)},
		{"max_tasks", int64(c.MaxTasks)},
		{"max_tasks_tenant", int64(c.MaxTasksTenant)},
		{"max_tasks_total", int64(c.MaxTasksTotal)},
	} {
		if f.value < 0 {
			errs = append(errs, fmt.Errorf("%s must not be negative", f.name))
		}
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	c.TTL = cmp.Or(c.TTL, 15*time.Minute)
	c.PollInterval = cmp.Or(c.PollInterval, time.Second)
	c.Lease = cmp.Or(c.Lease, 30*time.Second)
	c.MaxResult = cmp.Or(c.MaxResult, 256<<10)
	c.MaxKept = cmp.Or(c.MaxKept, 8<<20)
	c.MaxRunning = cmp.Or(c.MaxRunning, 16)
	c.MaxRunningTenant = cmp.Or(c.MaxRunningTenant, 64)
	c.MaxRunningTotal = cmp.Or(c.MaxRunningTotal, 256)
	c.MaxTasks = cmp.Or(c.MaxTasks, 256)
	c.MaxTasksTenant = cmp.Or(c.MaxTasksTenant, 2000)
	c.MaxTasksTotal = cmp.Or(c.MaxTasksTotal, 10_000)
	return c
}

// A Store keeps values under compare-and-set, by the contract of internal/state.KV. The manager
// puts the tenant into the name of each space.
type Store interface {
	Get(ctx context.Context, space, key string) (value []byte, version int64, err error)
	CompareAndSet(ctx context.Context, space, key string, version int64, value []byte, expires time.Time) (int64, error)
	CompareAndDelete(ctx context.Context, space, key string, version int64) (bool, error)
}

// Deps are what a Manager works with. Handler, Store and Tool are needed.
type Deps struct {
	Handler atlas.Handler // the pipeline
	Store   Store
	// Tool finds the tool that the call names, if its caller may see it: the registry's view, so that
	// nothing here tells a hidden tool from one that does not exist.
	Tool func(atlas.Call) (*atlas.Tool, bool)
	// Admit is asked before the store is, about every get, update and cancel: these are no calls of the
	// pipeline, whose limits would hold a caller back. It may be nil.
	Admit func(context.Context, atlas.Call) error
	// Cancelled is told of each task that its caller has cancelled, for the audit log. It may be nil.
	Cancelled func(ctx context.Context, call atlas.Call, id string)
	Log       *slog.Logger
}
