// Package snapshot keeps a machine's memory and device state as immutable
// objects under one prefix: a directory now, an object store's keys as well.
// docs/snapshot-format.md is the format's standard.
//
// A [Writer] is a guest.Sink: a migration's pages go in, the newest of each
// counts. Finish writes the index, and the manifest last: a snapshot that has
// a manifest is complete. A [Reader] finds any page through the index, is a
// source of all of them, verifies and exports.
//
// A directory of a snapshot is made, and locked while it is written, by
// [CreateDir]; what another writer made is never removed. Once Finish returns,
// a loss of power takes nothing of the snapshot away.
//
// Traps: until Finish returns there is no snapshot; Abort removes what there
// is of it. A [Dir] is closed by its owner, not by its [Reader]. Everything in a snapshot is checked when it is read, an extent at
// a time, and errors wrap [ErrCorrupt].
package snapshot
