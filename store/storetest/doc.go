// Package storetest provides test support for buckets. [Bucket] is a [store.Bucket] in
// memory that can fail, and whose objects can be damaged. [TestBucket] is the
// conformance test of the interface: every implementation must pass it.
//
// Traps: a [Bucket] keeps all objects in memory. All goroutines that use a Bucket share
// its counts and its planned failures.
package storetest
