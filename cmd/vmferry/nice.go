package main

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// niceness of a relay: guests go first.
const niceness = 5

// lowerPriority makes this process less important than the guests of its host. Linux
// keeps a priority for each thread; new threads inherit that of their creator.
func lowerPriority() {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, task := range tasks {
		if tid, err := strconv.Atoi(task.Name()); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, tid, niceness) // it only helps
		}
	}
}
