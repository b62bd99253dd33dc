package qemu

import (
	"fmt"
	"slices"

	"github.com/vmferry/vmferry/snapshot"
)

// compareDevices finds for each device of the original the most similar one of this
// QEMU, and names the differences.
func (c *comparison) compareDevices(had, is []snapshot.DeviceInfo) {
	left := slices.Clone(is)
	take := func(like func(snapshot.DeviceInfo) bool) (d snapshot.DeviceInfo, ok bool) {
		i := slices.IndexFunc(left, like)
		if i < 0 {
			return d, false
		}
		d = left[i]
		left = slices.Delete(left, i, i+1)
		return d, true
	}
	// The most similar pairs first, so that a device is not paired with another's match.
	likenesses := []func(want, d snapshot.DeviceInfo) bool{
		func(want, d snapshot.DeviceInfo) bool { return d == want },
		func(want, d snapshot.DeviceInfo) bool { return d.ID != "" && d.ID == want.ID },
		func(want, d snapshot.DeviceInfo) bool {
			return d.Type == want.Type && d.Bus == want.Bus && d.Address == want.Address
		},
		func(want, d snapshot.DeviceInfo) bool { return d.Type == want.Type && d.ID == want.ID },
	}
	rest := had
	for _, like := range likenesses {
		var next []snapshot.DeviceInfo
		for _, want := range rest {
			found, ok := take(func(d snapshot.DeviceInfo) bool { return like(want, d) })
			if !ok {
				next = append(next, want)
				continue
			}
			c.compareDevice(want, found)
		}
		rest = next
	}
	for _, want := range rest {
		c.differ("%s: %s has none (start it with %q)", deviceName(want), c.is, deviceOption(want))
	}
	for _, extra := range left {
		c.differ("%s: %s has it, %s had not (start it without)", deviceName(extra), c.is, c.hadMachine)
	}
}

// compareDevice names the differences between two paired devices.
func (c *comparison) compareDevice(had, is snapshot.DeviceInfo) {
	switch {
	case had.Type != is.Type:
		c.differ("%s: %s's has the type %q (start it with %q)", deviceName(had), c.is, is.Type, deviceOption(had))
	case had.ID != is.ID:
		c.differ("%s: %s's has the id %q (start it with %q)", deviceName(had), c.is, is.ID, deviceOption(had))
	case had.Bus != is.Bus || had.Address != is.Address:
		c.differ("%s: %s has it%s (start it with %q)", deviceName(had), c.is, where(is), deviceOption(had))
	}
}

func deviceName(d snapshot.DeviceInfo) string {
	name := fmt.Sprintf("device %q", d.Type)
	if d.ID != "" {
		name = fmt.Sprintf("device %q of type %q", d.ID, d.Type)
	}
	return name + where(d)
}

func where(d snapshot.DeviceInfo) string {
	text := ""
	if d.Bus != "" {
		text = fmt.Sprintf(" on bus %q", d.Bus)
	}
	if d.Address != "" {
		text += fmt.Sprintf(" at %q", d.Address)
	}
	return text
}

// deviceOption returns the option that makes a device, as far as it is known.
func deviceOption(d snapshot.DeviceInfo) string {
	text := "-device " + d.Type
	for _, p := range [][2]string{{"id", d.ID}, {"bus", d.Bus}, {"addr", d.Address}} {
		if p[1] != "" {
			text += "," + p[0] + "=" + p[1]
		}
	}
	return text + ",..."
}
