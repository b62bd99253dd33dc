package hybrid_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry/iaa"
	"github.com/vmferry/vmferry/iaa/hybrid"
	"github.com/vmferry/vmferry/iaa/iaamodel"
)

func quick(o *iaa.Options) { o.JobTimeout = 40 * time.Millisecond }

// every has each n-th job meet a.
func every(n int, a iaamodel.Action) iaamodel.Config {
	cfg := iaamodel.Uniform(1, nil)
	i := 0
	cfg.Script.Run = func(iaamodel.Job) iaamodel.Action {
		if i++; i%n == 0 {
			return a
		}
		return iaamodel.Action{}
	}
	return cfg
}

func TestChannel_FailedJobsAreRedoneInSoftware(t *testing.T) {
	for name, test := range map[string]struct {
		action iaamodel.Action
		cause  string
	}{
		"device error":   {iaamodel.Action{Status: iaa.StatusHardwareError}, "hardware"},
		"wrong size":     {iaamodel.Action{Resize: 1 << 16}, "bad-record"},
		"stale record":   {iaamodel.Action{Stale: true}, "bad-record"},
		"wrong bytes":    {iaamodel.Action{Corrupt: true}, "wrong-bytes"},
		"vanished":       {iaamodel.Action{Fate: iaamodel.FateVanish}, "timeout"},
		"late":           {iaamodel.Action{Delay: 700 * time.Millisecond}, "timeout"},
		"malformed data": {iaamodel.Action{Status: iaa.StatusAnalyticsError, Code: iaa.CodeBadDistance}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, every(20, test.action), hybrid.Config{VerifyEvery: 1, CPU: 0.2}, quick)
			ps := pages(t, r.m, rand.New(rand.NewPCG(3, 3)), 2*packetPages)
			register(t, r.d, whole(ps))
			streams := compressAll(t, r.ch, ps)
			checkStreams(t, streams, ps)

			c := newCodec(t)
			var srcs, want [][]byte
			for i := range ps {
				room := make([]byte, pageSize-1)
				if n := c.Deflate(room, ps[i]); n > 0 {
					srcs, want = append(srcs, room[:n]), append(want, ps[i])
				}
			}
			dsts := pages(t, r.m, rand.New(rand.NewPCG(8, 8)), len(srcs))
			register(t, r.d, whole(dsts))
			if err := inflateAll(t, r.ch, srcs, dsts); err != nil {
				t.Fatal(err)
			}
			for i := range dsts {
				if !bytes.Equal(dsts[i], want[i]) {
					t.Fatalf("page %d: wrong bytes", i)
				}
			}
			st := r.ch.Stats()
			total := st.Hardware + st.Software
			for _, n := range st.Fallback {
				total += n
			}
			if total != int64(len(ps)+len(srcs)) || test.cause != "" && st.Fallback[test.cause] == 0 {
				t.Errorf("stats: %+v for %d pages", st, len(ps)+len(srcs))
			}
		})
	}
}

func TestChannel_ErrorNamesTheMalformedStream(t *testing.T) {
	r := newRig(t, iaamodel.Uniform(1, nil), hybrid.Config{CPU: 0.2}, nil)
	ps := pages(t, r.m, rand.New(rand.NewPCG(3, 3)), 3)
	err := inflateAll(t, r.ch, [][]byte{{3, 0}, {0xff, 1}, {3, 0}}, ps)
	if err == nil || !strings.Contains(err.Error(), "page ") {
		t.Errorf("got %v, want an error that names the page", err)
	}
	for _, bad := range [][2][][]byte{
		{{{1}}, {make([]byte, 5)}},
		{{{}}, {make([]byte, pageSize)}},
		{{{1}, {2}}, {make([]byte, pageSize)}},
		{{make([]byte, pageSize+1)}, {make([]byte, pageSize)}},
	} {
		if _, err := r.ch.Inflate(bad[0], bad[1]); err == nil {
			t.Errorf("%d streams for %d pages accepted", len(bad[0]), len(bad[1]))
		}
	}
}

func TestChannel_CountsPackets(t *testing.T) {
	r := newRig(t, iaamodel.Uniform(1, nil), hybrid.Config{}, nil)
	ps := pages(t, r.m, rand.New(rand.NewPCG(3, 3)), 4)
	var started []*hybrid.Packet
	for range hybrid.DefaultDepth {
		p, err := r.ch.Compress(ps)
		if err != nil {
			t.Fatal(err)
		}
		started = append(started, p)
	}
	if _, err := r.ch.Compress(ps); !errors.Is(err, hybrid.ErrTooManyPackets) {
		t.Errorf("third packet: %v", err)
	}
	for _, p := range started {
		if err := p.Finish(t.Context()); err != nil {
			t.Fatal(err)
		}
		p.Release()
		p.Release() // twice is once
		if err := p.Finish(t.Context()); !errors.Is(err, hybrid.ErrReleased) {
			t.Errorf("Finish after Release: %v", err)
		}
	}
	if _, err := r.ch.Compress(make([][]byte, packetPages+1)); err == nil {
		t.Error("pages without bytes accepted")
	}
}

func TestChannel_LossOfTheDevice(t *testing.T) {
	for _, require := range []bool{false, true} {
		r := newRig(t, iaamodel.Uniform(1, nil), hybrid.Config{Require: require}, quick)
		ps := pages(t, r.m, rand.New(rand.NewPCG(3, 3)), 3*packetPages)
		checkStreams(t, compressAll(t, r.ch, ps), ps)
		if err := r.m.Remove("iax0"); err != nil {
			t.Fatal(err)
		}
		if !require {
			checkStreams(t, compressAll(t, r.ch, ps), ps)
			if !r.ch.Software() {
				t.Error("channel does not know that it works in software")
			}
			continue
		}
		var err error
		for range 20 {
			var p *hybrid.Packet
			if p, err = r.ch.Compress(ps[:packetPages]); err != nil {
				break
			}
			if err = p.Finish(t.Context()); err != nil {
				break
			}
			p.Release()
		}
		if !errors.Is(err, iaa.ErrUnavailable) {
			t.Errorf("hardware required and gone: %v, want ErrUnavailable", err)
		}
	}
}

func TestChannel_FullQueueFallsBackToSoftware(t *testing.T) {
	r := newRig(t, iaamodel.Uniform(1, nil), hybrid.Config{}, nil)
	ps := pages(t, r.m, rand.New(rand.NewPCG(3, 3)), packetPages)
	if err := r.m.Refuse("wq0.0", -1); err != nil {
		t.Fatal(err)
	}
	checkStreams(t, compressAll(t, r.ch, ps), ps)
	if st := r.ch.Stats(); st.Fallback["queue-full"] != packetPages {
		t.Errorf("stats: %+v", st)
	}
	if err := r.m.Refuse("wq0.0", 0); err != nil {
		t.Fatal(err)
	}
	checkStreams(t, compressAll(t, r.ch, ps), ps)
	if st := r.ch.Stats(); st.Hardware != packetPages {
		t.Errorf("stats: %+v; the device should work again", st)
	}
}

// TestChannel_HungJobIntoGuestMemory: the one failure that software cannot put right.
func TestChannel_HungJobIntoGuestMemory(t *testing.T) {
	for _, bounce := range []bool{false, true} {
		m, err := iaamodel.New(t.TempDir(), every(3, iaamodel.Action{Fate: iaamodel.FateHang}))
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		opts := m.Options()
		quick(&opts)
		opts.DrainTimeout = 200 * time.Millisecond
		d, err := iaa.Open(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		ch, err := hybrid.NewChannel(d, hybrid.Config{Pages: 4, PageSize: pageSize, Codec: newCodec(t), Bounce: bounce})
		if err != nil {
			t.Fatal(err)
		}
		ps := pages(t, m, rand.New(rand.NewPCG(3, 3)), 8)
		register(t, d, whole(ps))
		room, err := ch.Buffer(pageSize)
		if err != nil {
			t.Fatal(err)
		}
		text := bytes.Repeat([]byte("guest "), pageSize)[:pageSize]
		stream := room[:newCodec(t).Deflate(room, text)]
		p, err := ch.Inflate([][]byte{stream, stream, stream}, ps[:3])
		if err != nil {
			t.Fatal(err)
		}
		err = p.Finish(t.Context())
		if bounce {
			if err != nil || !bytes.Equal(ps[2], text) {
				t.Errorf("bounced: %v", err)
			}
		} else if !errors.Is(err, iaa.ErrUndrained) {
			t.Errorf("in place: %v, want ErrUndrained", err)
		}
		if err := ch.Close(t.Context()); !errors.Is(err, iaa.ErrUndrained) {
			t.Errorf("Close: %v, want ErrUndrained", err)
		}
		// The channel's memory is kept: the device's own, the session's and the
		// buffer, beside the guest's. Closing the device gives it back.
		if _, regions := m.Live(); regions != 4 {
			t.Errorf("%d regions mapped after Close, want 4", regions)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if _, regions := m.Live(); regions != 1 {
			t.Errorf("%d regions mapped after the device was closed, want the guest's", regions)
		}
	}
}
