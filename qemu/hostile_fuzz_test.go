package qemu_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
)

const (
	// hostileTime is what one save or restore may take before it is interrupted,
	// and hostileSilence what it may take once its monitor is silent.
	hostileTime, hostileSilence = time.Second, 30 * time.Millisecond
	// hostileHang is when a save or restore counts as one that never ends.
	hostileHang = 2 * time.Minute
	// hostileMemory bounds what it may allocate, in bytes.
	hostileMemory = 512 << 20
)

// FuzzHostileMonitor saves from and restores into QEMUs whose monitor answers, or
// does not, as the fuzzer says. Each attempt ends; a save that succeeds has a
// snapshot that is sound, and one that fails has none.
//
//fuzz:inputs 400
func FuzzHostileMonitor(f *testing.F) {
	saved := savedMachine(f)
	f.Fuzz(func(t *testing.T, header uint16, script []byte) {
		tryHostileMonitor(t, saved, header, script, hostileTime)
	})
}

// A monitor that is not hostile at all serves both, or else nothing is tested here.
func TestHostileMonitor_WithoutAScriptIsFriendly(t *testing.T) {
	saved := savedMachine(t)
	for _, header := range []uint16{0, 1} {
		if err := tryHostileMonitor(t, saved, header, nil, time.Minute); err != nil {
			t.Errorf("header %d: %v", header, err)
		}
	}
}

// tryHostileMonitor restores if the header is odd, and saves if it is even; its
// next bits are the version of QEMU, the channels and the method.
func tryHostileMonitor(t *testing.T, saved *snapshot.Reader, header uint16, script []byte, most time.Duration) (err error) {
	goroutines, allocated := runtime.NumGoroutine(), allocatedBytes()
	hang := time.AfterFunc(hostileHang, func() { panic("it does not end:\n" + stacks()) })
	defer hang.Stop()
	t.Run("try", func(t *testing.T) { // its end cleans the monitor up
		incoming := header&1 != 0
		m := newHostileMonitor(t, script, byte(header>>1)&7, incoming, saved)
		ctx, cancel := context.WithTimeout(t.Context(), most)
		defer cancel()
		m.impatient = func() { time.AfterFunc(hostileSilence, cancel) }
		method := multifd.None
		if header>>8&7 == 1 {
			method = multifd.Zlib
		}
		channels := 1 + int(header>>4&1)
		if incoming {
			_, err = qemu.Restore(ctx, saved, qemu.RestoreOptions{
				Monitor: qmp.Socket(m.server.Path()), Wire: migration.Wire{Channels: channels, Method: method}, Paused: header>>5&1 != 0, SocketDir: filepath.Dir(m.server.Path()),
			})
			return
		}
		path := filepath.Join(t.TempDir(), "s")
		_, err = vmferry.Save(ctx, vmferry.Snapshot{Path: path, Store: snapshot.StoreRaw}, qemu.SaveOptions{
			Monitor: qmp.Socket(m.server.Path()), Wire: migration.Wire{Channels: channels, Method: method}, StayPaused: header>>5&1 != 0,
			ConnectTimeout: most / 4, SocketDir: filepath.Dir(m.server.Path()),
		})
		checkSaved(t, path, err)
	})
	if grown := allocatedBytes() - allocated; grown > hostileMemory {
		t.Errorf("%d bytes were allocated", grown)
	}
	for range 10_000 {
		if runtime.NumGoroutine() <= goroutines {
			return err
		}
		time.Sleep(time.Millisecond)
	}
	t.Errorf("%d goroutines were left behind:\n%s", runtime.NumGoroutine()-goroutines, stacks())
	return err
}

// checkSaved wants a sound snapshot after a success, and nothing after a failure.
func checkSaved(t *testing.T, path string, saveErr error) {
	t.Helper()
	if saveErr != nil {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a save that fails leaves %s (%v)", path, err)
		}
		return
	}
	dir, err := store.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := snapshot.Open(t.Context(), dir, snapshot.OpenOptions{})
	if err != nil {
		t.Fatalf("what was saved cannot be opened: %v", err)
	}
	defer r.Close()
	if _, err := r.Verify(t.Context(), nil); err != nil {
		t.Errorf("what was saved is not sound: %v", err)
	}
}

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

func allocatedBytes() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
