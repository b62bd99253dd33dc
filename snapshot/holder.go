package snapshot

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

// holder says who has the lock of a directory, for an error: as much as /proc
// shows of it.
func holder(id fileID) string {
	pid := 0
	// The kernel skips lines while locks come and go between two reads.
	for try := 0; try < 20 && pid == 0; try++ {
		if try > 0 {
			time.Sleep(10 * time.Millisecond)
		}
		text, err := readOnce("/proc/locks")
		if err != nil {
			break
		}
		pid = lockPID(bytes.NewReader(text), id)
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

// readOnce reads a file of the kernel by as few reads as it takes.
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

// lockPID finds the process that locked a file in the text of /proc/locks, 0 if
// it is not there. A line is
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

// maxCommand is how much of a command line an error quotes, in characters.
const maxCommand = 200

// commandOf returns a process's command line, "" if it cannot be read. The
// process chose the text, so that only what prints is passed on.
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
