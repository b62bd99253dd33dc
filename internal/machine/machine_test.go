package machine

import (
	"slices"
	"strings"
	"testing"
	"time"
)

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
	if err := m.AwaitMore(then, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAMachineWritesUntilItIsPausedAndGoesOnWithoutAGap(t *testing.T) {
	m := running(t, Config{Memory: 4 << 20, Writers: 3})
	if err := m.Start(); err == nil {
		t.Error("it was started twice")
	}
	m.Pause()
	before, facts := m.Counters(), m.Facts()
	if slices.Contains(before, 0) {
		t.Fatalf("a writer did nothing: %d", before)
	}
	time.Sleep(5 * time.Millisecond)
	if after := m.Facts(); after.Memory != facts.Memory || after.Ledger != facts.Ledger {
		t.Error("it goes on while it is paused")
	}
	then := m.Counters()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	if err := m.AwaitMore(then, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	m.Pause()
	for i, began := range m.Began() {
		if began != before[i]+1 || m.Counters()[i] < began {
			t.Errorf("writer %d ended with %d, went on with %d, and ended with %d", i, before[i], began, m.Counters()[i])
		}
	}
	if err := m.Check(); err != nil {
		t.Error(err)
	}
}

func TestAWriteThatWasLostIsNoticed(t *testing.T) {
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
			t.Errorf("%s is wrong: %v", name, err)
		}
		if m.Facts().Memory == good.Memory {
			t.Errorf("%s is wrong, and the memory's digest the same", name)
		}
		copy(page, before)
	}
	w.acked[at]++
	if m.Facts().Ledger == good.Ledger {
		t.Error("the ledger differs, and its digest does not")
	}
}

func TestAStateIsLoadedOverTheMemoryItBelongsTo(t *testing.T) {
	m := running(t, Config{Memory: 2 << 20, Writers: 2, Seed: 3})
	m.Pause()
	state, err := m.Save()
	if err != nil {
		t.Fatal(err)
	}
	other, err := On(m.Memory(), Config{Memory: 2 << 20, Writers: 2, Seed: 3})
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
			t.Errorf("the state %q was taken", bad)
		}
	}
}

func TestRateAndThrottleAreKept(t *testing.T) {
	wrote := func(rate int, share float64) uint64 {
		m, err := New(Config{Memory: 1 << 20, Writers: 1, Rate: rate})
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		m.Throttle(share)
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
		m.Pause()
		return m.Counters()[0]
	}
	if n := wrote(1000, 0); n < 5 || n > 400 {
		t.Errorf("at 1000 a second, %d writes in 300 ms", n)
	}
	if free, throttled := wrote(0, 0), wrote(0, 0.9); throttled > free/2 {
		t.Errorf("%d writes, and %d with a tenth of the time", free, throttled)
	}
	if n := wrote(1000, 0.9); n > 200 {
		t.Errorf("at 1000 a second with a tenth of the time, %d writes in 300 ms", n)
	}
}

func TestMemoryIsAMixOfPages(t *testing.T) {
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
		t.Error("a thousand writers share 32 pages")
	}
}
