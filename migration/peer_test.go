package migration

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/transport"
)

// warnings is a logger's handler that keeps the refused connections.
type warnings struct {
	mu   sync.Mutex
	said []string
	more chan struct{}
}

func newWarnings() *warnings { return &warnings{more: make(chan struct{}, 1)} }

func (w *warnings) Enabled(context.Context, slog.Level) bool { return true }
func (w *warnings) WithAttrs([]slog.Attr) slog.Handler       { return w }
func (w *warnings) WithGroup(string) slog.Handler            { return w }
func (w *warnings) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	w.mu.Lock()
	w.said = append(w.said, text)
	w.mu.Unlock()
	select {
	case w.more <- struct{}{}:
	default:
	}
	return nil
}

func (w *warnings) count(part string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.said {
		n += strings.Count(s, part)
	}
	return n
}

// await waits until so many warnings contain the text.
func (w *warnings) await(t *testing.T, part string, n int) {
	t.Helper()
	for most := time.After(30 * time.Second); w.count(part) < n; {
		select {
		case <-w.more:
		case <-most:
			t.Fatalf("%d warnings of %q, want %d: %q", w.count(part), part, n, w.said)
		}
	}
}

func smallRecording(t *testing.T) Recording {
	return load(t, "testdata/captures/synthetic-qpl-2ch")
}

func uuidOf(t *testing.T, rec Recording) (uuid [16]byte) {
	t.Helper()
	copy(uuid[:], rec.Conns[1][8:24])
	return uuid
}

// hold connects and sends bytes. The connection stays open.
func hold(t *testing.T, ln net.Listener, said []byte) net.Conn {
	t.Helper()
	conn, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.Write(said)
	return conn
}

func listenOn(t *testing.T, network string) net.Listener {
	t.Helper()
	addr := transport.Address{Network: network, Addr: "127.0.0.1:0"}
	if network == "unix" {
		addr.Addr = filepath.Join(t.TempDir(), "s")
	}
	ln, err := addr.Listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// start receives a recording's migration.
func start(t *testing.T, ln net.Listener, rec Recording, log *warnings, change func(*ReceiveConfig)) chan error {
	t.Helper()
	mem := new(guestmem.Memory)
	cfg := ReceiveConfig{Wire: Wire{Channels: len(rec.Conns) - 1, Method: rec.Method}, Sink: mem, ConnectTimeout: time.Minute, Logger: slog.New(log)}
	if change != nil {
		change(&cfg)
	}
	done := make(chan error, 1)
	go func() {
		defer mem.Close()
		_, err := Receive(t.Context(), ln, cfg)
		if err == nil {
			if sum := Sha(mem.Bytes(mem.Layout().Block("ram0"))); sum != rec.RAM0 {
				err = fmt.Errorf("ram0 has the digest %s, want %s", sum, rec.RAM0)
			}
		}
		done <- err
	}()
	return done
}

// ended waits for the end of what was started.
func ended(t *testing.T, done chan error) error {
	t.Helper()
	select {
	case err := <-done:
		return err
	case <-time.After(90 * time.Second):
		t.Fatal("it does not end")
		return nil
	}
}

func TestReceive_SilentConnectionsMakeRoomForTheSource(t *testing.T) {
	t.Parallel()
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			rec, log := smallRecording(t), newWarnings()
			ln := listenOn(t, network)
			done := start(t, ln, rec, log, func(c *ReceiveConfig) { c.ConnectTimeout = 0 })
			for range 40 {
				hold(t, ln, nil)
			}
			Replay(t, ln, rec.Conns)
			if err := ended(t, done); err != nil {
				t.Fatal(err)
			}
			log.await(t, "evicted by a newer connection", 1)
			log.await(t, "within 2s at the end of the migration", 1)
		})
	}
}

// The timer that such a wait does without would end it at once.
func TestReceive_NoTimeoutWaitsForTheRestOfTheSource(t *testing.T) {
	t.Parallel()
	rec, log := smallRecording(t), newWarnings()
	ln := listenOn(t, "unix")
	done := start(t, ln, rec, log, func(c *ReceiveConfig) { c.ConnectTimeout, c.StallTimeout = 0, -1 })
	main := hold(t, ln, rec.Conns[0][:100])
	// Until the refusal of another peer only the main channel is connected.
	hold(t, ln, []byte("GET / HTTP/1.1\r\n"))
	log.await(t, "neither a main channel", 1)
	var written sync.WaitGroup
	for _, data := range rec.Conns[1:] {
		channel := hold(t, ln, nil)
		written.Go(func() { channel.Write(data) })
	}
	main.Write(rec.Conns[0][100:])
	main.Close()
	if err := ended(t, done); err != nil {
		t.Fatal(err)
	}
	written.Wait()
	if n := log.count("connections came"); n != 0 {
		t.Errorf("the source was given up %d times: %q", n, log.said)
	}
}

func TestReceive_SilentConnectionsTimeOut(t *testing.T) {
	t.Parallel()
	log, ln := newWarnings(), listenOn(t, "tcp")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := Receive(ctx, ln, ReceiveConfig{Wire: Wire{Channels: 1, Method: multifd.None}, Sink: new(guestmem.Memory), Logger: slog.New(log), identifyWithin: 50 * time.Millisecond})
		done <- err
	}()
	for _, said := range []string{"", "QEVM", "QEVM\x00\x00\x00\x03\x07\x00\x00\x00\x09pc", "\x11\x22\x33\x44"} {
		conn := hold(t, ln, []byte(said))
		conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		if n, err := conn.Read(make([]byte, 1)); n != 0 || errors.Is(err, unix.EAGAIN) || isTimeout(err) {
			t.Errorf("after %q: read %d bytes, error %v", said, n, err)
		}
	}
	log.await(t, "not identified within", 4)
	cancel()
	if err := ended(t, done); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// handshake is the beginning of a channel.
func handshake(uuid [16]byte, id uint8) []byte {
	return multifd.Handshake{UUID: uuid, ID: id}.Append(nil)
}

func TestReceive_RefusesOtherPeersWhileGathering(t *testing.T) {
	t.Parallel()
	rec, log := smallRecording(t), newWarnings()
	ln := listenOn(t, "tcp")
	done := start(t, ln, rec, log, nil)
	strangers := [][]byte{
		[]byte("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		[]byte("QEVM\x00\x00\x00\x02\x07\x00\x00\x00\x00"), // another version
		[]byte("QEVM\x00\x00\x00\x03\x07\xff\xff\xff\xff"), // a name of 4 GiB
		append(binary.BigEndian.AppendUint32(nil, multifd.Magic), make([]byte, 60)...),
	}
	for _, said := range strangers {
		hold(t, ln, said)
	}
	hold(t, ln, []byte("QE")).Close()
	log.await(t, "refused a connection", len(strangers)+1)
	// These connections stay open and delay no other.
	hold(t, ln, []byte("QEVM"))
	hold(t, ln, handshake([16]byte{1}, 0))
	hold(t, ln, handshake([16]byte{2}, 200))
	Replay(t, ln, rec.Conns)
	if err := ended(t, done); err != nil {
		t.Fatal(err)
	}
}

// underWay receives a recording up to the middle of its main channel. The returned
// function lets the rest come.
func underWay(t *testing.T, ln net.Listener, rec Recording) (goOn func()) {
	t.Helper()
	main := hold(t, ln, rec.Conns[0][:200])
	Replay(t, ln, rec.Conns[1:])
	return func() {
		main.Write(rec.Conns[0][200:])
		main.(interface{ CloseWrite() error }).CloseWrite()
	}
}

func TestReceive_RefusesOtherPeersDuringTheMigration(t *testing.T) {
	rec, log := smallRecording(t), newWarnings()
	ln := listenOn(t, "unix")
	var progress Counters
	done := start(t, ln, rec, log, func(c *ReceiveConfig) { c.Counters = &progress })
	goOn := underWay(t, ln, rec)
	awaitBytes(t, &progress, 1)
	uuid := uuidOf(t, rec)
	other := uuid
	other[0]++
	hold(t, ln, rec.Conns[0][:200])
	log.await(t, "a second main channel", 1)
	hold(t, ln, handshake(other, 2))
	log.await(t, "of another machine", 1)
	hold(t, ln, handshake(uuid, 1))
	log.await(t, "duplicate multifd channel", 1)
	hold(t, ln, []byte("GET / HTTP/1.1\r\n\r\n"))
	log.await(t, "neither a main channel", 1)
	goOn()
	if err := ended(t, done); err != nil {
		t.Fatal(err)
	}
}

func awaitBytes(t *testing.T, p *Counters, n uint64) {
	t.Helper()
	for most := time.Now().Add(30 * time.Second); p.Bytes.Load() < n; time.Sleep(time.Millisecond) {
		if time.Now().After(most) {
			t.Fatalf("%d bytes came, want %d", p.Bytes.Load(), n)
		}
	}
}

// Pages sent over an additional channel would be missing.
func TestReceive_AdditionalChannelOfTheSourceIsAnError(t *testing.T) {
	for _, first := range []bool{true, false} {
		rec, log := smallRecording(t), newWarnings()
		ln := listenOn(t, "unix")
		done := start(t, ln, rec, log, nil)
		if first { // before the others
			hold(t, ln, handshake(uuidOf(t, rec), 2))
		}
		goOn := underWay(t, ln, rec)
		if !first {
			hold(t, ln, handshake(uuidOf(t, rec), 2))
		}
		if err := ended(t, done); !errors.Is(err, transport.ErrChannels) || !strings.Contains(err.Error(), "multifd channel 2") {
			t.Errorf("error %v", err)
		}
		goOn()
	}
}

// pressed is a listener whose first accepts fail.
type pressed struct {
	net.Listener
	errs []error
}

func (l *pressed) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, err
	}
	return l.Listener.Accept()
}

func TestReceive_RetriesAfterTransientAcceptErrors(t *testing.T) {
	rec, log := smallRecording(t), newWarnings()
	var errs []error
	for _, errno := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ECONNABORTED, unix.ENOBUFS} {
		errs = append(errs, &net.OpError{Op: "accept", Net: "unix", Err: errno})
	}
	ln := &pressed{listenOn(t, "unix"), errs}
	done := start(t, ln, rec, log, nil)
	Replay(t, ln, rec.Conns)
	if err := ended(t, done); err != nil {
		t.Fatal(err)
	}
	if log.count("retrying") != 1 {
		t.Errorf("said %q", log.said)
	}
	broken := errors.New("the listener is broken")
	log, ln = newWarnings(), &pressed{listenOn(t, "unix"), []error{broken}}
	if err := ended(t, start(t, ln, rec, log, nil)); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}
