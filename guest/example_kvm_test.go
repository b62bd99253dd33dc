package guest_test

import (
	"fmt"
	"log"

	"github.com/vmferry/vmferry/guest"
)

// kvm is the part of a VMM's KVM interface that a dirty log needs.
type kvm interface {
	// SetLogDirty turns KVM_MEM_LOG_DIRTY_PAGES on or off for a slot
	// (KVM_SET_USER_MEMORY_REGION).
	SetLogDirty(slot int, on bool) error
	// DirtyLog is KVM_GET_DIRTY_LOG: it sets a bit for each page of the slot
	// that was written since the last call. With
	// KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 the VMM must also call
	// KVM_CLEAR_DIRTY_LOG with these bits before it reads the pages. A VMM with
	// a dirty ring (KVM_CAP_DIRTY_LOG_RING) harvests and resets the ring here.
	DirtyLog(slot int, bitmap []uint64) error
}

// kvmLog is a guest.DirtyLog of a VMM's KVM. Slot i is RAM block i.
type kvmLog struct {
	vm      kvm
	layout  *guest.Layout
	scratch guest.Bitmap
}

func (k *kvmLog) Start() error {
	for i := range k.layout.Blocks {
		if err := k.vm.SetLogDirty(i, true); err != nil {
			return err
		}
	}
	// Discard the writes that KVM logged before Start.
	return k.Collect(guest.NewBitmap(k.layout))
}

func (k *kvmLog) Collect(b guest.Bitmap) error {
	for i := range k.layout.Blocks {
		if err := k.vm.DirtyLog(i, k.scratch[i]); err != nil {
			return err
		}
		for w, word := range k.scratch[i] {
			b[i][w] |= word // bits of earlier calls stay
		}
	}
	return nil
}

func (k *kvmLog) Stop() error {
	for i := range k.layout.Blocks {
		if err := k.vm.SetLogDirty(i, false); err != nil {
			return err
		}
	}
	return nil
}

// A few lines make KVM's dirty log a guest.DirtyLog, which is all that live.Migrate
// needs. KVM does not log what the VMM's own devices write to guest memory, such as
// virtio devices in threads of the VMM. Such devices record their writes in
// dirty.Marks, and guest.JoinLogs joins both logs.
func ExampleDirtyLog() {
	layout, err := guest.NewLayout(4096, []guest.Block{{Name: "pc.ram", Length: 1 << 20}})
	if err != nil {
		log.Fatal(err)
	}
	vm := &pretendKVM{}
	var dirty guest.DirtyLog = &kvmLog{vm: vm, layout: layout, scratch: guest.NewBitmap(layout)}
	if err := dirty.Start(); err != nil {
		log.Fatal(err)
	}
	vm.written = 1 << 3 // page 3, by the guest
	pages := guest.NewBitmap(layout)
	if err := dirty.Collect(pages); err != nil {
		log.Fatal(err)
	}
	fmt.Println(pages.Count(), "page is dirty")
	// Output: 1 page is dirty
}

// pretendKVM is a KVM with one slot.
type pretendKVM struct{ written uint64 }

func (*pretendKVM) SetLogDirty(int, bool) error { return nil }

func (p *pretendKVM) DirtyLog(_ int, bitmap []uint64) error {
	clear(bitmap)
	bitmap[0], p.written = p.written, 0
	return nil
}
