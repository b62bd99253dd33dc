package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vmferry/vmferry/relay"
)

// daemonPatience is only against hanging.
const daemonPatience = 5 * time.Minute

// relayDaemon is a source's relay, started as systemd starts it, with the other relay of the
// pair in this process.
type relayDaemon struct {
	t       *testing.T
	dir     string
	cmd     *exec.Cmd
	stderr  *bytes.Buffer
	states  *net.UnixConn // what the relay tells systemd
	qemu    *net.UnixListener
	exited  chan struct{}
	exitErr error
}

func startRelayDaemon(t *testing.T, flags ...string) *relayDaemon {
	t.Helper()
	dir, err := os.MkdirTemp("", "vf") // paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := &relayDaemon{t: t, dir: dir, stderr: new(bytes.Buffer), exited: make(chan struct{})}
	front, link := d.listen("front"), d.listen("link")
	d.qemu = d.listen("qemu")
	d.startDestination(link)
	if d.states, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.states.Close() })
	socket, err := front.File()
	if err != nil {
		t.Fatal(err)
	}
	front.SetUnlinkOnClose(false)
	front.Close() // the relay has it
	defer socket.Close()
	// LISTEN_PID is the process itself, which the shell becomes.
	d.cmd = exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec vmferry relay "$@"`, "sh", "--connect", "unix:" + filepath.Join(dir, "link"), "--iaa", "off"}, flags...)...)
	d.cmd.Env = append(os.Environ(), "LISTEN_FDS=1", "NOTIFY_SOCKET="+filepath.Join(dir, "notify"))
	d.cmd.ExtraFiles = []*os.File{socket} // descriptor 3
	d.cmd.Stderr = d.stderr
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { d.exitErr = d.cmd.Wait(); close(d.exited) }()
	t.Cleanup(func() { d.cmd.Process.Kill(); <-d.exited })
	d.awaitState("READY=1")
	return d
}

func (d *relayDaemon) listen(name string) *net.UnixListener {
	d.t.Helper()
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(d.dir, name), Net: "unix"})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { ln.Close() })
	return ln
}

// startDestination starts the destination's relay.
func (d *relayDaemon) startDestination(link net.Listener) {
	r, err := relay.New(relay.Config{})
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := r.ServeDestination(ctx, link, nil, func(ctx context.Context) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", d.qemu.Addr().String())
		}); err != nil {
			d.t.Error(err)
		}
	})
	d.t.Cleanup(func() { cancel(); serving.Wait(); r.Close() })
}

func (d *relayDaemon) awaitState(want string) {
	d.t.Helper()
	buffer := make([]byte, 100)
	d.states.SetReadDeadline(time.Now().Add(daemonPatience))
	n, err := d.states.Read(buffer)
	if err != nil || string(buffer[:n]) != want {
		d.t.Fatalf("systemd got %q, error %v, want %q", buffer[:n], err, want)
	}
}

// connect makes a connection through both relays.
func (d *relayDaemon) connect() (source, destination net.Conn) {
	d.t.Helper()
	source, err := net.Dial("unix", filepath.Join(d.dir, "front"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.qemu.SetDeadline(time.Now().Add(daemonPatience))
	destination, err = d.qemu.Accept()
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { source.Close(); destination.Close() })
	return source, destination
}

func (d *relayDaemon) pass(source, destination net.Conn) {
	d.t.Helper()
	got := make([]byte, 5)
	if _, err := io.WriteString(source, "bytes"); err != nil {
		d.t.Fatal(err)
	}
	if _, err := io.ReadFull(destination, got); err != nil || string(got) != "bytes" {
		d.t.Fatalf("%q arrived, error %v", got, err)
	}
}

// awaitExit waits for the end of the process.
func (d *relayDaemon) awaitExit() error {
	d.t.Helper()
	select {
	case <-d.exited:
		return d.exitErr
	case <-time.After(daemonPatience):
		d.t.Fatal("the relay does not end")
		return nil
	}
}

func (d *relayDaemon) signal() {
	d.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
}

func TestRelayDaemon_SystemdsSocketAndMetrics(t *testing.T) {
	metrics := filepath.Join(t.TempDir(), "m")
	d := startRelayDaemon(t, "--listen", "unix:/another/socket", "--metrics", "unix:"+metrics)
	a, b := d.connect()
	d.pass(a, b)
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", metrics)
	}}}
	for path, want := range map[string]string{
		"/healthz": "ok\n",
		"/metrics": "\nvmferry_relay_migration_connections_open{uuid=\"\"} 1\n",
	} {
		resp, err := client.Get("http://relay" + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s: error %v, no %q in %q", path, err, want, body)
		}
	}
	// Without --drain the signal breaks what is under way.
	d.signal()
	d.awaitState("STOPPING=1")
	if err := d.awaitExit(); err != nil {
		t.Errorf("the relay ended with %v", err)
	}
	for _, c := range []net.Conn{a, b} {
		if _, err := io.ReadAll(c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Error(err)
		}
	}
	if out := d.stderr.String(); !strings.Contains(out, "replaces --listen") || !strings.Contains(out, "unix:/another/socket") {
		t.Errorf("the warning about --listen is missing: %s", out)
	}
	if _, err := os.Lstat(filepath.Join(d.dir, "front")); err != nil {
		t.Errorf("the relay removed systemd's socket: %v", err)
	}
	if _, err := os.Lstat(metrics); err == nil {
		t.Error("the socket of the metrics is left")
	}
}

func TestRelayDaemon_DrainWaitsForMigrations(t *testing.T) {
	d := startRelayDaemon(t, "--drain", "10m")
	a, b := d.connect()
	d.pass(a, b)
	d.signal()
	d.awaitState("STOPPING=1")
	d.pass(a, b)
	c, e := d.connect() // of the same process, as postcopy's
	d.pass(c, e)
	for _, c := range []net.Conn{c, e, a, b} {
		if err := c.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.awaitExit(); err != nil {
		t.Errorf("the relay ended with %v: %s", err, d.stderr)
	}
}

func TestRelayDaemon_DrainEndsAfterItsTime(t *testing.T) {
	d := startRelayDaemon(t, "--drain", "200ms")
	a, b := d.connect()
	d.pass(a, b)
	d.signal()
	if err := d.awaitExit(); err != nil {
		t.Errorf("the relay ended with %v", err)
	}
	if out := d.stderr.String(); !strings.Contains(out, "not ended within --drain") {
		t.Errorf("the warning is missing: %s", out)
	}
}

func TestRelayDaemon_SecondSignalEndsAtOnce(t *testing.T) {
	d := startRelayDaemon(t, "--drain", "1h")
	d.pass(d.connect())
	d.signal()
	d.awaitState("STOPPING=1")
	for { // a signal soon after the first one counts as the same
		d.signal()
		select {
		case <-d.exited:
			if exit := (*exec.ExitError)(nil); !errors.As(d.exitErr, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
				t.Errorf("the relay ended with %v, want the signal", d.exitErr)
			}
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func TestRelayDaemon_SeveralSocketsAreRefused(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ exec vmferry relay --connect unix:/nowhere`)
	cmd.Env = append(os.Environ(), "LISTEN_FDS=2")
	cmd.ExtraFiles = []*os.File{null, null}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "want one ListenStream=") {
		t.Errorf("error %v: %s", err, out)
	}
}

// TestRelayDaemon_UnitsUseFlagsThatExist: systemd would say so only when the unit starts.
func TestRelayDaemon_UnitsUseFlagsThatExist(t *testing.T) {
	unit, err := os.ReadFile("../../contrib/systemd/vmferry-relay@.service")
	if err != nil {
		t.Fatal(err)
	}
	help, err := exec.Command("vmferry", "relay", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	flags := regexp.MustCompile(`--[a-z][a-z-]+`).FindAllString(string(unit), -1)
	if len(flags) < 8 {
		t.Errorf("only %d flags: %v", len(flags), flags)
	}
	for _, flag := range flags {
		if flag != "--help" && flag != "--signal" && !strings.Contains(string(help), flag+"=") {
			t.Errorf("the unit has %s, which vmferry relay does not have", flag)
		}
	}
	for _, setting := range []string{"Type=notify", "NoNewPrivileges=yes", "ProtectSystem=strict", "DynamicUser=yes"} {
		if !strings.Contains(string(unit), "\n"+setting+"\n") {
			t.Errorf("the unit lacks %s", setting)
		}
	}
}
