// Package machine is a machine whose guest is goroutines of this process. Its memory has
// a realistic mix of pages, and writer goroutines write to it while the machine runs. A
// ledger outside of that memory records every acknowledged write, so that Check finds
// writes that a migration lost.
//
// It is for the demo, and for the tests and benchmarks of live migration.
package machine
