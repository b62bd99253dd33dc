package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/vmferry/vmferry/internal/corpus"
	"github.com/vmferry/vmferry/internal/qemutest"
)

// machine is a machine to save and restore.
type machine struct {
	name, title string
	source      *qemutest.VM
	cfg         qemutest.Config
	runs        bool   // the machine runs
	folder      string // of the full machine's memory files, removed at the end
}

func (m *machine) close() error {
	if m.source != nil {
		m.source.Close()
	}
	if m.folder == "" {
		return nil
	}
	return os.RemoveAll(m.folder)
}

// renewSource starts the paused machine again over the same memory: QEMU migrates a machine
// only once unless it runs in between.
func (m *machine) renewSource(ctx context.Context) (err error) {
	if m.runs {
		return nil
	}
	m.source.Close()
	m.source, err = qemutest.Launch(ctx, m.cfg)
	return err
}

// check checks that the guest counts.
func (m *machine) check(ctx context.Context, vm *qemutest.VM) error {
	if !m.runs {
		return nil
	}
	return vm.WaitProgress(ctx, 20*time.Second)
}

// destination starts a QEMU that waits for the machine. Its memory is new.
func (m *machine) destination(ctx context.Context) (*qemutest.VM, error) {
	cfg := m.cfg
	cfg.Incoming = true
	if cfg.MemFile != "" {
		cfg.MemFile = filepath.Join(m.folder, "destination")
		if err := os.RemoveAll(cfg.MemFile); err != nil {
			return nil, err
		}
	}
	return qemutest.Launch(ctx, cfg)
}

// startGuest starts a guest that runs, counts and rewrites memory.
func (b *bench) startGuest(ctx context.Context) (*machine, error) {
	m := &machine{
		name: "guest", runs: true,
		title: fmt.Sprintf("running guest of %d MiB", b.guestMiB),
		cfg:   qemutest.Config{MemoryMiB: b.guestMiB, FillMiB: b.fillMiB, WorkMiB: 8, RateMiBps: 2},
	}
	var err error
	if m.source, err = qemutest.Launch(ctx, m.cfg); err != nil {
		return nil, err
	}
	if err := m.source.WaitReady(ctx); err != nil {
		m.source.Close()
		return nil, err
	}
	return m, nil
}

// startFull starts a paused machine, all of whose memory is pages of a guest.
func (b *bench) startFull(ctx context.Context) (_ *machine, err error) {
	m := &machine{name: "full"}
	if m.folder, err = os.MkdirTemp(b.memoryDir, "vf-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			os.RemoveAll(m.folder)
		}
	}()
	pages, kind, err := b.guestPages()
	if err != nil {
		return nil, err
	}
	m.title = fmt.Sprintf("paused machine of %d MiB, full of %d %s pages, repeated", b.fullMiB, len(pages)/corpus.PageSize, kind)
	m.cfg = qemutest.Config{MemoryMiB: b.fullMiB, MemFile: filepath.Join(m.folder, "source"), Paused: true}
	if err := fillFile(m.cfg.MemFile, int64(b.fullMiB)<<20, pages); err != nil {
		return nil, err
	}
	m.source, err = qemutest.Launch(ctx, m.cfg)
	return m, err
}

// generatedPages is the number of pages that are generated without a file of pages.
const generatedPages = 8192

// guestPages returns the pages of the full machine, and their kind.
func (b *bench) guestPages() (pages []byte, kind string, err error) {
	if b.pages == "" {
		return corpus.Generate(1, generatedPages), "generated", nil
	}
	f, err := os.Open(b.pages)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(b.pages, ".zst") {
		z, err := zstd.NewReader(f)
		if err != nil {
			return nil, "", err
		}
		defer z.Close()
		r = z
	}
	if pages, err = io.ReadAll(r); err != nil {
		return nil, "", fmt.Errorf("%s: %w", b.pages, err)
	}
	pages = pages[:len(pages)/corpus.PageSize*corpus.PageSize]
	if len(pages) == 0 {
		return nil, "", fmt.Errorf("%s has no page", b.pages)
	}
	return pages, "real", nil
}

// fillFile makes a file of size bytes that repeats the pages.
func fillFile(path string, size int64, pages []byte) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for at := int64(0); at < size; at += int64(len(pages)) {
		if _, err := f.Write(pages[:min(int64(len(pages)), size-at)]); err != nil {
			return err
		}
	}
	return nil
}
