package store

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/sys/unix"
)

// holder describes the process that holds the lock of a directory, for an error. The
// description depends on what /proc shows to this process.
func holder(id fileID, path string) string {
	pid := 0
	if text, err := readOnce("/proc/locks"); err == nil {
		pid = lockPID(bytes.NewReader(text), id)
	}
	if pid == 0 {
		pid = openedBy(id, filepath.Base(path)) // some kernels and file systems do not list the lock
	}
	switch {
	case pid <= 0:
		return "another process"
	case pid == os.Getpid():
		return fmt.Sprintf("this process (pid %d)", pid)
	}
	if command := commandOf(pid); command != "" {
		return fmt.Sprintf("process %d (%s)", pid, command)
	}
	return fmt.Sprintf("process %d", pid)
}

// readOnce reads a file of /proc with as few reads as possible, so that the content is
// consistent.
func readOnce(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text := bytes.NewBuffer(make([]byte, 0, 256<<10))
	_, err = text.ReadFrom(io.LimitReader(f, 16<<20))
	return text.Bytes(), err
}

// openedBy returns the pid of another process that has the file open, as the holder of
// a lock has. It returns 0 if it finds none, for example because this process may not
// look at the other. It only examines open files with that name, because stat of a file
// on an unreachable network file system would block.
func openedBy(id fileID, name string) int {
	processes, err := os.ReadDir("/proc")
	if err != nil {
		return 0
	}
	for _, p := range processes {
		pid, err := strconv.Atoi(p.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := "/proc/" + p.Name() + "/fd/"
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // the process has ended, or belongs to another user
		}
		for _, fd := range fds {
			link, err := os.Readlink(dir + fd.Name())
			if err != nil || filepath.Base(link) != name {
				continue
			}
			var is unix.Stat_t
			if unix.Stat(dir+fd.Name(), &is) == nil && is.Dev == id.dev && is.Ino == id.ino {
				return pid
			}
		}
	}
	return 0
}

// lockPID returns the pid of the process that locked a file, from the text of
// /proc/locks. It returns 0 if the lock is not listed. A line is
//
//	1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
func lockPID(text io.Reader, id fileID) (pid int) {
	want := fmt.Sprintf("%02x:%02x:%d", unix.Major(id.dev), unix.Minor(id.dev), id.ino)
	for lines := bufio.NewScanner(text); lines.Scan(); {
		field := strings.Fields(lines.Text())
		if len(field) < 6 || field[1] != "FLOCK" || field[5] != want {
			continue
		}
		if _, err := fmt.Sscan(field[4], &pid); err == nil {
			return pid
		}
	}
	return 0
}

// maxCommand is the largest number of characters of a command line in an error.
const maxCommand = 200

// commandOf returns the command line of a process, or "" if it cannot be read. It
// replaces characters that are not printable, because the process chose the text.
func commandOf(pid int) string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, 4*maxCommand))
	if err != nil {
		return ""
	}
	raw = bytes.TrimRight(raw, "\x00")
	text := []rune(strings.ToValidUTF8(string(raw), "?"))
	for i, c := range text {
		if c == 0 {
			text[i] = ' '
		} else if !unicode.IsPrint(c) {
			text[i] = '?'
		}
	}
	if len(text) > maxCommand {
		return string(text[:maxCommand]) + "..."
	}
	return string(text)
}
