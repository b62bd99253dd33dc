// Package store keeps named objects in one place: a directory now, the keys
// below a prefix of an object store as well. Package snapshot is its user.
//
// [Bucket] is the interface and its contract; [Dir] implements it in a local
// directory, store/storetest in memory. A new implementation has to pass
// storetest.TestBucket. [CreateFile] writes a single file that appears when it
// is whole, as an export needs it.
//
// An object is begun, written, sealed and committed. Objects that only count
// together are sealed one by one and committed at the end: until then the
// writer can read a sealed object and abort it, so that no committed object is
// read or removed when its content turns out to be superseded. A directory keeps
// a sealed object as NAME.partial. An object store keeps it in a local spool,
// because the parts of an upload cannot be read, and uploads it in Commit.
//
// Traps: until Commit returns nil, there is no object. A [Dir] is closed by its
// owner. What another process put under a name is never replaced or removed.
package store
