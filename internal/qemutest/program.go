package qemutest

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// RunInGuest boots a machine whose guest runs a shell script as its first
// process, with programs in /bin, and returns what it wrote to its console. It is
// for what depends on a kernel: the guest's is Debian's. The script's exit status
// has to be 0.
func RunInGuest(ctx context.Context, cfg Config, programs map[string]string, script string) (output string, err error) {
	folder, err := os.MkdirTemp(cfg.Dir, "overlay-")
	if err != nil {
		return "", fmt.Errorf("qemutest: %w", err)
	}
	defer os.RemoveAll(folder)
	cfg.initrd = filepath.Join(folder, "initrd")
	if err := writeOverlay(cfg.initrd, programs, script); err != nil {
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
		return vm.Serial(), fmt.Errorf("qemutest: the script does not end: %w", context.Cause(ctx))
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

// writeOverlay writes an image in which the guest's own is followed by another
// archive, whose files the kernel unpacks over the first one's.
func writeOverlay(path string, programs map[string]string, script string) error {
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
	var archive bytes.Buffer
	for name, from := range programs {
		program, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		addFile(&archive, "bin/"+name, program)
	}
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
