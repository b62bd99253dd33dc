package qmp

import "fmt"

// Version is the version of a QEMU.
type Version struct {
	Major int `json:"major"`
	Minor int `json:"minor"`
	Micro int `json:"micro"`

	// Package is the distributor's own version, such as
	// "Debian 1:10.0.2+ds-2~bpo12+1"; often empty.
	Package string `json:"-"`
}

// String returns "10.0.2".
func (v Version) String() string {
	return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro)
}

// AtLeast tells whether v is major.minor or newer.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}
