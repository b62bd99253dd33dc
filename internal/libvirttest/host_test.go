//go:build libvirt

package libvirttest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// host is a libvirtd in namespaces of its own.
type host struct {
	name   string
	dir    string // the folders that the host sees in other places
	shared string // a path that is a folder of its own on each host
	cmd    *exec.Cmd
	exited chan struct{}
}

// bound maps the folders of a host to the places where the host sees them. Each place
// exists where libvirt is installed.
var bound = map[string]string{
	"run":   "/run",
	"lib":   "/var/lib/libvirt",
	"etc":   "/etc/libvirt",
	"log":   "/var/log/libvirt",
	"cache": "/var/cache/libvirt",
}

func newHost(base, name string) *host {
	return &host{name: name, dir: filepath.Join(base, name), shared: filepath.Join(base, "s"), exited: make(chan struct{})}
}

// start starts the host's first process and waits until libvirtd has probed QEMU.
func (h *host) start(ctx context.Context) error {
	if err := h.writeFiles(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	log, err := os.Create(h.logPath())
	if err != nil {
		return err
	}
	defer log.Close()
	h.cmd = exec.Command(self)
	h.cmd.Env = append(os.Environ(), roleVar+"="+h.dir)
	h.cmd.Stdout, h.cmd.Stderr = log, log
	h.cmd.SysProcAttr = &syscall.SysProcAttr{
		Setpgid: true, // so that ^C ends it by the end of this process
		// The end of the first process ends all processes of a PID namespace.
		Pdeathsig:  syscall.SIGKILL,
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET,
	}
	started := make(chan error)
	go func() {
		// The parent-death signal comes when the thread ends that started the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := h.cmd.Start()
		started <- err
		if err == nil {
			h.cmd.Wait()
			close(h.exited)
		}
	}()
	if err := <-started; err != nil {
		h.cmd = nil
		return fmt.Errorf("start host %s: %w", h.name, err)
	}
	return h.awaitLibvirtd(ctx)
}

func (h *host) writeFiles() error {
	var errs []error
	mkdir := func(path string) { errs = append(errs, os.MkdirAll(path, 0o755)) }
	for folder := range bound {
		mkdir(filepath.Join(h.dir, folder))
	}
	mkdir(h.own())
	mkdir(h.shared)
	write := func(name, content string) {
		errs = append(errs, os.WriteFile(filepath.Join(h.dir, "etc", name), []byte(content), 0o644))
	}
	id, err := os.ReadFile("/proc/sys/kernel/random/uuid")
	errs = append(errs, err)
	write("libvirtd.conf", fmt.Sprintf("host_uuid = %q\nauth_unix_rw = \"none\"\n", strings.TrimSpace(string(id))))
	// QEMU writes the file of a serial console itself, which does without virtlogd.
	write("qemu.conf", `user = "root"
group = "root"
security_driver = "none"
remember_owner = 0
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = "file"
`)
	return errors.Join(errs...)
}

func (h *host) awaitLibvirtd(ctx context.Context) error {
	for {
		out, err := h.virsh(ctx, "domcapabilities")
		if err == nil {
			return nil
		}
		select {
		case <-h.exited:
			return fmt.Errorf("libvirtd of host %s ended; its log:\n%s", h.name, h.log())
		case <-ctx.Done():
			return fmt.Errorf("wait for libvirtd of host %s: %w: %s; its log:\n%s", h.name, err, out, h.log())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// stop kills all processes of the host.
func (h *host) stop() {
	if h.cmd != nil {
		h.cmd.Process.Kill()
		<-h.exited
	}
}

// own is the folder that the host sees as shared.
func (h *host) own() string { return filepath.Join(h.dir, "shared") }

func (h *host) logPath() string { return filepath.Join(h.dir, "libvirtd.log") }

// log is the end of libvirtd's log, without the lines on names and devices that a namespace
// lacks.
func (h *host) log() string {
	b, _ := os.ReadFile(h.logPath())
	var kept []string
	for line := range strings.Lines(string(b)) {
		if !strings.Contains(line, "ethtool") && !strings.Contains(line, "getaddrinfo") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept[max(0, len(kept)-30):], "")
}

// uri names the host's libvirtd for clients on both hosts and outside of them.
func (h *host) uri() string {
	return "qemu+unix:///system?socket=" + filepath.Join(h.dir, "run/libvirt/libvirt-sock")
}

// virsh runs a command of virsh and returns its output, errors included.
func (h *host) virsh(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "virsh", append([]string{"-q", "-c", h.uri()}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err != nil {
		err = fmt.Errorf("virsh %s on host %s: %w: %s", strings.Join(args, " "), h.name, errors.Join(err, ctx.Err()), text)
	}
	return text, err
}

// runHost is the first process of a host. It returns when libvirtd has ended.
func runHost(dir string) error {
	h := newHost(filepath.Dir(dir), filepath.Base(dir))
	if err := h.mount(); err != nil {
		return err
	}
	if err := unix.Sethostname([]byte("host-" + h.name)); err != nil {
		return fmt.Errorf("set the host's name: %w", err)
	}
	if err := os.Unsetenv(roleVar); err != nil {
		return err
	}
	path, err := exec.LookPath("libvirtd")
	if err != nil {
		return err
	}
	libvirtd, err := os.StartProcess(path, []string{"libvirtd"}, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return err
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for the processes of the host: %w", err)
		}
		if pid == libvirtd.Pid {
			return fmt.Errorf("libvirtd ended with status %#x", uint32(status))
		}
	}
}

// mount gives the host its folders and its view of processes.
func (h *host) mount() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the mounts private: %w", err)
	}
	bind := func(from, to string) error {
		if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s to %s: %w", from, to, err)
		}
		return nil
	}
	errs := []error{bind(h.own(), h.shared), unix.Mount("proc", "/proc", "proc", 0, "")}
	for folder, place := range bound {
		errs = append(errs, bind(filepath.Join(h.dir, folder), place))
	}
	return errors.Join(errs...)
}
