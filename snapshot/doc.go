// Package snapshot keeps a machine's memory and device state as objects of a
// [store.Bucket]. docs/snapshot-format.md is the format's standard.
//
// A [Writer] is a guest.Sink: a migration's pages go in, the newest of each
// counts. Its objects of pages are sealed when they are full. Finish moves the
// pages that count out of those of which more than a quarter is superseded, then
// commits the rest, and the manifest last: a snapshot that has a manifest is
// complete. So no object of pages is removed or read again after its commit,
// which an object store would be paid for. The price is that sealed objects stay
// in the bucket's local part until then: memory for them would not be bounded.
//
// A [Reader] finds any page through the index, is a source of all of them,
// verifies and exports. [Reader.Page] keeps the extents that it read last.
//
// Once Finish returns, a loss of power takes nothing of the snapshot away.
//
// Traps: until Finish returns there is no snapshot; Abort removes what there
// is of it. The bucket is closed by its owner, not by its Reader. Everything in a
// snapshot is checked when it is read, an extent at a time, and errors wrap
// [ErrCorrupt].
package snapshot
