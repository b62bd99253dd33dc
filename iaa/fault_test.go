package iaa_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/iaamodel"
)

// scripted is one device whose n-th job meets action(n), from 0. Drains and
// NOOPs are not counted.
func scripted(action func(n int) iaamodel.Action) iaamodel.Config {
	cfg := iaamodel.Uniform(1, nil)
	n := 0
	cfg.Script.Run = func(iaamodel.Job) iaamodel.Action {
		n++
		return action(n - 1)
	}
	return cfg
}

// once has the first job meet a and no other.
func once(a iaamodel.Action) iaamodel.Config {
	return scripted(func(n int) iaamodel.Action {
		if n == 0 {
			return a
		}
		return iaamodel.Action{}
	})
}

func always(a iaamodel.Action) iaamodel.Config {
	return scripted(func(int) iaamodel.Action { return a })
}

var textPage = bytes.Repeat([]byte("a page that shrinks; "), 200)[:pageSize]

// quick is for jobs that never complete. Those that do have to do so in that time,
// also on a slow machine.
func quick(o *iaa.Options) { o.JobTimeout = 400 * time.Millisecond }

func TestJob_PageFaultIsTouchedAndResubmitted(t *testing.T) {
	for name, access := range map[string]iaamodel.Access{
		"source": iaamodel.AccessSource, "destination": iaamodel.AccessDestination, "AECS": iaamodel.AccessAECS,
		"all": iaamodel.AccessSource | iaamodel.AccessDestination | iaamodel.AccessAECS,
	} {
		for _, times := range []int{1, 3, 8} {
			t.Run(fmt.Sprintf("%s/%d", name, times), func(t *testing.T) {
				_, d := start(t, scripted(func(n int) iaamodel.Action {
					if n < times {
						return iaamodel.Action{Evict: access}
					}
					return iaamodel.Action{}
				}), nil)
				s := session(t, d, iaa.SessionConfig{})
				r := compress(t, s, 0, textPage)
				if got, err := inflateGo(r.Output); err != nil || !bytes.Equal(got, textPage) {
					t.Errorf("wrong bytes, error %v", err)
				}
				st := d.Stats()
				if r.Faults != times || st.Resubmits != int64(times) || st.ReadFaults+st.WriteFaults != int64(times) || st.PagesTouched < int64(times) {
					t.Errorf("%d faults in the result, stats %+v", r.Faults, st)
				}
			})
		}
	}
}

func TestJob_EndlessPageFaults(t *testing.T) {
	_, d := start(t, always(iaamodel.Action{Evict: iaamodel.AccessDestination}), func(o *iaa.Options) { o.FaultRetries = 5 })
	s := session(t, d, iaa.SessionConfig{})
	if err := s.SubmitCompress(0, textPage); err != nil {
		t.Fatal(err)
	}
	_, err := s.Wait(t.Context(), 0)
	var je *iaa.JobError
	if !errors.Is(err, iaa.ErrFaults) || !errors.As(err, &je) {
		t.Fatalf("got %v, want ErrFaults", err)
	}
	if je.Queue != "wq0.0" || je.Device != "iax0" || je.Op != iaa.OpCompress || je.Status != iaa.StatusWriteFault || je.FaultAddr == 0 {
		t.Errorf("error lacks detail: %+v", je)
	}
	if st := d.Stats(); st.Failures["page-faults"] != 1 || st.WriteFaults != 6 {
		t.Errorf("stats: %+v", st)
	}
}

func TestJob_RecordFaultOnVersion2(t *testing.T) {
	cfg := once(iaamodel.Action{Evict: iaamodel.AccessRecord})
	cfg.Devices[0].Version = 0x200
	_, d := start(t, cfg, nil)
	s := session(t, d, iaa.SessionConfig{})
	if r := compress(t, s, 0, textPage); r.Faults != 1 {
		t.Errorf("%d faults, want 1", r.Faults)
	}
}

func TestJob_ProcessorFaultsInUserfaultPages(t *testing.T) {
	for _, block := range []bool{false, true} {
		cfg := iaamodel.Uniform(1, func(d *iaamodel.Device) { d.Queues[0].BlockOnFault = block })
		m, d := start(t, cfg, nil)
		guest, err := m.Guest(pageSize, true)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Register(guest); err != nil {
			t.Fatal(err)
		}
		m.Userfault(guest)
		s := session(t, d, iaa.SessionConfig{})
		if err := s.SubmitInflate(0, deflateGo(t, textPage, 6), guest); err != nil {
			t.Fatal(err)
		}
		if r, err := s.Wait(t.Context(), 0); err != nil || r.Faults != 1 || !bytes.Equal(guest, textPage) {
			t.Errorf("block on fault %v: %d faults, error %v", block, r.Faults, err)
		}
		if err := d.Unregister(guest); err != nil {
			t.Error(err)
		}
		if err := m.Unmap(guest); err != nil {
			t.Error(err)
		}
	}
}

func TestJob_BlockOnFaultIsBounded(t *testing.T) {
	cfg := once(iaamodel.Action{Delay: 2 * time.Millisecond}) // a long fault
	cfg.Devices[0].Queues[0].BlockOnFault = true
	_, d := start(t, cfg, nil)
	s := session(t, d, iaa.SessionConfig{})
	compress(t, s, 0, textPage)
	if st := d.Stats(); st.SlowJobs < 1 || st.SlowTime < 2*time.Millisecond {
		t.Errorf("stats: %+v", st)
	}
}

func TestJob_ErrorNamesTheFailure(t *testing.T) {
	for name, test := range map[string]struct {
		action iaamodel.Action
		want   error
		text   string
	}{
		"hardware":      {iaamodel.Action{Status: iaa.StatusWatchdog}, iaa.ErrHardware, "watchdog"},
		"rejected":      {iaamodel.Action{Status: iaa.StatusBadFlags}, iaa.ErrRejected, "invalid flags (0x11)"},
		"unlisted":      {iaamodel.Action{Status: 0x77}, iaa.ErrRecord, "unknown status (0x77)"},
		"size above":    {iaamodel.Action{Resize: 1 << 20}, iaa.ErrRecord, "room for 4095"},
		"size below":    {iaamodel.Action{Resize: -1 << 20}, iaa.ErrRecord, "room for 4095"},
		"stale":         {iaamodel.Action{Stale: true}, iaa.ErrRecord, "0 of 4096 bytes consumed"},
		"symbol code":   {iaamodel.Action{Status: iaa.StatusAnalyticsError, Code: iaa.CodeSymbolNoCode}, iaa.ErrRejected, "symbol without a code"},
		"no such fault": {iaamodel.Action{Status: iaa.StatusInvalidRead}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, d := start(t, once(test.action), nil)
			s := session(t, d, iaa.SessionConfig{})
			if err := s.SubmitCompress(3, textPage); err != nil {
				t.Fatal(err)
			}
			_, err := s.Wait(t.Context(), 3)
			if !errors.Is(err, test.want) || test.want != nil && !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v, want %v with %q", err, test.want, test.text)
			}
			if test.want != nil && !strings.Contains(err.Error(), "iax0/wq0.0") {
				t.Errorf("%v does not name the queue", err)
			}
			if got := d.Stats().Failures[iaa.Cause(test.want)]; test.want != nil && got != 1 {
				t.Errorf("failures: %v", d.Stats().Failures)
			}
			compress(t, s, 3, textPage) // the slot is free again
		})
	}
}

func TestJob_BadStreams(t *testing.T) {
	_, d := start(t, iaamodel.Uniform(1, nil), nil)
	s := session(t, d, iaa.SessionConfig{})
	good := deflateGo(t, textPage, 6)
	for name, test := range map[string]struct {
		src  []byte
		dst  int
		want error
	}{
		"garbage":       {bytes.Repeat([]byte{0xff}, 100), pageSize, iaa.ErrMalformed},
		"truncated":     {good[:len(good)/2], pageSize, iaa.ErrMalformed},
		"inflates more": {good, pageSize - 1, iaa.ErrSize},
		"inflates less": {deflateGo(t, textPage[:100], 6), pageSize, iaa.ErrSize},
	} {
		if err := s.SubmitInflate(0, test.src, make([]byte, test.dst)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Wait(t.Context(), 0); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", name, err, test.want)
		}
	}
}

func TestSession_UseOfSlots(t *testing.T) {
	_, d := start(t, always(iaamodel.Action{Delay: 5 * time.Millisecond}), nil)
	s := session(t, d, iaa.SessionConfig{Slots: 2})
	if _, _, err := s.Poll(0); !errors.Is(err, iaa.ErrSlotIdle) {
		t.Errorf("Poll of a free slot: %v", err)
	}
	if err := s.SubmitCompress(0, textPage); err != nil {
		t.Fatal(err)
	}
	if err := s.SubmitCompress(0, textPage); !errors.Is(err, iaa.ErrSlotBusy) {
		t.Errorf("Submit to a busy slot: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Wait(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait with a cancelled context: %v", err)
	}
	if _, err := s.Wait(t.Context(), 0); err != nil {
		t.Errorf("Wait once more: %v", err)
	}
	for _, n := range []int{0, 1, pageSize + 1} {
		if err := s.SubmitCompress(1, make([]byte, n)); err == nil {
			t.Errorf("compressing %d bytes accepted", n)
		}
	}
	if err := s.SubmitInflate(1, nil, make([]byte, pageSize)); err == nil {
		t.Error("inflating nothing accepted")
	}
	for _, cfg := range []iaa.SessionConfig{{}, {Slots: -1, PageSize: pageSize}, {Slots: 1, PageSize: 1 << 30}} {
		if _, err := d.NewSession(cfg); err == nil {
			t.Errorf("session %+v accepted", cfg)
		}
	}
}

func TestJob_LateJobKeepsItsSlot(t *testing.T) {
	t.Parallel()
	_, d := start(t, once(iaamodel.Action{Delay: 2 * time.Second}), quick)
	s := session(t, d, iaa.SessionConfig{Slots: 1})
	if err := s.SubmitCompress(0, textPage); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Wait(t.Context(), 0); !errors.Is(err, iaa.ErrTimeout) {
		t.Fatalf("got %v, want ErrTimeout", err)
	}
	if err := s.SubmitCompress(0, textPage); !errors.Is(err, iaa.ErrSlotLost) || !s.Lost(0) {
		t.Errorf("slot used again before its job completed: %v", err)
	}
	for end := time.Now().Add(5 * time.Minute); s.Reclaim() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("slot still lost, long after the job completed")
		}
	}
	compress(t, s, 0, textPage)
	if st := d.Stats(); st.Lost != 1 || st.Reclaimed != 1 || st.Failures["timeout"] != 1 || st.Queues[0].Outstanding != 0 {
		t.Errorf("stats: %+v", st)
	}
}

func TestJob_VanishedJobIsDrained(t *testing.T) {
	t.Parallel()
	_, d := start(t, once(iaamodel.Action{Fate: iaamodel.FateVanish}), quick)
	s := session(t, d, iaa.SessionConfig{Slots: 1})
	if err := s.SubmitCompress(0, textPage); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Wait(t.Context(), 0); !errors.Is(err, iaa.ErrTimeout) {
		t.Fatalf("got %v, want ErrTimeout", err)
	}
	if err := s.Drain(t.Context()); err != nil {
		t.Fatal(err)
	}
	compress(t, s, 0, textPage)
}

func TestJob_HungJobKeepsItsMemory(t *testing.T) {
	m, d := start(t, once(iaamodel.Action{Fate: iaamodel.FateHang}), func(o *iaa.Options) {
		quick(o)
		o.DrainTimeout = 100 * time.Millisecond
	})
	s, err := d.NewSession(iaa.SessionConfig{Slots: 2, PageSize: pageSize})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.SubmitCompress(0, textPage); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Wait(t.Context(), 0); !errors.Is(err, iaa.ErrTimeout) {
		t.Fatalf("got %v, want ErrTimeout", err)
	}
	if err := s.Close(t.Context()); !errors.Is(err, iaa.ErrUndrained) {
		t.Errorf("Close with a hung job: %v, want ErrUndrained", err)
	}
	if _, regions := m.Live(); regions != 2 {
		t.Errorf("%d regions mapped, want the device's and the lost session's", regions)
	}
	if st := d.Stats(); st.LostBytes == 0 || st.Lost != 1 {
		t.Errorf("stats: %+v", st)
	}
	// Closing the device, in the clean-up, must give the memory back.
}

func TestQueue_IsDisabledAfterConsecutiveTimeouts(t *testing.T) {
	t.Parallel()
	_, d := start(t, always(iaamodel.Action{Fate: iaamodel.FateVanish}), quick)
	s := session(t, d, iaa.SessionConfig{Slots: 8})
	for i := range 3 {
		if err := s.SubmitCompress(i, textPage); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Wait(t.Context(), i); !errors.Is(err, iaa.ErrTimeout) {
			t.Fatalf("got %v, want ErrTimeout", err)
		}
		if err := s.Drain(t.Context()); err != nil && i < 2 {
			t.Fatal(err)
		}
	}
	if err := s.SubmitCompress(5, textPage); !errors.Is(err, iaa.ErrUnavailable) || d.Available() {
		t.Errorf("after three: %v, want ErrUnavailable", err)
	}
}

func TestQueue_DisabledDuringTheRun(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"queue", "device"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			cfg := iaamodel.Uniform(2, nil)
			cfg.Script.Run = func(j iaamodel.Job) iaamodel.Action {
				if j.Queue == "wq0.0" {
					return iaamodel.Action{Fate: iaamodel.FateVanish} // it was about to be disabled
				}
				return iaamodel.Action{}
			}
			const jobTimeout = 2 * time.Second
			m, d := start(t, cfg, func(o *iaa.Options) { o.JobTimeout = jobTimeout })
			s := session(t, d, iaa.SessionConfig{Slots: 16})
			for i := range 16 {
				if err := s.SubmitCompress(i, textPage); err != nil {
					t.Fatal(err)
				}
			}
			var err error
			if how == "queue" {
				err = m.Disable("wq0.0")
			} else {
				err = m.Remove("iax0")
			}
			if err != nil {
				t.Fatal(err)
			}
			done, gone := 0, 0
			began := time.Now()
			for i := range 16 {
				_, err := s.Wait(t.Context(), i)
				switch {
				case err == nil:
					done++
				case errors.Is(err, iaa.ErrQueueGone), errors.Is(err, iaa.ErrTimeout):
					gone++
				default:
					t.Errorf("job %d: %v", i, err)
				}
			}
			if took := time.Since(began); took > 4*jobTimeout {
				t.Errorf("took %v: every job waited for its own time-out", took)
			}
			if done == 0 || gone == 0 {
				t.Errorf("%d jobs done, %d gone: want both", done, gone)
			}
			if err := s.Drain(t.Context()); err != nil {
				t.Errorf("Drain: %v; a disabled queue has no jobs any more", err)
			}
			for i := range 16 { // the other device goes on
				compress(t, s, i, textPage)
			}
		})
	}
}

func TestQueue_EveryWayToSubmit(t *testing.T) {
	for _, mode := range []string{"shared", "dedicated"} {
		for _, mapped := range []bool{true, false} {
			name := map[bool]string{true: "mapped", false: "write"}[mapped]
			t.Run(mode+"/"+name, func(t *testing.T) {
				cfg := iaamodel.Uniform(1, func(d *iaamodel.Device) {
					d.Queues[0] = iaamodel.Queue{Mode: mode, Size: 8, RefuseMmap: !mapped}
				})
				_, d := start(t, cfg, nil)
				want := "write"
				if mapped {
					want = map[string]string{"shared": "enqcmd", "dedicated": "movdir64b"}[mode]
				}
				if got := d.Queues()[0].Submission; got != want {
					t.Errorf("submission by %s, want %s", got, want)
				}
				// More jobs than the queue holds: it must fill up and never be
				// overrun, which the machine would report as a violation.
				s := session(t, d, iaa.SessionConfig{Slots: 64, Retries: -1})
				rng := rand.New(rand.NewPCG(4, 4))
				full := 0
				for round := range 20 {
					var started []int
					pages := map[int][]byte{}
					for i := range 64 {
						pages[i] = page(rng, pageSize)
						switch err := s.SubmitCompress(i, pages[i]); {
						case err == nil:
							started = append(started, i)
						case errors.Is(err, iaa.ErrQueueFull):
							full++
						default:
							t.Fatal(err)
						}
					}
					for _, i := range started {
						r, err := s.Wait(t.Context(), i)
						if err != nil {
							t.Fatalf("round %d, job %d: %v", round, i, err)
						}
						if got, err := inflateGo(r.Output); !r.Overflow && (err != nil || !bytes.Equal(got, pages[i])) {
							t.Fatalf("round %d, job %d: wrong bytes", round, i)
						}
					}
				}
				if st := d.Stats(); full == 0 || st.QueueFull != int64(full) || st.Queues[0].Outstanding != 0 {
					t.Errorf("%d submissions refused, stats %+v", full, st)
				}
			})
		}
	}
}

func TestQueue_FullQueueIsRetried(t *testing.T) {
	m, d := start(t, iaamodel.Uniform(1, nil), nil)
	s := session(t, d, iaa.SessionConfig{})
	if err := m.Refuse("wq0.0", iaa.DefaultRetries); err != nil {
		t.Fatal(err)
	}
	compress(t, s, 0, textPage)
	if st := d.Stats(); st.Retries != iaa.DefaultRetries {
		t.Errorf("%d retries, want %d", st.Retries, iaa.DefaultRetries)
	}
	if err := m.Refuse("wq0.0", -1); err != nil {
		t.Fatal(err)
	}
	if err := s.SubmitCompress(0, textPage); !errors.Is(err, iaa.ErrQueueFull) {
		t.Errorf("queue full for good: %v", err)
	}
	if err := m.Refuse("wq0.0", 0); err != nil {
		t.Fatal(err)
	}
	compress(t, s, 0, textPage)
}

func TestQueue_NearDevicesComeFirst(t *testing.T) {
	cfg := iaamodel.Uniform(3, nil)
	cfg.Devices[0].Node, cfg.Devices[1].Node, cfg.Devices[2].Node = 0, 1, 1
	for i := range cfg.Devices {
		cfg.Devices[i].Queues[0].Size = 4
	}
	_, d := start(t, cfg, func(o *iaa.Options) { o.Nodes = []int{1} })
	if q := d.Queues(); q[0].Node != 1 || q[1].Node != 1 || q[2].Node != 0 {
		t.Errorf("queues: %+v", q)
	}
	s := session(t, d, iaa.SessionConfig{Slots: 64})
	for range 20 {
		compress(t, s, 0, textPage)
	}
	st := d.Stats()
	if far, a, b := st.Queues[2].Submitted, st.Queues[0].Submitted, st.Queues[1].Submitted; far != 1 || a < 5 || b < 5 {
		t.Errorf("jobs on the near devices %d and %d, on the far one %d: want it to have had the NOOP only", a, b, far)
	}
	for i := range 64 { // more than the near ones hold
		if err := s.SubmitCompress(i, textPage); err != nil && !errors.Is(err, iaa.ErrQueueFull) {
			t.Fatal(err)
		}
	}
	if st := d.Stats(); st.Queues[2].Submitted < 2 {
		t.Error("the far device got nothing while the near ones were full")
	}
	// Results that nobody collects do not keep their place in the queue.
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, q := range d.Stats().Queues {
		if q.Outstanding != 0 {
			t.Errorf("%s: %d jobs outstanding after the session was closed", q.Queue, q.Outstanding)
		}
	}
}
