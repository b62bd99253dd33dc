package iaaprobe

import (
	"context"
	"fmt"
	"time"
)

// DefaultBudget is the default of Config.Budget: a run ends within 30 s, and the last pass
// of a row can take longer than its forecast.
const DefaultBudget = 20 * time.Second

// A row begins with a pass of firstPages pages in each channel. The time of a pass forecasts
// that of the next one, which has at most growth times as many pages: a forecast from a
// short pass is rough.
const (
	firstPages = 2
	growth     = 16
)

// part is the part of the budget that New may take, one in part.
const part = 8

// Progress says how far Run is.
type Progress struct {
	Done, Total int // rows
	Row         Row // the row that is measured
	Pages       int // of the pass that begins, in each channel
}

// String returns the progress as a line for people.
func (p Progress) String() string {
	return fmt.Sprintf("row %d of %d: %s, %s, %d devices, memory %s, %d pages a channel",
		p.Done+1, p.Total, p.Row.Direction, p.Row.Mode, p.Row.Devices, p.Row.Memory, p.Pages)
}

// Run measures all rows within the budget: a row for which the processor or the devices are
// too slow has fewer pages.
func (b *Probe) Run(ctx context.Context) error {
	rows := b.plan()
	for i, row := range rows {
		began := b.cfg.Now()
		left := b.cfg.Budget - (began - b.began)
		if err := b.runWithin(ctx, row, left/time.Duration(len(rows)-i), Progress{Done: i, Total: len(rows), Row: row}); err != nil {
			return err
		}
	}
	return nil
}

// runWithin measures a row with as many pages as the time allows. The last pass, which has
// the most pages, is the result.
func (b *Probe) runWithin(ctx context.Context, row Row, allowed time.Duration, p Progress) error {
	began := b.cfg.Now()
	most := b.cfg.Packets * PacketPages
	if row.Memory != Present {
		most = min(most, distinctPages)
	}
	for pages := min(firstPages, most); ; {
		p.Pages = pages
		b.cfg.Progress(p)
		passBegan := b.cfg.Now()
		result, err := b.pass(ctx, row, pages)
		if err != nil {
			return err
		}
		now := b.cfg.Now()
		next := affordable(pages, min(growth*pages, most), now-passBegan, allowed-(now-began))
		if next <= pages {
			b.Rows = append(b.Rows, result)
			return nil
		}
		pages = next
	}
}

// affordable returns how many pages, at most a number, a pass can have that ends within left,
// if pages took as long as took. It returns 0 if that is neither most nor twice as many pages:
// such a pass is not worth its time.
func affordable(pages, most int, took, left time.Duration) int {
	n := int(min(float64(pages)*float64(left)/float64(max(took, 1)), float64(most)))
	if n < 2*pages && n < most {
		return 0
	}
	return n
}

// fastest returns the shortest time of at most n calls of f. It stops early when the calls
// together took longer than limit.
func (b *Probe) fastest(n int, limit time.Duration, f func()) time.Duration {
	began := b.cfg.Now()
	best := time.Duration(0)
	for i := range n {
		start := b.cfg.Now()
		f()
		now := b.cfg.Now()
		if took := now - start; i == 0 || took < best {
			best = took
		}
		if now-began >= limit {
			break
		}
	}
	return best
}
