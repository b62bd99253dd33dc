package live_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/vmferry/vmferry/live"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/migration/stored"
	"github.com/vmferry/vmferry/multifd"
	"github.com/vmferry/vmferry/snapshot"
	"github.com/vmferry/vmferry/store"
)

// stored has the pair's destination be a snapshot, as vmferry receive makes one.
func (p *pair) stored() *store.Dir {
	p.t.Helper()
	dir, err := store.CreateDir(filepath.Join(p.t.TempDir(), "snap"))
	if err != nil {
		p.t.Fatal(err)
	}
	w, err := snapshot.Create(p.t.Context(), dir, snapshot.Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	p.recv.Sink, p.recv.Start = w, nil
	p.recv.Commit = func(r *migration.Received) error {
		_, err := w.Finish(p.t.Context(), stored.Meta(r))
		return err
	}
	return dir
}

func TestMigrate_StayTakesASnapshot(t *testing.T) {
	for _, method := range []multifd.Method{multifd.None, multifd.QPL} {
		p := newPair(t, "unix", 2, method)
		load := p.recv.Commit
		start := p.recv.Start
		sink := p.recv.Sink
		dir := p.stored()
		p.cfg.Stay = true
		out, source, destination := p.run(t.Context(), p.dial)
		if source != nil || destination != nil {
			t.Fatal(source, destination)
		}
		if p.resumed.Load() != 1 || out.Downtime <= 0 || out.Verified {
			t.Errorf("resumed %d times; %+v", p.resumed.Load(), out)
		}
		p.checkStayed()

		// Later, it is started from the snapshot in another process.
		r, err := snapshot.Open(t.Context(), dir, snapshot.OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := r.Verify(t.Context(), nil); err != nil {
			t.Error(err)
		}
		q := newPair(t, "unix", 3, multifd.QPL)
		q.recv.Sink, q.recv.Commit, q.recv.Start = sink, load, start
		q.receive(t.Context())
		err = stored.Send(t.Context(), q.dial, r, stored.SendConfig{Wire: migration.Wire{Channels: 3, Method: multifd.QPL}, AllZero: true})
		if received := <-q.received; err != nil || received != nil {
			t.Fatal(err, received)
		}
		if p.there.Memory != p.facts.Memory || p.there.Ledger != p.facts.Ledger {
			t.Errorf("the snapshot was made of %+v, and became %+v", p.facts, p.there)
		}
		p.arrived.Pause()
		for i, began := range p.arrived.Began() {
			if began != p.facts.Counters[i]+1 {
				t.Errorf("writer %d ended with %d and went on with %d", i, p.facts.Counters[i], began)
			}
		}
	}
}

func TestMigrate_MovesIntoASnapshot(t *testing.T) {
	p := newPair(t, "unix", 2, multifd.Zstd)
	p.stored()
	out, source, destination := p.run(t.Context(), p.dial)
	if source != nil || destination != nil {
		t.Fatal(source, destination)
	}
	if p.resumed.Load() != 0 || out.Verified {
		t.Errorf("resumed %d times; verified: %v", p.resumed.Load(), out.Verified)
	}
}

func TestMigrate_StayIsRefusedByAStartingDestination(t *testing.T) {
	p := newPair(t, "unix", 1, multifd.None)
	p.cfg.Stay = true
	_, source, destination := p.run(t.Context(), p.dial)
	if source == nil || !errors.Is(destination, live.ErrSourceGone) {
		t.Errorf("source: %v; destination: %v", source, destination)
	}
	p.checkStayed()
}
