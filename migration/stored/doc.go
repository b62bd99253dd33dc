// Package stored makes a snapshot the source or the destination of a migration.
//
// A snapshot.Writer is the sink of migration.Receive; [Meta] is what the snapshot keeps
// of the migration besides its pages. [Send] sends a snapshot to a destination, such as
// a QEMU that waits with -incoming defer.
//
// Traps: a destination that was not asked for its result (NoReturnPath) can fail after
// Send returns nil.
package stored
