// Package storetest helps to test code that keeps objects: a [store.Bucket] in
// memory that can be made to fail, to lose bytes and to change them, and
// [TestBucket], which every implementation of the interface has to pass.
//
// Traps: a [Bucket] holds everything in memory, and its counts and planned
// failures hold for all goroutines that use it.
package storetest
