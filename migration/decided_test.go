package migration_test

import (
	"bytes"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
	"github.com/vmferry/vmferry/migration"
)

// What was committed stays, and the source goes by it: what a channel carries then
// can be no error any more.
func TestReceive_PagesAfterTheEndAreNoErrorAfterCommit(t *testing.T) {
	s := newWholeScript(t, []byte{0x02, 0xff})
	channel := s.conns[1]
	whole := channel.Len()
	late := s.page(7)
	s.must(channel.sender.Send(&guest.Batch{Block: s.layout.Blocks[0], Normal: []uint64{0}, Data: [][]byte{late}}))
	rest := bytes.Clone(channel.Bytes()[whole:])
	channel.Truncate(whole)
	channel.silent = true // until the commit

	ln := &feeds{conns: make(chan net.Conn, len(s.conns))}
	var end *wholeEnd
	for _, c := range s.conns {
		e := newWholeEnd(c)
		if c == channel {
			end = e
		}
		ln.conns <- e
	}
	var log bytes.Buffer
	mem := new(guestmem.Memory)
	defer mem.Close()
	committed := false
	_, err := migration.Receive(t.Context(), ln, migration.ReceiveConfig{
		Wire: migration.Wire{Channels: len(s.conns) - 1, Method: s.method}, Sink: mem, ConnectTimeout: time.Minute, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Commit: func(*migration.Received) error {
			end.put(rest)
			end.feed.Close()
			committed = true
			return nil
		},
	})
	if !committed {
		t.Fatalf("nothing was committed: %v", err)
	}
	if err != nil {
		t.Errorf("error after Commit: %v", err)
	}
	if !strings.Contains(log.String(), "after the end of the migration") {
		t.Errorf("no warning of the pages that came too late: %s", log.String())
	}
	if bytes.Equal(mem.Bytes(mem.Layout().Blocks[0])[:4096], late) {
		t.Error("a page that arrived after the end is in memory")
	}
}
