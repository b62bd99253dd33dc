// Migrate measures the migration of a QEMU machine over slow links: QEMU alone, with its
// compression and its TLS, and beside it QEMU without either through a pair of "vmferry
// relay". "make bench-migrate" runs it. It writes docs/notes/migrate-results.md and the
// charts docs/notes/migrate-*.svg.
//
// The ends of the link are two network namespaces (package slowlink), so it needs root and
// iproute2. The guest runs at the source all the time: each migration takes it to a new
// QEMU, where it has to go on, and the source goes on afterwards.
package main
