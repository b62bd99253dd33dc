//go:build libvirt

package libvirttest

import (
	"testing"

	"github.com/vmferry/vmferry/internal/qemutest"
)

// light is a guest that a migration overtakes in a few rounds.
var light = qemutest.Config{FillMiB: 16, WorkMiB: 4, RateMiBps: 2}

// insecureArgs are the relays' arguments for a link without TLS.
var insecureArgs = []string{"--insecure"}

var parallel = []string{"--parallel", "--parallel-connections", "2"}

// migrateArgs are the arguments of a virsh that migrates the domain through the relays.
func (d *domain) migrateArgs(to *host, socket string, options ...string) []string {
	return append([]string{"migrate", "--live", d.name, to.uri(), "unix://" + socket}, options...)
}

// migrate migrates the domain through the relays, and checks that the guest goes on at the
// destination and only there.
func (d *domain) migrate(from, to *host, via *relays, options ...string) {
	d.t.Helper()
	d.virsh(from, d.migrateArgs(to, via.socket, options...)...)
	d.checkMigrated(from, to)
}

func (d *domain) checkMigrated(from, to *host) {
	d.t.Helper()
	last := d.count(from)
	d.awaitRuns(to, last)
	if state := d.state(from); state != "" && state != "shut off" {
		d.t.Errorf("domain %s on its source is %q", d.name, state)
	}
	if now := d.count(from); now != last {
		d.t.Errorf("the guest counts on at the source, from %d to %d", last, now)
	}
	d.checkCompleted(to)
}

// checkCompleted checks the statistics of a completed migration, which libvirt hands to the
// destination.
func (d *domain) checkCompleted(on *host) map[string]string {
	d.t.Helper()
	info := d.jobInfo(on, "--completed", "--keep-completed")
	d.t.Log(info)
	return info
}

func TestLibvirtMigrate_DomainGoesOnAtTheDestination(t *testing.T) {
	for name, test := range map[string]struct {
		link       []string
		persistent bool
		options    []string
	}{
		"direct":      {tlsArgs, false, parallel},
		"p2p":         {tlsArgs, true, append([]string{"--p2p", "--persistent"}, parallel...)},
		"one channel": {tlsArgs, false, nil},
		"zstd":        {tlsArgs, false, append([]string{"--p2p", "--comp-methods", "zstd"}, parallel...)},
		"insecure":    {insecureArgs, false, append([]string{"--p2p"}, parallel...)},
	} {
		t.Run(name, func(t *testing.T) {
			via := startRelays(t, hostA, hostB, test.link)
			d := startDomain(t, hostA, test.persistent, light)
			d.migrate(hostA, hostB, via, test.options...)
		})
	}
}
