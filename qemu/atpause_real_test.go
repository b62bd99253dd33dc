//go:build realqemu

package qemu_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmferry/vmferry"
	"github.com/vmferry/vmferry/internal/qemutest"
	"github.com/vmferry/vmferry/migration"
	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
)

// askAtPause is a command at the pause that sends QMP commands and keeps the
// answers. It fails if the last is an error.
const askAtPause = `python3 -c '
import json, os, socket, sys
s = socket.socket(socket.AF_UNIX); s.connect(os.environ["VMFERRY_QMP"]); f = s.makefile("rw")
print(f.readline(), end="")
for c in json.loads(sys.argv[1]):
    f.write(json.dumps(c) + "\n"); f.flush()
    while True:
        a = json.loads(f.readline())
        if "event" not in a: break
    print(json.dumps(a))
' '%s' > %s`

func TestRealQEMUAtPause_HasAMonitorThatWorks(t *testing.T) {
	src := idle(t, "10.0", false)
	answers := filepath.Join(t.TempDir(), "answers")
	opts := options(src)
	opts.AtPause = fmt.Sprintf(askAtPause, `[{"execute":"qmp_capabilities"},{"execute":"query-status","id":7},{"execute":"cont"},{"execute":"no-such-command"}]`, answers)
	saveTo(t, filepath.Join(t.TempDir(), "s"), opts)
	text, err := os.ReadFile(answers)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if len(lines) != 5 {
		t.Fatalf("%d answers: %s", len(lines), text)
	}
	for i, want := range []string{`"QMP"`, `"return": {}`, `postmigrate`, "is refused during --at-pause", "CommandNotFound"} {
		if !strings.Contains(lines[i], want) {
			t.Errorf("answer %d is %s, want one that holds %s", i, lines[i], want)
		}
	}
	runsOn(t, src)
}

// withDisk adds a disk to a machine.
func withDisk(version, drive string, incoming bool) qemutest.Config {
	cfg := config(version)
	cfg.Incoming = incoming
	cfg.ExtraArgs = []string{"-drive", drive + ",if=none,id=disk0", "-device", "virtio-blk-pci,drive=disk0,id=vda"}
	return cfg
}

// fileOfDisk returns the file that QEMU writes the disk's changes to.
func fileOfDisk(t *testing.T, c *qmp.Client) string {
	t.Helper()
	var devices []struct {
		Inserted struct{ File string }
	}
	if err := c.Execute(t.Context(), "query-block", nil, &devices); err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		if d.Inserted.File != "" {
			return d.Inserted.File
		}
	}
	t.Fatal("the machine has no disk")
	return ""
}

// The recipes of docs/guide/at-pause.md.
func TestRealQEMUAtPause_DisksOfTheSameMoment(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"7.2", "10.0"} {
		t.Run(version, func(t *testing.T) {
			dir := t.TempDir()
			image, overlay := filepath.Join(dir, "vm1.raw"), filepath.Join(dir, "overlay.qcow2")
			if err := os.WriteFile(image, make([]byte, 8<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg := withDisk(version, "format=raw,file="+image, false)
			src := qemutest.Start(t, cfg)
			if err := src.WaitReady(soon(t)); err != nil {
				t.Fatal(err)
			}
			opts := options(src)
			opts.AlwaysLive = true

			copied := filepath.Join(dir, "copied")
			opts.AtPause = "cp --reflink=auto " + image + ` "$VMFERRY_SNAPSHOT.raw" && mv "$VMFERRY_SNAPSHOT.raw" ` + copied
			saveTo(t, filepath.Join(dir, "s1"), opts)
			if _, err := os.Stat(copied); err != nil {
				t.Error(err)
			}

			freeze, _ := json.Marshal([]any{
				map[string]any{"execute": "qmp_capabilities"},
				map[string]any{"execute": "blockdev-snapshot-sync", "arguments": map[string]any{"device": "disk0", "snapshot-file": overlay, "format": "qcow2"}},
			})
			answers := filepath.Join(dir, "answers")
			opts.AtPause = fmt.Sprintf(askAtPause, freeze, answers) + " && ! grep '\"error\"' " + answers
			saveTo(t, filepath.Join(dir, "s2"), opts)
			if is := fileOfDisk(t, dial(t, src.QMPPath2())); is != overlay {
				t.Errorf("the disk is written to %s, want the overlay", is)
			}
			runsOn(t, src)

			for snapshot, disk := range map[string]string{"s1": copied, "s2": image} {
				dst := qemutest.Start(t, withDisk(version, "format=raw,snapshot=on,file="+disk, true))
				if _, err := qemu.Restore(soon(t), open(t, filepath.Join(dir, snapshot)), qemu.RestoreOptions{Monitor: qmp.Socket(dst.QMPPath())}); err != nil {
					t.Fatalf("%v\n%s", err, dst.Stderr())
				}
				sound(t, dst)
				dst.Kill()
			}
		})
	}
}

func TestRealQEMUAtPause_EndsAfterItsTimeout(t *testing.T) {
	src := idle(t, "10.0", false)
	opts := options(src)
	opts.AtPause, opts.AtPauseTimeout = "sleep 1000 & sleep 1000", 500*time.Millisecond
	path := filepath.Join(t.TempDir(), "s")
	_, err := vmferry.Save(soon(t), vmferry.Snapshot{Path: path}, opts)
	if err == nil || !strings.Contains(err.Error(), "--at-pause-timeout") {
		t.Errorf("%v, want an error that names --at-pause-timeout", err)
	}
	noSnapshot(t, path)
	if is := state(t, dial(t, src.QMPPath2())); is != qmp.StateRunning {
		t.Errorf("the machine is %q", is)
	}
	runsOn(t, src)
}

// hmpCont lets the machine run through the monitor of the command at the pause.
const hmpCont = `[{"execute":"human-monitor-command","arguments":{"command-line":"cont"}}]`

func TestRealQEMUAtPause_MachineThatIsLetRunFailsTheSave(t *testing.T) {
	src := idle(t, "10.0", false)
	for name, then := range map[string]string{
		"runs":         hmpCont,
		"paused again": hmpCont[:len(hmpCont)-1] + `,{"execute":"human-monitor-command","arguments":{"command-line":"stop"}}]`,
	} {
		t.Run(name, func(t *testing.T) {
			opts := options(src)
			opts.AtPause = fmt.Sprintf(askAtPause, then, os.DevNull)
			path := filepath.Join(t.TempDir(), "s")
			_, err := vmferry.Save(soon(t), vmferry.Snapshot{Path: path}, opts)
			if err == nil || !strings.Contains(err.Error(), "something else let the machine run") {
				t.Errorf("%v, want an error that says that the machine ran", err)
			}
			noSnapshot(t, path)
		})
	}
}

func TestRealQEMUSave_MachineThatHasToStandStillAndIsLetRunIsNotSaved(t *testing.T) {
	for name, paused := range map[string]bool{"paused by the save": false, "paused before": true} {
		t.Run(name, func(t *testing.T) { saveAndLetRun(t, paused) })
	}
}

// saveAndLetRun lets a machine run whose QEMU loses its writes while it is saved.
func saveAndLetRun(t *testing.T, paused bool) {
	src := idle(t, "7.2", false)
	look := dial(t, src.QMPPath2())
	if paused {
		if err := look.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "s")
	opts := options(src)
	opts.Bandwidth = 16 << 20
	resumed := false
	opts.Progress = func(p migration.Progress) {
		if p.QEMUStatus != qmp.MigrationActive || resumed {
			return
		}
		resumed = true
		if err := look.Cont(t.Context()); err != nil {
			t.Error(err)
		}
	}
	_, err := vmferry.Save(soon(t), vmferry.Snapshot{Path: path}, opts)
	if !resumed || err == nil || !strings.Contains(err.Error(), "loses writes of a machine that runs") {
		t.Errorf("%v (resumed: %v), want an error that says what QEMU loses", err, resumed)
	}
	noSnapshot(t, path)
	if is := state(t, look); is != qmp.StateRunning {
		t.Errorf("the machine is %q", is)
	}
}

func TestRealQEMUAtPause_OutputHeldByAProcessInTheBackgroundIsExplained(t *testing.T) {
	src := idle(t, "10.0", false)
	opts := options(src)
	started := filepath.Join(t.TempDir(), "started")
	opts.AtPause = "sleep 1000 & echo $! > " + started
	path := filepath.Join(t.TempDir(), "s")
	_, err := vmferry.Save(soon(t), vmferry.Snapshot{Path: path}, opts)
	if err == nil || !strings.Contains(err.Error(), "keeps its output open") {
		t.Errorf("%v, want an error that says which output is open", err)
	}
	noSnapshot(t, path)
	pid, err := os.ReadFile(started)
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			break
		}
		if time.Since(began) > time.Minute {
			t.Fatal("the process in the background was left behind")
		}
	}
}

func TestRealQEMUAtPause_KilledSaveLeavesNoSocket(t *testing.T) {
	src := idle(t, "10.0", false)
	dir := t.TempDir()
	atPause := filepath.Join(dir, "paused")
	sockets := filepath.Join(dir, "sockets")
	if err := os.Mkdir(sockets, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "save", "--qmp", src.QMPPath(), "--socket-dir", sockets, "--at-pause", "echo $VMFERRY_QMP > "+atPause+"; sleep 1000", filepath.Join(dir, "s"))
	cmd.Env = append(os.Environ(), "TMPDIR="+sockets)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "the command at the pause runs", func() bool { b, _ := os.ReadFile(atPause); return len(b) > 0 })
	cmd.Process.Kill()
	cmd.Wait()
	waitUntil(t, "the sockets are removed", func() bool {
		left, err := os.ReadDir(sockets)
		return err == nil && len(left) == 0
	})
	runsOn(t, src)
	waitNoGuard(t)
}

func waitUntil(t *testing.T, what string, is func() bool) {
	t.Helper()
	for began := time.Now(); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatalf("waited for a minute: %s", what)
		}
	}
}
