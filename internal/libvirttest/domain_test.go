//go:build libvirt

package libvirttest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"text/template"
	"time"

	"github.com/vmferry/vmferry/internal/qemutest"
)

// hangTimeout bounds waits that a slow machine makes long.
const hangTimeout = 3 * time.Minute

const pollInterval = 50 * time.Millisecond

// domain is a machine of the test guest. Its console is a file of each host.
type domain struct {
	t    *testing.T
	name string
}

var domainXML = template.Must(template.New("").Parse(`<domain type='qemu'>
  <name>{{.Name}}</name>
  <memory unit='MiB'>192</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
    <kernel>{{.Files.Kernel}}</kernel>
    <initrd>{{.Files.Initrd}}</initrd>
    <cmdline>{{.Args}}</cmdline>
  </os>
  <devices>
    <emulator>{{.Files.QEMU}}</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='file'><source path='{{.Console}}'/></serial>
  </devices>
</domain>
`))

// startDomain starts a domain on a host and waits until its guest counts. The domain ends
// with the test.
func startDomain(t *testing.T, on *host, persistent bool, load qemutest.Config) *domain {
	t.Helper()
	d := &domain{t, strings.NewReplacer("/", "-", ",", "", "'", "").Replace(strings.TrimPrefix(t.Name(), "TestLibvirt"))}
	t.Cleanup(func() {
		for _, h := range []*host{hostA, hostB} {
			if t.Failed() {
				t.Logf("log of libvirtd of host %s:\n%s", h.name, h.log())
			}
			h.remove(d.name)
		}
	})
	files, err := qemutest.FindFiles("10.0")
	must(t, err)
	var definition bytes.Buffer
	must(t, domainXML.Execute(&definition, map[string]any{
		"Name": d.name, "Files": files, "Args": load.KernelArgs(), "Console": filepath.Join(on.shared, d.name),
	}))
	path := filepath.Join(t.TempDir(), "domain.xml")
	must(t, os.WriteFile(path, definition.Bytes(), 0o644))
	if persistent {
		d.virsh(on, "define", path)
		d.virsh(on, "start", d.name)
	} else {
		d.virsh(on, "create", path)
	}
	d.awaitCount(on, 5)
	return d
}

// remove removes a domain, which may have gone.
func (h *host) remove(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), hangTimeout)
	defer cancel()
	h.virsh(ctx, "destroy", name)
	h.virsh(ctx, "undefine", name)
}

func (d *domain) virsh(on *host, args ...string) string {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), hangTimeout)
	defer cancel()
	out, err := on.virsh(ctx, args...)
	must(d.t, err)
	return out
}

// count returns the last count of the guest on a host, 0 if it has not run there.
func (d *domain) count(on *host) int {
	d.t.Helper()
	p, err := qemutest.ReadConsole(filepath.Join(on.own(), d.name))
	if err != nil && !os.IsNotExist(err) {
		d.t.Fatal(err)
	}
	return p.Count
}

// awaitCount waits until the guest counts to n on a host.
func (d *domain) awaitCount(on *host, n int) {
	d.t.Helper()
	await(d.t, fmt.Sprintf("domain %s to count to %d on host %s", d.name, n, on.name), func() bool { return d.count(on) >= n })
}

// checkRuns checks that the domain runs on a host: in libvirt's view, and by its guest's
// count, which goes on from the count before.
func (d *domain) checkRuns(on *host, before int) {
	d.t.Helper()
	if state := d.state(on); state != "running" {
		d.t.Errorf("domain %s on host %s is %q, want running", d.name, on.name, state)
	}
	d.awaitCount(on, max(before, d.count(on))+5)
}

// state is the domain's state on a host, "" where there is no such domain.
func (d *domain) state(on *host) string {
	d.t.Helper()
	for name := range strings.FieldsSeq(d.virsh(on, "list", "--all", "--name")) {
		if name == d.name {
			return d.virsh(on, "domstate", d.name)
		}
	}
	return ""
}

// jobInfo returns the fields of virsh domjobinfo. Sizes are in bytes.
func (d *domain) jobInfo(on *host, args ...string) map[string]string {
	d.t.Helper()
	fields := make(map[string]string)
	for line := range strings.Lines(d.virsh(on, append([]string{"domjobinfo", "--rawstats", d.name}, args...)...)) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			fields[strings.TrimSpace(name)] = strings.TrimSpace(value)
		}
	}
	return fields
}

func number(t *testing.T, fields map[string]string, name string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(fields[name], 10, 64)
	if err != nil {
		t.Errorf("%s of the job is no number: %q", name, fields)
	}
	return n
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(hangTimeout); !done(); time.Sleep(pollInterval) {
		if time.Now().After(end) {
			t.Fatalf("wait for %s: %v have passed", what, hangTimeout)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
