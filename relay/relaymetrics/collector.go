package relaymetrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/vmferry/vmferry/relay"
)

// Collector returns the metrics of a relay. stats is its method Stats.
func Collector(stats func() relay.Stats) prometheus.Collector { return collector{stats} }

type collector struct{ stats func() relay.Stats }

// series is one number of Counters: as a metric of the relay and of each migration.
type series struct {
	total, migration *prometheus.Desc
	kind             prometheus.ValueType
	labels           []string
	value            func(*relay.Counters) float64
}

// newSeries names a number of Counters. labels are pairs of a label and its value.
func newSeries(kind prometheus.ValueType, name, help string, value func(*relay.Counters) float64, labels ...string) series {
	s := series{kind: kind, value: value}
	var names []string
	for i := 0; i < len(labels); i += 2 {
		names, s.labels = append(names, labels[i]), append(s.labels, labels[i+1])
	}
	s.total = prometheus.NewDesc("vmferry_relay_"+name, help+".", names, nil)
	s.migration = prometheus.NewDesc("vmferry_relay_migration_"+name, help+", of a migration under way.", append([]string{"uuid"}, names...), nil)
	return s
}

var all = makeSeries()

func makeSeries() []series {
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	type c = relay.Counters
	list := []series{
		newSeries(counter, "connections_total", "Connections that began", func(c *c) float64 { return float64(c.Connections) }),
		newSeries(gauge, "connections_open", "Connections that have not ended", func(c *c) float64 { return float64(c.Open) }),
		newSeries(counter, "connections_broken_total", "Connections that ended with an error", func(c *c) float64 { return float64(c.Broken) }),
		newSeries(counter, "qemu_received_bytes_total", "Bytes from QEMUs", func(c *c) float64 { return float64(c.FromQEMU) }),
		newSeries(counter, "qemu_sent_bytes_total", "Bytes to QEMUs", func(c *c) float64 { return float64(c.ToQEMU) }),
		newSeries(counter, "link_received_bytes_total", "Bytes of frames from the other relay, without TLS", func(c *c) float64 { return float64(c.FromLink) }),
		newSeries(counter, "link_sent_bytes_total", "Bytes of frames to the other relay, without TLS", func(c *c) float64 { return float64(c.ToLink) }),
		newSeries(counter, "link_wait_seconds_total", "Time that connections waited for the link to take frames", func(c *c) float64 { return c.LinkWait.Seconds() }),
		newSeries(gauge, "link_ratio", "Bytes to and from QEMUs for each byte on the link; 0 before the first", ratio),
	}
	for _, form := range []struct {
		name           string
		sent, received func(*c) uint64
	}{
		{"zero", func(c *c) uint64 { return c.Sent.Zero }, func(c *c) uint64 { return c.Received.Zero }},
		{"raw", func(c *c) uint64 { return c.Sent.Raw }, func(c *c) uint64 { return c.Received.Raw }},
		{"zstd", func(c *c) uint64 { return c.Sent.Zstd }, func(c *c) uint64 { return c.Received.Zstd }},
		{"deflated", func(c *c) uint64 { return c.Sent.Deflated }, func(c *c) uint64 { return c.Received.Deflated }},
		{"difference", func(c *c) uint64 { return c.Sent.Difference }, func(c *c) uint64 { return c.Received.Difference }},
		{"reference", func(c *c) uint64 { return c.Sent.Reference }, func(c *c) uint64 { return c.Received.Reference }},
	} {
		list = append(list,
			newSeries(counter, "pages_sent_total", "Pages of multifd channels sent over the link, by form", func(c *c) float64 { return float64(form.sent(c)) }, "form", form.name),
			newSeries(counter, "pages_received_total", "Pages of multifd channels received over the link, by form", func(c *c) float64 { return float64(form.received(c)) }, "form", form.name))
	}
	return list
}

// ratio compares what both QEMUs and the link had to carry.
func ratio(c *relay.Counters) float64 {
	link := c.ToLink + c.FromLink
	if link == 0 {
		return 0
	}
	return float64(c.FromQEMU+c.ToQEMU) / float64(link)
}

var (
	migrations = prometheus.NewDesc("vmferry_relay_migrations", "Migrations under way that have told their UUID or process.", nil, nil)
	processor  = prometheus.NewDesc("vmferry_relay_processor_seconds_total", "Processor time of the process, which --cpus bounds.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c collector) Describe(to chan<- *prometheus.Desc) {
	to <- migrations
	to <- processor
	for _, s := range all {
		to <- s.total
		to <- s.migration
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(to chan<- prometheus.Metric) {
	stats := c.stats()
	to <- prometheus.MustNewConstMetric(migrations, prometheus.GaugeValue, float64(len(stats.Migrations)))
	to <- prometheus.MustNewConstMetric(processor, prometheus.CounterValue, stats.ProcessorTime.Seconds())
	byUUID := sumByUUID(stats.Migrations)
	for _, s := range all {
		to <- prometheus.MustNewConstMetric(s.total, s.kind, s.value(&stats.Total), s.labels...)
		for uuid, counters := range byUUID {
			to <- prometheus.MustNewConstMetric(s.migration, s.kind, s.value(counters), append([]string{uuid}, s.labels...)...)
		}
	}
}

// sumByUUID adds up migrations with the same UUID. Such are those whose UUID is not known
// yet, and machines without one. A series must not occur twice.
func sumByUUID(migrations []relay.MigrationStats) map[string]*relay.Counters {
	sums := map[string]*relay.Counters{}
	for _, m := range migrations {
		sum := sums[m.UUID]
		if sum == nil {
			sum = new(relay.Counters)
			sums[m.UUID] = sum
		}
		sum.Connections, sum.Open, sum.Broken = sum.Connections+m.Connections, sum.Open+m.Open, sum.Broken+m.Broken
		sum.FromQEMU, sum.ToQEMU = sum.FromQEMU+m.FromQEMU, sum.ToQEMU+m.ToQEMU
		sum.ToLink, sum.FromLink = sum.ToLink+m.ToLink, sum.FromLink+m.FromLink
		sum.Sent.Add(m.Sent)
		sum.Received.Add(m.Received)
		sum.LinkWait += m.LinkWait
	}
	return sums
}
