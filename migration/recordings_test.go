package migration

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/internal/testfiles"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
)

// Recording is a migration as it went over the wire: conns[0] is the main
// channel.
type Recording struct {
	Method multifd.Method
	Conns  [][]byte
	RAM0   string // SHA-256 of the memory that arrived
}

func load(t testing.TB, dir string) Recording {
	t.Helper()
	name := strings.Split(filepath.Base(dir), "-")[1]
	method, err := multifd.MethodNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	rec := Recording{Method: method}
	for i := range 3 {
		rec.Conns = append(rec.Conns, testfiles.Unzstd(t, filepath.Join(dir, fmt.Sprintf("conn%d.src.zst", i))))
	}
	sum, err := os.ReadFile(filepath.Join(dir, "ram0.sha256"))
	if err != nil {
		t.Fatal(err)
	}
	rec.RAM0 = strings.Fields(string(sum))[0]
	return rec
}

// Recordings loads the recorded migrations, those of ../shared included if it
// is there.
func Recordings(t testing.TB) map[string]Recording {
	t.Helper()
	dirs, err := filepath.Glob("testdata/captures/*-2ch")
	if err != nil || len(dirs) != 5 {
		t.Fatalf("%d recordings in testdata, want 5 (%v)", len(dirs), err)
	}
	if extra := "../../shared/captures/linux-qpl-2ch"; exists(extra) {
		dirs = append(dirs, extra)
	}
	recs := map[string]Recording{}
	for _, dir := range dirs {
		recs[filepath.Base(dir)] = load(t, dir)
	}
	return recs
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Replay plays conns to a listener, each by a connection of its own, and
// closes them at their end.
func Replay(t testing.TB, ln net.Listener, conns [][]byte) {
	t.Helper()
	for _, data := range conns {
		conn, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
		if err != nil {
			t.Errorf("connecting: %v", err)
			return
		}
		go func() {
			conn.Write(data)
			conn.(interface{ CloseWrite() error }).CloseWrite()
		}()
		t.Cleanup(func() { conn.Close() })
	}
}

func Listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := transport.Address{Network: "unix", Addr: filepath.Join(t.TempDir(), "s")}.Listen(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func ReceiveRecording(t testing.TB, rec Recording, sink guest.Sink) (*Received, error) {
	t.Helper()
	ln := Listen(t)
	go Replay(t, ln, rec.Conns)
	return Receive(context.Background(), ln, ReceiveConfig{
		Wire: Wire{Channels: len(rec.Conns) - 1, Method: rec.Method}, Sink: sink, ConnectTimeout: time.Minute,
	})
}

func Sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
