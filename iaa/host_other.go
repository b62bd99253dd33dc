//go:build !linux

package iaa

import (
	"errors"
	"fmt"
	"time"
)

// host has no accelerators, because the kernel driver is Linux's. Another System works,
// for example that of package iaamodel.
type host struct{ start time.Time }

func defaultSystem() System { return &host{start: time.Now()} }

func (h *host) Instructions() Instructions { return Instructions{} }

func (h *host) Now() time.Duration { return time.Since(h.start) }

func (h *host) OpenQueue(path string) (Node, error) {
	return nil, fmt.Errorf("iaa: open %s: %w", path, errors.ErrUnsupported)
}

func (h *host) Map(int, bool) ([]byte, error) {
	return nil, fmt.Errorf("iaa: map memory for devices: %w", errors.ErrUnsupported)
}

func (h *host) Unmap([]byte) error { return errors.ErrUnsupported }

func (h *host) Touch(*uint32, bool) {}

func (h *host) Copy(dst, src []byte) { copy(dst, src) }

func (h *host) Relax(*uint32, uint32, int) {}
