// Package stored uses a snapshot as the source or the destination of a migration.
//
// A snapshot.Writer is the sink of migration.Receive; [Meta] returns what the snapshot
// keeps of the migration besides its pages. [Send] sends a snapshot to a destination,
// such as a QEMU that waits with -incoming defer.
//
// Traps: with SendConfig.NoReturnPath the destination can fail after Send returns nil.
package stored
