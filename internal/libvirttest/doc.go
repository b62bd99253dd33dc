// Package libvirttest holds the tests that migrate libvirt's domains through a pair of
// vmferry relays. It has no code but tests, which have the build tag libvirt:
//
//	scripts/setup libvirt && go test -tags libvirt ./internal/libvirttest
//
// A host is a libvirtd in namespaces of its own (mount, UTS, PID, network), over folders
// of its own: /run, and libvirt's folders in /etc and /var. So the tests read and write
// nothing of a libvirt that runs beside them, and the hosts have no network between them:
// a migration that succeeds went through the relays. The relays run outside of these
// namespaces.
//
// # Traps
//
// The first process of a PID namespace has to reap the orphans. Otherwise a QEMU that has
// ended stays a zombie, and libvirtd waits 40 seconds for each.
//
// libvirtd probes QEMU when it starts with an empty cache, which takes some seconds.
package libvirttest
