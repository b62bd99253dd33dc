package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/vmstate"
)

// check looks for what a correct digest does not rule out. Writer and reader
// both call it: the reader because a snapshot may be forged, the writer so that
// it completes nothing that a reader refuses.
func (m *Manifest) check() error {
	layout, err := m.Layout()
	if err != nil {
		return corrupt(manifestName, "%v", err)
	}
	if _, err := m.Store.codec(); err != nil {
		return corrupt(manifestName, "%v", err)
	}
	if err := errors.Join(m.checkTexts(), checkBlockNames(layout), m.Machine.Hardware.Check()); err != nil {
		return corrupt(manifestName, "%v", err)
	}
	if err := m.checkObjects(); err != nil {
		return corrupt(manifestName, "%v", err)
	}
	if err := m.checkTotals(layout); err != nil {
		return corrupt(manifestName, "%v", err)
	}
	return nil
}

// checkTexts looks at what describes the machine.
func (m *Manifest) checkTexts() error {
	for _, text := range []struct{ member, value string }{
		{"tool", m.Tool}, {"machine.type", m.Machine.Type}, {"machine.uuid", m.Machine.UUID},
		{"machine.run_state", m.Machine.RunState}, {"machine.qemu", m.Machine.QEMU},
	} {
		if len(text.value) > maxTextLen {
			return fmt.Errorf("%s has %d bytes (at most %d)", text.member, len(text.value), maxTextLen)
		}
		if !utf8.ValidString(text.value) {
			return fmt.Errorf("%s %q is not UTF-8, so that the manifest cannot say it", text.member, text.value)
		}
	}
	if uuid, err := hex.DecodeString(m.Machine.UUID); err != nil || len(uuid) != 0 && len(uuid) != 16 {
		return fmt.Errorf("machine.uuid %q (want 32 hexadecimal digits)", m.Machine.UUID)
	}
	return nil
}

// checkBlockNames refuses names that JSON would change.
func checkBlockNames(l *guest.Layout) error {
	for _, b := range l.Blocks {
		if !utf8.ValidString(b.Name) {
			return fmt.Errorf("the name of RAM block %d, %q, is not UTF-8, so that the manifest cannot say it", b.Index, b.Name)
		}
	}
	return nil
}

// checkObjects looks at names, sizes, digests and how many there are of a role.
func (m *Manifest) checkObjects() error {
	names, roles := map[string]bool{manifestName: true}, map[Role]int{}
	for _, o := range m.Objects {
		if err := store.CheckName(o.Name); err != nil {
			return err
		}
		if names[o.Name] {
			return fmt.Errorf("object %q is named twice", o.Name)
		}
		if sum, err := hex.DecodeString(o.SHA256); o.Size < 0 || err != nil || len(sum) != sha256.Size {
			return fmt.Errorf("object %q of %d bytes with digest %q", o.Name, o.Size, o.SHA256)
		}
		if limit, ok := roleLimits[o.Role]; ok && o.Size > limit {
			return fmt.Errorf("object %q of role %q has %d bytes (at most %d)", o.Name, o.Role, o.Size, limit)
		}
		names[o.Name] = true
		roles[o.Role]++
	}
	for _, role := range []Role{RoleIndex, RoleHead, RoleDevices} {
		if roles[role] != 1 {
			return fmt.Errorf("%d objects of role %q (want 1)", roles[role], role)
		}
	}
	if roles[RoleStates] > 1 {
		return fmt.Errorf("%d objects of role %q (want at most 1)", roles[RoleStates], RoleStates)
	}
	if roles[RolePages] > maxPageObjects {
		return fmt.Errorf("%d objects of role %q (want at most %d)", roles[RolePages], RolePages, maxPageObjects)
	}
	return nil
}

// roleLimits bound the objects that are read whole.
var roleLimits = map[Role]int64{RoleHead: maxHead, RoleDevices: maxMeta, RoleStates: maxMeta}

// checkTotals compares the totals with what they sum up.
func (m *Manifest) checkTotals(l *guest.Layout) error {
	var kept, all uint64 // below 2^37: the layout bounds all pages together
	for i, b := range m.Blocks {
		if b.Pages > l.Pages(l.Blocks[i]) {
			return fmt.Errorf("RAM block %q keeps %d of %d pages", b.Name, b.Pages, l.Pages(l.Blocks[i]))
		}
		kept += b.Pages
		all += l.Pages(l.Blocks[i])
	}
	t := m.Totals
	if t.Pages != kept || t.Zero != all-kept {
		return fmt.Errorf("totals of %d pages and %d zero pages (the RAM blocks have %d and %d)", t.Pages, t.Zero, kept, all-kept)
	}
	if t.Extents > t.Pages || t.Pages > t.Extents*uint64(extentPages(l.PageSize)) {
		return fmt.Errorf("%d pages in %d extents", t.Pages, t.Extents)
	}
	left := t.PageBytes // of which no object has some
	if t.PageBytes < 0 || uint64(t.PageBytes) > t.Extents*uint64(maxExtentLen(l.PageSize)) {
		return fmt.Errorf("%d bytes of pages in %d extents", t.PageBytes, t.Extents)
	}
	// At most a quarter is superseded. A sparse file of any size costs
	// nothing, but reading it never ends.
	room := t.PageBytes/3*4 + 4
	for _, o := range m.Objects {
		switch o.Role {
		case RolePages:
			left -= min(left, o.Size)
			if room -= o.Size; room < 0 {
				return fmt.Errorf("object %q takes the objects of pages over 4 thirds of the %d bytes that are pages", o.Name, t.PageBytes)
			}
		case RoleIndex:
			if o.Size != t.IndexBytes {
				return fmt.Errorf("an index of %d bytes (the totals say %d)", o.Size, t.IndexBytes)
			}
		}
	}
	if left > 0 {
		return fmt.Errorf("%d bytes of pages are in no object", left)
	}
	return nil
}

// checkHead compares the head with the manifest.
func (m *Manifest) checkHead(head []byte) error {
	c, err := vmstate.ParseHead(head)
	if err != nil {
		return corrupt("head", "%v", err)
	}
	if c.PageSize() != m.Machine.PageSize {
		return corrupt("head", "pages of %d bytes (the manifest says %d)", c.PageSize(), m.Machine.PageSize)
	}
	if c.Machine != m.Machine.Type {
		return corrupt("head", "it is of machine %q, the manifest of %q", c.Machine, m.Machine.Type)
	}
	return nil
}
