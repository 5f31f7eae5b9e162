package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// tick is the unit of processor times in /proc: 1/USER_HZ, which is 100 on every processor that Go has.
const tick = 10 * time.Millisecond

// processStats returns what the kernel tells of a process (proc(5)): the time that it has kept processors
// busy, and the memory that it holds.
func processStats(pid int) stats {
	var st stats
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return st // it has ended, which its wait tells
	}
	// Its name, in parentheses, may hold anything.
	fields := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	number := func(i int) int64 { // i counts as the manual does, from the state, which is 3
		if i-3 >= len(fields) {
			return 0
		}
		n, err := strconv.ParseInt(string(fields[i-3]), 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	st.CPU = time.Duration(number(14)+number(15)) * tick
	st.RSS = number(24) * int64(os.Getpagesize())
	return st
}

// tie ends the process when the thread that starts it ends, in whatever way; see prctl(2).
func tie(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
