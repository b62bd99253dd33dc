//go:build netns && realqemu

package qemu_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/vmferry/vmferry/internal/slowlink"
)

// A side of a migration is killed, or the link is cut or stalled, at a random moment.
// Afterwards exactly one machine runs, nothing is lost, and the command said which.
func TestRealQEMUMigrate_FaultsOverASlowLink(t *testing.T) {
	runFaultTrials(t, false, func(link *faultyLink, src, dst *host) mover {
		return &migrateAndAccept{link: link, src: src, dst: dst, killed: make(map[*command]bool)}
	})
}

// migrateAndAccept moves a machine by vmferry migrate and vmferry accept.
type migrateAndAccept struct {
	link            *faultyLink
	src, dst        *host
	migrate, accept *command
	killed          map[*command]bool
}

func (m *migrateAndAccept) start() error {
	m.accept = m.link.start(slowlink.Destination, "accept", "--json", "--qmp", m.dst.QMPPath(), "--listen", "tcp:"+m.link.listenAddress(), "--wait", "10s")
	m.link.awaitListener()
	m.migrate = m.link.start(slowlink.Source, "migrate", "--json", "--qmp", m.src.QMPPath(), "--connect", "tcp:"+m.link.connectAddress(),
		"--downtime-limit", "500ms", "--diverging", "stop", "--max-rounds", "10")
	return nil
}

func (m *migrateAndAccept) kill(e slowlink.End) {
	victim := m.migrate
	if e == slowlink.Destination {
		victim = m.accept
	}
	m.killed[victim] = true
	victim.Process.Kill()
}

func (m *migrateAndAccept) drive(ctx context.Context) (string, error) { return m.wait(ctx, m.migrate) }

func (m *migrateAndAccept) finish(ctx context.Context) (string, error) { return m.wait(ctx, m.accept) }

// wait waits until a command has ended, and returns where the machine runs, by its words.
func (m *migrateAndAccept) wait(ctx context.Context, c *command) (said string, err error) {
	ended := make(chan error, 1)
	go func() { ended <- c.Wait() }()
	select {
	case <-ended:
	case <-ctx.Done():
		c.Process.Kill()
		<-ended
		return "", fmt.Errorf("%s has not ended", c.Args[len(c.Args)-1])
	}
	if said = whereItRuns(c.out.String()); said == "" && !m.killed[c] {
		return "", fmt.Errorf("a command does not say where the machine runs:\n%s", &c.out)
	}
	return said, nil
}

// whereItRuns reads a command's JSON.
func whereItRuns(out string) string {
	said := ""
	for line := range strings.Lines(out) {
		var object struct {
			Error  string
			Result struct{ Runs string }
		}
		if json.Unmarshal([]byte(line), &object) != nil {
			continue // the log
		}
		contains := func(text string) bool { return strings.Contains(object.Error, text) }
		switch {
		case object.Result.Runs != "":
			said = object.Result.Runs
		case contains("it is not known whether the machine runs at the destination"):
			said = runsUndecided
		case contains("; the source runs"), contains("the machine does not run here"), contains("no source connected"):
			said = runsAtSource
		}
	}
	return said
}

func (m *migrateAndAccept) log() string {
	return fmt.Sprintf("vmferry migrate:\n%s\nvmferry accept:\n%s", &m.migrate.out, &m.accept.out)
}
