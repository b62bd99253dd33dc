// Package machine is a machine whose guest is goroutines of this process: memory
// with a realistic mix of pages, and writers that never rest. It keeps a ledger,
// outside of that memory, of every write that was acknowledged, so that it can
// be told whether a migration lost one.
//
// It is for the demo, the tests and the benchmarks of package migration.
package machine
