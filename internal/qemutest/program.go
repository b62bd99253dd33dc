package qemutest

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// Program is a program that runs in a guest.
type Program struct {
	// Name is the name of the program in the guest's /bin.
	Name string
	// Package is the package to build. If Tests is set, its tests are built.
	Package string
	Tests   bool
}

// build builds the program at path.
func (p Program) build(ctx context.Context, path string) error {
	args := []string{"build"}
	if p.Tests {
		args = []string{"test", "-c"}
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "-o", path, p.Package)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0") // the guest has no libraries
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", p.Package, err, out)
	}
	return nil
}

// RunInGuest boots a machine whose guest runs a shell script, with a program in /bin, and
// returns the output of the script. The exit status of the script must be 0. RunInGuest is
// for tests that depend on a kernel: the guest runs the kernel of Debian.
func RunInGuest(ctx context.Context, cfg Config, program Program, script string) (output string, err error) {
	folder, err := os.MkdirTemp(cfg.Dir, "overlay-")
	if err != nil {
		return "", fmt.Errorf("qemutest: %w", err)
	}
	defer os.RemoveAll(folder)
	built := filepath.Join(folder, "program")
	if err := program.build(ctx, built); err != nil {
		return "", fmt.Errorf("qemutest: %w", err)
	}
	cfg.initrd = filepath.Join(folder, "initrd")
	if err := writeOverlay(cfg.initrd, program.Name, built, script); err != nil {
		return "", fmt.Errorf("qemutest: making the guest's image: %w", err)
	}
	vm, err := Launch(ctx, cfg)
	if err != nil {
		return "", err
	}
	defer vm.Close()
	select {
	case <-vm.exited:
	case <-ctx.Done():
		return vm.Serial(), fmt.Errorf("qemutest: waiting for the end of the script: %w", context.Cause(ctx))
	}
	output = strings.ReplaceAll(vm.Serial(), "\r\n", "\n")
	before, _, ok := strings.Cut(output, scriptEnd+"0\n")
	if !ok {
		return output, errors.New("qemutest: the script failed in the guest")
	}
	_, before, _ = strings.Cut(before, scriptBegin+"\n")
	return before, nil
}

const (
	scriptBegin = "vmferry-script: begins"
	scriptEnd   = "vmferry-script: ends with "
)

// writeOverlay writes an image that is the image of the test guest, followed by another
// archive. The kernel unpacks the files of the second archive over those of the first.
func writeOverlay(path, name, program, script string) error {
	m, err := readManifest()
	if err != nil {
		return err
	}
	own, err := m.file("INITRD")
	if err != nil {
		return err
	}
	image, err := os.ReadFile(own)
	if err != nil {
		return err
	}
	code, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	addFile(&archive, "bin/"+name, code)
	addFile(&archive, "script", []byte("#!/bin/busybox sh\nexport PATH=/bin HOME=/tmp\n"+script))
	addFile(&archive, "init", []byte(`#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox mount -t tmpfs tmpfs /tmp
echo "`+scriptBegin+`"
/bin/busybox sh /script
echo "`+scriptEnd+`$?"
/bin/busybox poweroff -f
`))
	addFile(&archive, "TRAILER!!!", nil)
	packed := bytes.NewBuffer(image)
	z, err := gzip.NewWriterLevel(packed, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := z.Write(archive.Bytes()); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, packed.Bytes(), 0o644)
}

// addFile adds an executable file to an archive in cpio's format newc, as Linux
// describes it in Documentation/driver-api/early-userspace/buffer-format.rst.
func addFile(archive *bytes.Buffer, name string, content []byte) {
	const mode = 0o100755
	fmt.Fprintf(archive, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		archive.Len()+1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name)+1, 0)
	pad := func() {
		for archive.Len()%4 != 0 {
			archive.WriteByte(0)
		}
	}
	archive.WriteString(name + "\x00")
	pad()
	archive.Write(content)
	pad()
}
