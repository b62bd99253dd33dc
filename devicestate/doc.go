// Package devicestate is the format of device-state packets: pieces of a device's state
// that a source sends over multifd channels (QEMU 10.0 and later, for VFIO), and that a
// snapshot keeps as they came.
//
// It is for package multifd, which carries packets, and package snapshot, which keeps
// them. The layout is that of QEMU's migration/multifd.h, as seen on the wire.
//
// Traps: a packet names its device by text that the source chose.
package devicestate
