//go:build libvirt

package libvirttest

import (
	"testing"
	"time"
)

// failTimeout bounds the time between the end of a relay and the end of the migration.
const failTimeout = time.Minute

func TestLibvirtBreak_DomainRunsOnAtTheSource(t *testing.T) {
	for name, test := range map[string]struct {
		victim  func(*relays) *relayProcess
		options []string
	}{
		"source's relay, p2p":         {func(r *relays) *relayProcess { return r.source }, []string{"--p2p"}},
		"destination's relay, direct": {func(r *relays) *relayProcess { return r.destination }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			via := startRelays(t, hostA, hostB, tlsArgs)
			d := startDomain(t, hostA, false, busy)
			ended := d.beginMigration(hostA, hostB, via, append(append(test.options, slowly...), parallel...)...)
			d.awaitSent(hostA, 4<<20, ended)

			test.victim(via).kill()
			select {
			case err := <-ended:
				if err == nil {
					t.Error("the migration succeeded without a relay")
				}
			case <-time.After(failTimeout):
				t.Errorf("the migration goes on %v after a relay ended", failTimeout)
			}
			d.checkRuns(hostA, d.count(hostA))
			if state := d.state(hostB); state != "" {
				t.Errorf("the destination still has the domain: %s", state)
			}
			if n := d.count(hostB); n != 0 {
				t.Errorf("the guest has counted to %d at the destination", n)
			}

			// Nothing remains that hinders the next migration.
			d.migrate(hostA, hostB, startRelays(t, hostA, hostB, tlsArgs), "--p2p", "--postcopy", "--postcopy-after-precopy")
		})
	}
}

// beginMigration starts a migration. The channel gets its error.
func (d *domain) beginMigration(from, to *host, via *relays, options ...string) <-chan error {
	ended := make(chan error, 1)
	go func() {
		_, err := from.virsh(d.t.Context(), d.migrateArgs(to, via, options...)...)
		ended <- err
	}()
	return ended
}

// beginPostcopy starts a migration that has its switchover long before the memory has been
// sent once.
func (d *domain) beginPostcopy(from, to *host, via *relays, options ...string) <-chan error {
	d.t.Helper()
	ended := d.beginMigration(from, to, via, append(append([]string{"--p2p", "--postcopy"}, slowly...), options...)...)
	d.awaitSent(from, 2*beforePostcopy, ended)
	d.virsh(from, "migrate-postcopy", d.name)
	return ended
}

// beforePostcopy is less than what main carries before the switchover of a postcopy
// migration.
const beforePostcopy = 4 << 20

// awaitSent waits until a migration has sent that many bytes.
func (d *domain) awaitSent(from *host, bytes uint64, ended <-chan error) {
	d.t.Helper()
	await(d.t, "the migration to send memory", func() bool {
		select {
		case err := <-ended:
			d.t.Fatalf("the migration ended early: %v", err)
		default:
		}
		job := d.jobInfo(from)
		return job["memory_processed"] != "" && number(d.t, job, "memory_processed") >= bytes
	})
}
