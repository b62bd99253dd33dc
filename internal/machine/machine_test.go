package machine

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// testTimeout bounds waits that only a bug can make endless.
const testTimeout = 5 * time.Minute

func running(t *testing.T, cfg Config) *Machine {
	t.Helper()
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	then := m.Counters()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	if err := m.AwaitMore(then, testTimeout); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestMachine_ContinuesAfterAPauseWithoutAGap(t *testing.T) {
	m := running(t, Config{Memory: 4 << 20, Writers: 3})
	if err := m.Start(); err == nil {
		t.Error("a running machine was started again")
	}
	m.Pause()
	before, facts := m.Counters(), m.Facts()
	if slices.Contains(before, 0) {
		t.Fatalf("a writer wrote nothing: %d", before)
	}
	time.Sleep(5 * time.Millisecond)
	if after := m.Facts(); after.Memory != facts.Memory || after.Ledger != facts.Ledger {
		t.Error("a paused machine wrote to its memory")
	}
	then := m.Counters()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	if err := m.AwaitMore(then, testTimeout); err != nil {
		t.Fatal(err)
	}
	m.Pause()
	for i, began := range m.Began() {
		if began != before[i]+1 || m.Counters()[i] < began {
			t.Errorf("writer %d paused at write %d, continued with %d, and paused at %d", i, before[i], began, m.Counters()[i])
		}
	}
	if err := m.Check(); err != nil {
		t.Error(err)
	}
}

func TestCheck_FindsALostWrite(t *testing.T) {
	m := running(t, Config{Memory: 1 << 20, Writers: 1})
	m.Pause()
	good := m.Facts()
	w := m.writers[0]
	at := uint64(slices.IndexFunc(w.acked, func(seq uint64) bool { return seq > 0 }))
	page := m.ram[(w.first+at)*PageSize:][:PageSize]
	for name, damage := range map[string]func(){
		"its number":    func() { page[8]++ },
		"its middle":    func() { page[100]++ },
		"its last word": func() { page[PageSize-8]++ },
		"its mark":      func() { page[0]++ },
	} {
		before := slices.Clone(page)
		damage()
		if err := m.Check(); err == nil || !strings.Contains(err.Error(), "writer 0, page") {
			t.Errorf("%s is damaged, Check: %v", name, err)
		}
		if m.Facts().Memory == good.Memory {
			t.Errorf("%s is damaged, and the digest of the memory is the same", name)
		}
		copy(page, before)
	}
	w.acked[at]++
	if m.Facts().Ledger == good.Ledger {
		t.Error("the ledger differs, and its digest is the same")
	}
}

func TestLoad_RestoresTheLedgerFromState(t *testing.T) {
	m := running(t, Config{Memory: 2 << 20, Writers: 2, Seed: 3})
	m.Pause()
	state, err := m.Save()
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewOn(m.Memory(), Config{Memory: 2 << 20, Writers: 2, Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Load(state); err != nil {
		t.Fatal(err)
	}
	if a, b := m.Facts(), other.Facts(); a.Ledger != b.Ledger || !slices.Equal(a.Counters, b.Counters) {
		t.Errorf("%+v became %+v", a, b)
	}
	for _, bad := range []string{"", "{}", `{"Writers":[{"Seq":1}]}`} {
		if err := other.Load([]byte(bad)); err == nil {
			t.Errorf("Load accepted the state %q", bad)
		}
	}
}

func TestRateAndThrottle_BoundWhatIsWritten(t *testing.T) {
	for _, tt := range []struct {
		rate  int
		share float64
	}{{1000, 0}, {0, 0.9}, {1000, 0.9}} {
		m, err := New(Config{Memory: 1 << 20, Writers: 1, Rate: tt.rate})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		m.Throttle(tt.share)
		began := time.Now()
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
		if err := m.AwaitMore([]uint64{4}, testTimeout); err != nil {
			t.Fatal(err)
		}
		m.Pause()
		took, n, w := time.Since(began), m.Counters()[0], m.writers[0]
		// The last turn has no rest yet. A slow machine makes fewer turns.
		rests := time.Duration(float64(w.turns-1) * tt.share / (1 - tt.share) * float64(turn))
		if tt.rate == 0 {
			if most := uint64(took/(10*turn)) + 2; w.turns > most {
				t.Errorf("%d turns in %v with a tenth of the time, want at most %d", w.turns, took, most)
			}
		} else if most := (took-rests).Seconds()*float64(tt.rate) + 1; float64(n) > most {
			t.Errorf("rate %d, throttled by %v: %d writes in %v, want at most %.0f", tt.rate, tt.share, n, took, most)
		}
	}
}

func TestSetRate_ChangesTheRateOfAMachineThatRuns(t *testing.T) {
	m := running(t, Config{Memory: 1 << 20, Writers: 1, Rate: 1})
	m.SetRate(0)
	began := time.Now()
	if err := m.AwaitMore([]uint64{m.Written()[0] + 500}, testTimeout); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > testTimeout/2 {
		t.Errorf("500 writes took %v, as at 1 a second", took)
	}
}

func TestAllow_BoundsWhatEachWriterWrites(t *testing.T) {
	m := running(t, Config{Memory: 1 << 20, Writers: 3})
	for range 3 {
		m.Allow(10)
		if err := m.AwaitAllowed(testTimeout); err != nil {
			t.Fatal(err)
		}
		then := m.Written()
		time.Sleep(5 * time.Millisecond) // a writer that does not stop writes in one of the repetitions
		if now := m.Written(); !slices.Equal(now, then) {
			t.Fatalf("the writers continued from %d to %d without permission", then, now)
		}
		m.Allow(10)
		if err := m.AwaitAllowed(testTimeout); err != nil {
			t.Fatal(err)
		}
		for i, now := range m.Written() {
			if now != then[i]+10 {
				t.Errorf("writer %d continued from %d to %d, want 10 more", i, then[i], now)
			}
		}
	}
	m.AllowAll()
	if err := m.AwaitMore(m.Written(), testTimeout); err != nil {
		t.Error(err)
	}
}

func TestNew_FillsMemoryWithAMixOfPages(t *testing.T) {
	m, err := New(Config{Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	zero := 0
	for at := 0; at < len(m.ram); at += PageSize {
		if m.ram[at] == 0 && m.ram[at+PageSize/2] == 0 {
			zero++
		}
	}
	if pages := len(m.ram) / PageSize; zero < pages/5 || zero > pages*3/5 {
		t.Errorf("%d of %d pages are zero", zero, pages)
	}
	if _, err := New(Config{Memory: 1 << 20, Writers: 1000}); err == nil {
		t.Error("New accepted 1000 writers for 32 pages")
	}
}
