//go:build realqemu

package qemu_test

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/transport"
)

// A live stream of several rounds is recorded and played twice: to a QEMU of
// the same version and to migration.Receive. Both have to make the same memory
// of it. This holds also for QEMU 7.2 without KVM, which sends something else
// than its memory (see pauseIfWritesGetLost).
func TestRealQEMUAndVmferryMakeTheSameOfALiveStream(t *testing.T) {
	t.Parallel()
	for _, version := range qemutest.Versions() {
		for _, method := range []multifd.Method{multifd.None, multifd.Zlib, multifd.Zstd} {
			t.Run(version+"/"+method.Name(), func(t *testing.T) {
				conns := record(t, version, method, 2)
				want := playToQEMU(t, version, method, conns)
				mem := playToMemory(t, method, conns)
				defer mem.Close()
				got := mem.Bytes(mem.Layout().Block("ram0"))
				for off := 0; off < len(want); off += 4096 {
					if !bytes.Equal(got[off:off+4096], want[off:off+4096]) {
						t.Fatalf("the page at %#x is not the one that QEMU made of the stream", off)
					}
				}
			})
		}
	}
}

// setUp sets one side of a migration up.
func setUp(t *testing.T, c *qmp.Client, method multifd.Method, channels int) {
	t.Helper()
	name := method.Name()
	if err := c.SetMigrateCapabilities(t.Context(), map[string]bool{"multifd": true}); err != nil {
		t.Fatal(err)
	}
	if err := c.SetMigrateParameters(t.Context(), qmp.MigrateParameters{MultifdChannels: &channels, MultifdCompression: &name}); err != nil {
		t.Fatal(err)
	}
}

// record takes down what a busy machine sends, a connection after the other in
// the order in which they were made.
func record(t *testing.T, version string, method multifd.Method, channels int) [][]byte {
	t.Helper()
	src := source(t, version)
	c := dial(t, src.QMPPath())
	setUp(t, c, method, channels)
	slow := qmp.MigrateParameters{MaxBandwidth: new(uint64(40 << 20)), DowntimeLimit: new(qmp.Milliseconds(40))}
	if err := c.SetMigrateParameters(t.Context(), slow); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	conns := make([][]byte, channels+1)
	var reading sync.WaitGroup
	accepted := make(chan error, 1)
	go func() {
		for i := range conns {
			conn, err := ln.Accept()
			if err != nil {
				accepted <- err
				return
			}
			reading.Go(func() {
				defer conn.Close()
				conns[i], _ = io.ReadAll(conn)
			})
		}
		accepted <- nil
	}()
	if err := c.Migrate(t.Context(), "unix:"+ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	reading.Wait()
	m, err := c.QueryMigrate(t.Context())
	if err != nil || m.Status != qmp.MigrationCompleted {
		t.Fatalf("the migration ended as %q: %v", m.Status, err)
	}
	if m.RAM.DirtySyncCount < 3 {
		t.Errorf("%d rounds are too few to say anything", m.RAM.DirtySyncCount)
	}
	src.Kill()
	return conns
}

// play writes what was recorded to a listener.
func play(t *testing.T, path string, conns [][]byte) {
	t.Helper()
	for _, data := range conns {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		go func() {
			conn.Write(data)
			conn.(*net.UnixConn).CloseWrite()
		}()
	}
}

func playToQEMU(t *testing.T, version string, method multifd.Method, conns [][]byte) []byte {
	t.Helper()
	dst := destination(t, version)
	c := dial(t, dst.QMPPath())
	setUp(t, c, method, len(conns)-1)
	if err := c.Stop(t.Context()); err != nil { // leaves it paused at the end
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "s")
	if err := c.MigrateIncoming(t.Context(), "unix:"+path); err != nil {
		t.Fatal(err)
	}
	play(t, path, conns)
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		m, err := c.QueryMigrate(t.Context())
		if err != nil || m.Status == qmp.MigrationFailed || time.Since(began) > time.Minute {
			t.Fatalf("QEMU makes nothing of the stream: %q, %v\n%s", m.Status, err, dst.Stderr())
		}
		if m.Status == qmp.MigrationCompleted {
			break
		}
	}
	memory, err := os.ReadFile(dst.MemFile())
	if err != nil {
		t.Fatal(err)
	}
	dst.Kill()
	return memory
}

func playToMemory(t *testing.T, method multifd.Method, conns [][]byte) *guestmem.Memory {
	t.Helper()
	addr := transport.Address{Network: "unix", Addr: filepath.Join(t.TempDir(), "s")}
	ln, err := addr.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	play(t, addr.Addr, conns)
	mem := new(guestmem.Memory)
	if _, err := migration.Receive(t.Context(), ln, migration.ReceiveConfig{
		Wire: migration.Wire{Channels: len(conns) - 1, Method: method}, Sink: mem, ConnectTimeout: 10 * time.Second,
	}); err != nil {
		t.Fatal(err)
	}
	return mem
}
