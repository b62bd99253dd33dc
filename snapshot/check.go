package snapshot

import (
	"encoding/hex"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/vmferry/vmferry/guest"
	"github.com/vmferry/vmferry/store"
	"github.com/vmferry/vmferry/vmstate"
)

// check checks the content of the manifest, which a correct digest does not. The reader
// calls it because a snapshot may be forged. The writer calls it so that it completes no
// snapshot that a reader refuses.
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

// checkTexts checks the texts that describe the machine.
func (m *Manifest) checkTexts() error {
	for _, text := range []struct{ member, value string }{
		{"tool", m.Tool}, {"machine.type", m.Machine.Type}, {"machine.uuid", m.Machine.UUID},
		{"machine.run_state", m.Machine.RunState}, {"machine.qemu", m.Machine.QEMU},
	} {
		if len(text.value) > maxTextLen {
			return fmt.Errorf("%s has %d bytes (at most %d)", text.member, len(text.value), maxTextLen)
		}
		if !utf8.ValidString(text.value) {
			return fmt.Errorf("%s %q is not UTF-8 (the manifest is JSON, which cannot hold it)", text.member, text.value)
		}
	}
	if uuid, err := hex.DecodeString(m.Machine.UUID); err != nil || len(uuid) != 0 && len(uuid) != 16 {
		return fmt.Errorf("machine.uuid %q (want 32 hexadecimal digits)", m.Machine.UUID)
	}
	return nil
}

// checkBlockNames refuses names that are not UTF-8, which JSON would change.
func checkBlockNames(l *guest.Layout) error {
	for _, b := range l.Blocks {
		if !utf8.ValidString(b.Name) {
			return fmt.Errorf("the name of RAM block %d, %q, is not UTF-8 (the manifest is JSON, which cannot hold it)", b.Index, b.Name)
		}
	}
	return nil
}

// checkObjects checks the names, sizes and digests of the objects, and the number of
// objects of each role.
func (m *Manifest) checkObjects() error {
	names, roles := map[string]bool{manifestName: true}, map[Role]int{}
	for _, o := range m.Objects {
		if err := store.CheckName(o.Name); err != nil {
			return err
		}
		if names[o.Name] {
			return fmt.Errorf("object %q is listed twice", o.Name)
		}
		if digest, err := hex.DecodeString(o.digest(m.Version)); o.Size < 0 || err != nil || len(digest) != len(sum{}) {
			return fmt.Errorf("object %q has %d bytes and digest %q (want a size of at least 0 and 64 hexadecimal digits)", o.Name, o.Size, o.digest(m.Version))
		}
		if err := m.checkParts(&o); err != nil {
			return err
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
	return m.checkUnknownRoles()
}

// checkParts checks the number of parts of an object. Each part has at least a byte.
func (m *Manifest) checkParts(o *ObjectInfo) error {
	if m.Version == version1 || o.Role != RolePages {
		if o.Parts != 0 {
			return fmt.Errorf("object %q of role %q has %d parts in format %d (want none)", o.Name, o.Role, o.Parts, m.Version)
		}
		return nil
	}
	if o.Parts < 1 || o.Parts > o.Size/(partLen+1) || o.Parts > o.extentBytes(m.Version) {
		return fmt.Errorf("object %q of %d bytes has %d parts (want 1 to one for each %d bytes)", o.Name, o.Size, o.Parts, partLen+1)
	}
	return nil
}

// checkUnknownRoles refuses objects that a reader must know and does not.
func (m *Manifest) checkUnknownRoles() error {
	unknown := 0
	for _, o := range m.Objects {
		switch o.Role {
		case RolePages, RoleIndex, RoleHead, RoleDevices, RoleStates:
			continue
		}
		if unknown++; unknown > maxOptional {
			return fmt.Errorf("more than %d objects of unknown roles", maxOptional)
		}
		if m.Version > version1 && !o.Optional {
			return fmt.Errorf("object %q has the unknown role %q and is not optional", o.Name, o.Role)
		}
	}
	return nil
}

// roleLimits are the largest sizes in bytes of the objects that are read whole.
var roleLimits = map[Role]int64{RoleHead: maxHead, RoleDevices: maxMeta, RoleStates: maxMeta}

// checkTotals compares the totals with the sums over blocks and objects.
func (m *Manifest) checkTotals(l *guest.Layout) error {
	var kept, all uint64 // at most 2^37: the layout bounds the number of pages
	for i, b := range m.Blocks {
		if b.Pages > l.Pages(l.Blocks[i]) {
			return fmt.Errorf("RAM block %q has %d pages stored of %d", b.Name, b.Pages, l.Pages(l.Blocks[i]))
		}
		kept += b.Pages
		all += l.Pages(l.Blocks[i])
	}
	t := m.Totals
	if t.Pages != kept || t.Zero != all-kept {
		return fmt.Errorf("the totals are %d pages and %d zero pages (the RAM blocks have %d and %d)", t.Pages, t.Zero, kept, all-kept)
	}
	if t.Extents > t.Pages || t.Pages > t.Extents*uint64(extentPages(l.PageSize)) {
		return fmt.Errorf("the totals are %d pages in %d extents (want 1 to %d pages for each extent)", t.Pages, t.Extents, extentPages(l.PageSize))
	}
	missing := t.PageBytes // not yet found in an object
	if t.PageBytes < 0 || uint64(t.PageBytes) > t.Extents*uint64(maxExtentLen(l.PageSize)) {
		return fmt.Errorf("the totals are %d bytes of pages in %d extents (want 0 to %d bytes for each extent)", t.PageBytes, t.Extents, maxExtentLen(l.PageSize))
	}
	// At most a quarter of the bytes is superseded. Without this limit a forged
	// snapshot could hold a sparse file of any size, and reading it would not end.
	most := t.PageBytes/3*4 + 4
	for _, o := range m.Objects {
		switch o.Role {
		case RolePages:
			n := o.extentBytes(m.Version)
			missing -= min(missing, n)
			if most -= n; most < 0 {
				return fmt.Errorf("the page objects up to %q have more than 4/3 of the %d bytes of pages", o.Name, t.PageBytes)
			}
		case RoleIndex:
			if o.Size != t.IndexBytes {
				return fmt.Errorf("the index has %d bytes (the totals have %d)", o.Size, t.IndexBytes)
			}
		}
	}
	if missing > 0 {
		return fmt.Errorf("%d bytes of pages are in no object", missing)
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
		return corrupt("head", "the page size is %d (the manifest has %d)", c.PageSize(), m.Machine.PageSize)
	}
	if c.Machine != m.Machine.Type {
		return corrupt("head", "the machine type is %q (the manifest has %q)", c.Machine, m.Machine.Type)
	}
	return nil
}
