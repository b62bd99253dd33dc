package live

import (
	"testing"
	"time"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/guestmem"
)

func TestMigrate_ExtraRoundIfItHalvesTheRest(t *testing.T) {
	l, err := guest.NewLayout(4096, []guest.Block{{Name: "ram", Length: 64 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	mem, err := guestmem.New(l)
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	for _, tt := range []struct {
		name      string
		number    int
		remaining uint64
		pages     float64 // dirtied a second
		polished  int
		want      bool
	}{
		{"a second's rest that is hardly written to", 1, 10000, 1000, 0, true},
		{"a second's rest of which half would be left", 1, 10000, 4900, 0, true},
		{"a second's rest of which more would be left", 1, 10000, 5100, 0, false},
		{"next to nothing left", 1, minMeasuredPages - 1, 1, 0, false},
		{"often enough", 4, 10000, 1000, maxExtraRounds, false},
		{"no more rounds", 30, 10000, 1000, 0, false},
	} {
		m := &migrator{cfg: Config{Memory: mem, MaxRounds: 30}, forecast: forecast{perPage: 100 * time.Microsecond}, extraRounds: tt.polished}
		if got := m.wantsExtraRound(Round{Number: tt.number, Remaining: tt.remaining, DirtyRate: tt.pages * 4096}); got != tt.want {
			t.Errorf("%s: another round: %v", tt.name, got)
		}
		if tt.want && m.extraRounds != tt.polished+1 {
			t.Errorf("%s: the round was not counted", tt.name)
		}
	}
}
