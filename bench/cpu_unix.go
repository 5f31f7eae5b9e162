//go:build unix

package main

import (
	"syscall"
	"time"
)

// processorTime returns how long this process has kept processors busy so far, the kernel's work for
// it included.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
