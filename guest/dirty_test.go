package guest

import (
	"errors"
	"slices"
	"testing"
)

var errLog = errors.New("log failed")

// scriptedLog reports fixed pages and records its calls.
type scriptedLog struct {
	name  string
	pages uint64 // of block 0
	fails string // the call that fails
	calls *[]string
}

func (l *scriptedLog) call(what string) error {
	*l.calls = append(*l.calls, l.name+" "+what)
	if l.fails == what {
		return errLog
	}
	return nil
}

func (l *scriptedLog) Start() error { return l.call("start") }
func (l *scriptedLog) Stop() error  { return l.call("stop") }

func (l *scriptedLog) Collect(b Bitmap) error {
	b[0][0] |= l.pages
	return l.call("collect")
}

// absentLog is a scriptedLog that also reports absent pages.
type absentLog struct {
	scriptedLog
	absent uint64
}

func (l *absentLog) Absent(b Bitmap) error {
	b[0][0] |= l.absent
	return l.call("absent")
}

func TestJoinLogs_ReportsPagesOfEveryLog(t *testing.T) {
	var calls []string
	l := JoinLogs(
		&scriptedLog{name: "kvm", pages: 1 << 3, calls: &calls},
		&absentLog{scriptedLog{name: "marks", pages: 1<<3 | 1<<5, calls: &calls}, 1 << 9})
	b := Bitmap{{1}}
	if err := errors.Join(l.Start(), l.Absent(b)); err != nil || b[0][0] != 1|1<<9 {
		t.Errorf("absent: %#x, error %v", b[0][0], err)
	}
	b = Bitmap{{1}}
	if err := errors.Join(l.Collect(b), l.Stop()); err != nil || b[0][0] != 1|1<<3|1<<5 {
		t.Errorf("dirty: %#x, error %v", b[0][0], err)
	}
	want := []string{"kvm start", "marks start", "marks absent", "kvm collect", "marks collect", "kvm stop", "marks stop"}
	if !slices.Equal(calls, want) {
		t.Errorf("calls %q, want %q", calls, want)
	}
}

func TestJoinLogs_FailureStopsEveryLog(t *testing.T) {
	for _, fails := range []string{"start", "collect", "absent", "stop"} {
		var calls []string
		l := JoinLogs(
			&scriptedLog{name: "a", calls: &calls},
			&absentLog{scriptedLog: scriptedLog{name: "b", fails: fails, calls: &calls}},
			&scriptedLog{name: "c", calls: &calls})
		err := l.Start()
		if fails == "start" {
			if !errors.Is(err, errLog) || !slices.Equal(calls, []string{"a start", "b start", "a stop"}) {
				t.Errorf("calls %q, error %v", calls, err)
			}
			continue
		}
		if err := errors.Join(l.Absent(Bitmap{{0}}), l.Collect(Bitmap{{0}}), l.Stop()); !errors.Is(err, errLog) {
			t.Errorf("%s fails: error %v", fails, err)
		}
		if !slices.Equal(calls[len(calls)-3:], []string{"a stop", "b stop", "c stop"}) {
			t.Errorf("%s fails: calls %q", fails, calls)
		}
	}
}
