//go:build libvirt

package libvirttest

import (
	"testing"

	"github.com/vmferry/vmferry/internal/qemutest"
)

// quiet is a guest whose migration ends after a few rounds. busy is a guest that writes
// faster than slowly sends.
var (
	quiet  = qemutest.Config{FillMiB: 16, WorkMiB: 4, RateMiBps: 2}
	busy   = qemutest.Config{FillMiB: 16, WorkMiB: 32, RateMiBps: 16}
	slowly = []string{"--bandwidth", "4"} // MiB/s
)

// insecureArgs are the relays' arguments for a link without TLS.
var insecureArgs = []string{"--insecure"}

var parallel = []string{"--parallel", "--parallel-connections", "2"}

func TestLibvirtMigrate_GuestGoesOnAtTheDestination(t *testing.T) {
	for name, test := range map[string]struct {
		link       []string
		persistent bool
		load       qemutest.Config
		options    []string
	}{
		"direct":      {tlsArgs, false, quiet, parallel},
		"p2p":         {tlsArgs, true, quiet, append([]string{"--p2p", "--persistent"}, parallel...)},
		"one channel": {tlsArgs, false, quiet, nil},
		"zstd":        {tlsArgs, false, quiet, append([]string{"--p2p", "--comp-methods", "zstd"}, parallel...)},
		"insecure":    {insecureArgs, false, quiet, append([]string{"--p2p"}, parallel...)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			via := startRelays(t, hostA, hostB, test.link)
			d := startDomain(t, hostA, test.persistent, test.load)
			d.migrate(hostA, hostB, via, test.options...)

			job := d.jobInfo(hostB, "--completed")
			checkCompleted(t, job, incoming)
			sent, memory := number(t, job, "memory_processed"), number(t, job, "memory_normal_bytes")
			if compressed := sent < memory; compressed != (name == "zstd") {
				t.Errorf("QEMU sent %d bytes for %d bytes of memory", sent, memory)
			}
			if test.persistent {
				checkCompleted(t, d.jobInfo(hostA, "--completed"), outgoing)
			}
		})
	}
}

// The guest runs at the destination while pages that it uses are still at the source.
func TestLibvirtMigrate_Postcopy(t *testing.T) {
	t.Parallel()
	via := startRelays(t, hostA, hostB, tlsArgs)
	d := startDomain(t, hostA, true, busy)
	must(t, <-d.beginPostcopy(hostA, hostB, via, "--postcopy-bandwidth", "16"))
	d.checkMigrated(hostA, hostB)
	// libvirt hands the statistics of a postcopy migration to no destination.
	job := d.jobInfo(hostA, "--completed")
	checkCompleted(t, job, outgoing)
	if number(t, job, "memory_postcopy_requests") == 0 {
		t.Error("the destination requested no page")
	}
}

// The same relays carry no migration back: each direction has relays and a socket of its own.
func TestLibvirtMigrate_ThereAndBack(t *testing.T) {
	t.Parallel()
	there, back := startRelays(t, hostA, hostB, tlsArgs), startRelays(t, hostB, hostA, tlsArgs)
	d := startDomain(t, hostA, false, quiet)
	d.migrate(hostA, hostB, there, append([]string{"--p2p"}, parallel...)...)
	d.migrate(hostB, hostA, back, append([]string{"--p2p"}, parallel...)...)
	d.migrate(hostA, hostB, there, append([]string{"--p2p"}, parallel...)...)
	checkCompleted(t, d.jobInfo(hostB, "--completed"), incoming)
}

// migrateArgs are virsh's arguments for a migration through the relays.
func (d *domain) migrateArgs(to *host, via *relays, options ...string) []string {
	return append([]string{"migrate", "--live", d.name, to.uri(), "unix://" + via.socket}, options...)
}

// migrate migrates the domain through the relays, and checks it.
func (d *domain) migrate(from, to *host, via *relays, options ...string) {
	d.t.Helper()
	d.virsh(from, d.migrateArgs(to, via, options...)...)
	d.checkMigrated(from, to)
}

// checkMigrated checks that the guest goes on at the destination and only there.
func (d *domain) checkMigrated(from, to *host) {
	d.t.Helper()
	last := d.count(from)
	d.checkRuns(to, last)
	if state := d.state(from); state != "" && state != "shut off" {
		d.t.Errorf("domain %s on its source is %q", d.name, state)
	}
	if now := d.count(from); now != last {
		d.t.Errorf("the guest still counts at the source: from %d to %d", last, now)
	}
}

// Numbers of virsh domjobinfo --rawstats.
const (
	completed = "3"
	incoming  = "4"
	outgoing  = "5"
)

// checkCompleted checks the statistics of a migration of a domain.
func checkCompleted(t *testing.T, job map[string]string, operation string) {
	t.Helper()
	if job["Job type"] != completed || job["operation"] != operation || job["data_remaining"] != "0" {
		t.Errorf("the job did not complete, or is another one: %q", job)
	}
	if n := number(t, job, "memory_normal_bytes"); n < 16<<20 {
		t.Errorf("only %d bytes of memory were sent, less than the guest has filled", n)
	}
	if number(t, job, "memory_iteration") == 0 {
		t.Errorf("no round: %q", job)
	}
	number(t, job, "downtime") // less than a millisecond is 0
}
