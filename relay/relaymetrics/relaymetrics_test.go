package relaymetrics_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/vmferry/vmferry/relay"
	"github.com/vmferry/vmferry/relay/linkwire"
	"github.com/vmferry/vmferry/relay/relaymetrics"
)

// stats has two migrations whose UUID is not known.
func stats() relay.Stats {
	return relay.Stats{
		Total: relay.Counters{
			Connections: 9, Open: 5, Broken: 1, FromQEMU: 4000, ToQEMU: 8, ToLink: 1000, FromLink: 2,
			Sent: linkwire.Forms{Zero: 1, Raw: 2, Zstd: 6, Deflated: 3, Difference: 4, Reference: 5}, LinkWait: 1500 * time.Millisecond,
		},
		Migrations: []relay.MigrationStats{
			{Counters: relay.Counters{Open: 1, FromQEMU: 10}},
			{Counters: relay.Counters{Open: 2, FromQEMU: 20}},
			{UUID: "ab", Counters: relay.Counters{Open: 2, FromQEMU: 600, ToLink: 300, Sent: linkwire.Forms{Raw: 7}}},
		},
		ProcessorTime: 2500 * time.Millisecond,
	}
}

func TestCollector_ShowsTheRelayAndItsMigrations(t *testing.T) {
	c := relaymetrics.Collector(stats)
	if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) > 0 {
		t.Errorf("error %v, problems %v", err, problems)
	}
	want := `
# HELP vmferry_relay_connections_open Connections that have not ended.
# TYPE vmferry_relay_connections_open gauge
vmferry_relay_connections_open 5
# HELP vmferry_relay_link_ratio Bytes to and from QEMUs for each byte on the link; 0 before the first.
# TYPE vmferry_relay_link_ratio gauge
vmferry_relay_link_ratio 4
# HELP vmferry_relay_link_wait_seconds_total Time that connections waited for the link to take frames.
# TYPE vmferry_relay_link_wait_seconds_total counter
vmferry_relay_link_wait_seconds_total 1.5
# HELP vmferry_relay_migration_connections_open Connections that have not ended, of a migration under way.
# TYPE vmferry_relay_migration_connections_open gauge
vmferry_relay_migration_connections_open{uuid=""} 3
vmferry_relay_migration_connections_open{uuid="ab"} 2
# HELP vmferry_relay_migration_link_ratio Bytes to and from QEMUs for each byte on the link; 0 before the first, of a migration under way.
# TYPE vmferry_relay_migration_link_ratio gauge
vmferry_relay_migration_link_ratio{uuid=""} 0
vmferry_relay_migration_link_ratio{uuid="ab"} 2
# HELP vmferry_relay_migration_qemu_received_bytes_total Bytes from QEMUs, of a migration under way.
# TYPE vmferry_relay_migration_qemu_received_bytes_total counter
vmferry_relay_migration_qemu_received_bytes_total{uuid=""} 30
vmferry_relay_migration_qemu_received_bytes_total{uuid="ab"} 600
# HELP vmferry_relay_migrations Migrations under way that have told their UUID or process.
# TYPE vmferry_relay_migrations gauge
vmferry_relay_migrations 3
# HELP vmferry_relay_pages_sent_total Pages of multifd channels sent over the link, by form.
# TYPE vmferry_relay_pages_sent_total counter
vmferry_relay_pages_sent_total{form="deflated"} 3
vmferry_relay_pages_sent_total{form="difference"} 4
vmferry_relay_pages_sent_total{form="raw"} 2
vmferry_relay_pages_sent_total{form="reference"} 5
vmferry_relay_pages_sent_total{form="zero"} 1
vmferry_relay_pages_sent_total{form="zstd"} 6
# HELP vmferry_relay_processor_seconds_total Processor time of the process, which --cpus bounds.
# TYPE vmferry_relay_processor_seconds_total counter
vmferry_relay_processor_seconds_total 2.5
`
	var names []string
	for line := range strings.Lines(want) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == "TYPE" {
			names = append(names, f[2])
		}
	}
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
}

func TestCollector_SeriesEndWithTheirMigrations(t *testing.T) {
	now := stats()
	c := relaymetrics.Collector(func() relay.Stats { return now })
	with := testutil.CollectAndCount(c)
	now.Migrations = nil
	const migrationsSeries = 21 // for each of two UUIDs
	if without := testutil.CollectAndCount(c); with-without != 2*migrationsSeries {
		t.Errorf("%d series with two UUIDs, %d without", with, without)
	}
	if err := testutil.CollectAndCompare(c, strings.NewReader(""), "vmferry_relay_migration_connections_open"); err != nil {
		t.Error(err)
	}
}

func TestCollector_RealRelay(t *testing.T) {
	r, err := relay.New(relay.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(relaymetrics.Collector(r.Stats))
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
}

func TestServe_AnswersUntilItsContextEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- relaymetrics.Serve(ctx, ln, stats, slog.New(slog.DiscardHandler)) }()
	get := func(path string) (*http.Response, string) {
		t.Helper()
		resp, err := http.Get("http://" + ln.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	resp, body := get("/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(body))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("status %v, error %v", resp.Status, err)
	}
	if f := families["vmferry_relay_qemu_received_bytes_total"]; f == nil || f.Metric[0].Counter.GetValue() != 4000 {
		t.Errorf("bytes from QEMU: %v", f)
	}
	if families["go_memstats_heap_inuse_bytes"] == nil {
		t.Error("the memory is missing")
	}
	if resp, body := get("/healthz"); resp.StatusCode != http.StatusOK || body != "ok\n" {
		t.Errorf("/healthz: %v, %q", resp.Status, body)
	}
	if resp, _ := get("/"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("/: %v", resp.Status)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestRelay_NeedsNoMetricsLibrary: programs import package relay without its metrics.
func TestRelay_NeedsNoMetricsLibrary(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "github.com/vmferry/vmferry/relay", "github.com/vmferry/vmferry").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range strings.Fields(string(out)) {
		if strings.Contains(p, "prometheus") || strings.Contains(p, "go-systemd") {
			t.Errorf("package relay or vmferry needs %s", p)
		}
	}
}
