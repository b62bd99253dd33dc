// Package snapshot stores a machine's memory and device state as objects of a
// [store.Bucket]. docs/snapshot-format.md specifies the format.
//
// A [Writer] is a guest.Sink. It receives the pages of a migration and keeps the last
// write of each. It seals a page object when the object is full. Finish rewrites the page
// objects of which more than a quarter is superseded, then commits all objects, and the
// manifest last. A snapshot with a manifest is complete. The Writer therefore never
// removes or reads a page object after its commit, which an object store would charge
// for. In return, sealed objects stay in the bucket's local storage until Finish.
//
// A [Reader] finds any page through the index. It is also a source of all pages,
// verifies the snapshot and exports it. [Reader.Page] caches the extents that it read
// last.
//
// After Finish returns nil, the whole snapshot survives a loss of power.
//
// Traps: there is no snapshot until Finish returns nil. Abort removes the objects of an
// unfinished snapshot. The owner of a bucket closes it; Reader and Writer do not. The
// Reader checks all data when it reads them, an extent at a time. Errors of that check
// wrap [ErrCorrupt].
package snapshot
