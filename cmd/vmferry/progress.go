package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/vmferry/vmferry/migration"
)

// progress shows how far a command is: a bar on a terminal, else a plain line
// now and then, or a line of JSON each time.
type progress struct {
	mu    sync.Mutex
	out   io.Writer
	every time.Duration
	shown time.Time
	json  bool
	bars  *mpb.Progress
	bar   *mpb.Bar
	text  string
}

// newProgress makes a progress display on stderr. With asJSON it goes to
// stdout, where machines look.
func (a *app) newProgress(asJSON bool) *progress {
	p := &progress{out: a.stderr, every: 2 * time.Second}
	if asJSON {
		p.out, p.json, p.every = a.stdout, true, 200*time.Millisecond
		return p
	}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		p.bars = mpb.New(mpb.WithOutput(os.Stderr), mpb.WithWidth(40), mpb.WithRefreshRate(100*time.Millisecond))
		p.bar = p.bars.New(0, mpb.BarStyle(), mpb.BarRemoveOnComplete(),
			mpb.PrependDecorators(decor.Percentage(decor.WC{W: 5})),
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string {
				p.mu.Lock()
				defer p.mu.Unlock()
				return p.text
			})))
	}
	return p
}

// show shows that done of total is done. record is what machines get, text
// what people do.
func (p *progress) show(done, total int64, text string, record any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		p.text = " " + text
		bar := p.bar
		p.mu.Unlock()
		bar.SetTotal(max(total, 1), false)
		bar.SetCurrent(min(done, total))
		p.mu.Lock()
		return
	}
	if time.Since(p.shown) < p.every || text == p.text {
		return
	}
	p.shown, p.text = time.Now(), text
	if p.json {
		p.line(map[string]any{"progress": record})
		return
	}
	fmt.Fprintln(p.out, text)
}

// report shows the progress of a use case.
func (p *progress) report(s migration.Progress) {
	switch s.Task {
	case migration.TaskSave:
		p.show(int64(s.TotalBytes-s.Remaining), int64(s.TotalBytes), saveLine(s), s)
	case migration.TaskRestore, migration.TaskSend:
		p.show(int64(s.Normal), int64(s.TotalPages), fmt.Sprintf("%d of %d pages, %s sent", s.Normal, s.TotalPages, size(s.Sent)), s)
	case migration.TaskReceive:
		p.show(0, 0, fmt.Sprintf("%d pages, %s received, %s stored", s.Normal, size(s.Received), size(s.Stored)), s)
	case migration.TaskMigrate:
		p.show(int64(s.TotalBytes-s.Remaining), int64(s.TotalBytes), migrateLine(s), s)
	case migration.TaskAccept:
		p.show(0, 0, acceptLine(s.Phase), s)
	case migration.TaskVerify:
		p.show(s.Bytes, int64(s.TotalBytes), fmt.Sprintf("%s of %s checked", size(s.Bytes), size(s.TotalBytes)), s)
	}
}

// saveLine says how far a save is.
func saveLine(s migration.Progress) string {
	switch s.Phase {
	case "connect":
		return "waiting for QEMU to connect"
	case "memory":
		line := fmt.Sprintf("round %d, %d pages, %s received, %s stored, %s/s", s.Round, s.Normal, size(s.Received), size(s.Stored), size(s.BytesPerSecond))
		if s.TimeToGo > 0 {
			line += fmt.Sprintf(", about %s to go", s.TimeToGo.Round(100*time.Millisecond))
		}
		return line
	case "paused":
		return "the machine is paused, all has arrived"
	}
	return "writing the snapshot to the disk"
}

// migrateLine says how far a migration to another QEMU is.
func migrateLine(s migration.Progress) string {
	switch s.Phase {
	case "compare":
		return "comparing the two sides"
	case "connect":
		return "waiting for QEMU to connect"
	case "at-pause":
		return "the machine is paused, the command runs"
	case "finish":
		return "the machine is the destination's"
	}
	line := fmt.Sprintf("round %d, %s sent", s.Round, size(s.Sent))
	if s.Link > 0 {
		line += fmt.Sprintf(" (%s on the link)", size(s.Link))
	}
	line += fmt.Sprintf(", %s/s", size(s.BytesPerSecond))
	if s.Round > 1 { // in the first round QEMU knows neither
		line += fmt.Sprintf(", %d pages/s written", s.DirtyPagesPerSecond)
	}
	if s.Throttle > 0 {
		line += fmt.Sprintf(", slowed down by %d %%", s.Throttle)
	}
	if s.Round > 1 && s.ExpectedDowntime > 0 {
		line += fmt.Sprintf(", expected downtime %v", s.ExpectedDowntime.Round(time.Millisecond))
	}
	if s.TimeToGo > 0 {
		line += fmt.Sprintf(", about %s to go", s.TimeToGo.Round(100*time.Millisecond))
	}
	return line
}

// acceptLine says how far a destination is.
func acceptLine(phase string) string {
	switch phase {
	case "wait":
		return "waiting for the source"
	case "compare":
		return "comparing the two sides"
	case "memory":
		return "the machine arrives"
	case "loaded":
		return "the machine is loaded and paused"
	}
	return "the machine is this QEMU's"
}

// result writes what a use case came to: a line of JSON, or the text.
func (p *progress) result(a *app, asJSON bool, result any, format string, args ...any) error {
	if asJSON {
		p.line(map[string]any{"result": result})
		return nil
	}
	_, err := fmt.Fprintf(a.stdout, format, args...)
	return err
}

// made is result for a command that made a snapshot, which stays when the result cannot
// be written.
func (p *progress) made(a *app, path string, asJSON bool, result any, format string, args ...any) error {
	if err := p.result(a, asJSON, result, format, args...); err != nil {
		return fmt.Errorf("%w (the snapshot %s is complete and stays)", err, path)
	}
	return nil
}

func (p *progress) line(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // only types of this program
	}
	fmt.Fprintf(p.out, "%s\n", b)
}

// end takes the bar away.
func (p *progress) end() {
	if p.bar != nil {
		p.bar.Abort(true)
		p.bars.Wait()
	}
}

// size writes a number of bytes as people read it.
func size[T int64 | uint64 | float64 | int](n T) string {
	v := float64(n)
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if v < 1024 {
			if unit == "B" {
				return fmt.Sprintf("%.0f %s", v, unit)
			}
			return fmt.Sprintf("%.1f %s", v, unit)
		}
		v /= 1024
	}
	return fmt.Sprintf("%.2f TiB", v)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
