// Package godemo is the demo that needs no QEMU: a machine of package machine
// migrates from one process to another, and both tell a third what they saw. It
// runs and judges "vmferry demo --guest go", and the tests of package migration
// across network namespaces use its two sides.
package godemo
