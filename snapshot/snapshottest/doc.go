// Package snapshottest helps to test code that keeps snapshots: a
// [snapshot.Bucket] in memory that can be made to fail, to lose bytes and to
// change them, and [TestBucket], which every implementation of the interface
// has to pass.
//
// Traps: a [Bucket] holds everything in memory, and what it counts and what it
// is told to fail at holds for all goroutines that use it.
package snapshottest
