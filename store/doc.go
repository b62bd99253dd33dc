// Package store stores named objects, in a directory or below a prefix of an object
// store. Package snapshot keeps the objects of a snapshot in it.
//
// [Bucket] is the interface and its contract. [Dir] implements it in a local directory,
// and storetest.Bucket in memory. Every implementation must pass storetest.TestBucket.
// [CreateFile] writes a single file, such as an export, that appears under its name
// when it is complete.
//
// A writer creates, writes, seals and commits an object. A writer of several objects
// that belong together seals each one and commits all of them at the end. Until then it
// can read a sealed object, and abort it if its content is superseded. So it never reads
// or removes a committed object. A Dir keeps a sealed object as NAME.partial. An
// implementation for an object store should keep it in a local spool and upload it in
// Commit, because the parts of an upload cannot be read.
//
// Traps: an object does not exist until Commit returns nil. The owner of a [Dir] closes
// it. A bucket never replaces or removes an object of another process.
package store
