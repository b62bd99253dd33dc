package qemutest

import (
	"errors"
	"os"
)

// Files are the files of a machine, for a machine that another program starts.
type Files struct{ QEMU, Kernel, Initrd string }

// FindFiles returns the files that scripts/setup prepared for a version of QEMU. The error
// wraps [ErrNotSetUp] if a file is missing.
func FindFiles(version string) (Files, error) {
	m, err := readManifest()
	if err != nil {
		return Files{}, err
	}
	binary, err1 := m.qemu(version)
	kernel, err2 := m.file("KERNEL")
	initrd, err3 := m.file("INITRD")
	return Files{binary, kernel, initrd}, errors.Join(err1, err2, err3)
}

// ReadConsole reads the output of a guest from the file of its serial console. The error
// wraps [ErrCorrupt] and quotes the guest if the guest has reported an error.
func ReadConsole(path string) (Progress, error) {
	output, err := os.ReadFile(path)
	if err != nil {
		return Progress{}, err
	}
	c := parseConsole(string(output))
	return c.progress, c.corrupt()
}
