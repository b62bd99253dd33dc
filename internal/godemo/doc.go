// Package godemo is the demo that needs no QEMU. It migrates a machine of package
// machine from one process to another. Both processes report events to a third, which
// checks that no write was lost.
//
// It is for "vmferry demo --guest go", and for the tests of live migration across
// network namespaces, which run its two sides.
package godemo
