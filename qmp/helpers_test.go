package qmp_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/vmferry/vmferry/qmp"
	"github.com/vmferry/vmferry/qmp/qmptest"
)

// Each helper sends the command and the arguments that QEMU documents.
func TestHelpers_SendCommands(t *testing.T) {
	for name, test := range map[string]struct {
		call func(context.Context, *qmp.Client) error
		want string // the command and its arguments
	}{
		"Stop":            {func(ctx context.Context, c *qmp.Client) error { return c.Stop(ctx) }, `stop `},
		"Cont":            {func(ctx context.Context, c *qmp.Client) error { return c.Cont(ctx) }, `cont `},
		"MigrateCancel":   {func(ctx context.Context, c *qmp.Client) error { return c.MigrateCancel(ctx) }, `migrate_cancel `},
		"Migrate":         {func(ctx context.Context, c *qmp.Client) error { return c.Migrate(ctx, "unix:/a") }, `migrate {"uri":"unix:/a"}`},
		"MigrateIncoming": {func(ctx context.Context, c *qmp.Client) error { return c.MigrateIncoming(ctx, "unix:/a") }, `migrate-incoming {"uri":"unix:/a"}`},
		"QomGet": {func(ctx context.Context, c *qmp.Client) error {
			var v any
			return c.QomGet(ctx, "/objects/ram0", "mem-path", &v)
		}, `qom-get {"path":"/objects/ram0","property":"mem-path"}`},
		"SetMigrateCapabilities": {func(ctx context.Context, c *qmp.Client) error {
			return c.SetMigrateCapabilities(ctx, map[string]bool{"return-path": false, "multifd": true})
		}, `migrate-set-capabilities {"capabilities":[{"capability":"multifd","state":true},{"capability":"return-path","state":false}]}`},
		"SetMigrateParameters": {func(ctx context.Context, c *qmp.Client) error {
			return c.SetMigrateParameters(ctx, qmp.MigrateParameters{
				MultifdChannels: new(8),
				DowntimeLimit:   new(qmp.Milliseconds(40)),
				MaxBandwidth:    new(uint64(0)),
				Other:           map[string]json.RawMessage{"x-future": json.RawMessage(`true`)},
			})
		}, `migrate-set-parameters {"downtime-limit":40,"max-bandwidth":0,"multifd-channels":8,"x-future":true}`},
	} {
		t.Run(name, func(t *testing.T) {
			s := qmptest.Start(t, qmptest.Config{})
			command, _, _ := strings.Cut(test.want, " ")
			s.Answer(command, nil)
			c := dial(t, s)
			if err := test.call(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			call := s.Calls()[1]
			if got := call.Command + " " + string(call.Args); got != test.want {
				t.Errorf("sent %s\nwant %s", got, test.want)
			}
			// A refusal comes through every helper.
			s.Refuse(command, "no")
			var refusal *qmp.Error
			if err := test.call(t.Context(), c); !errors.As(err, &refusal) || refusal.Command != command {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestQueries_DecodeAnswers(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	raw := func(command, answer string) { s.Answer(command, json.RawMessage(answer)) }
	raw("query-status", `{"status":"postmigrate","running":false,"singlestep":false}`)
	raw("query-uuid", `{"UUID":"00000000-0000-0000-0000-000000000001"}`)
	raw("query-memdev", `[{"id":"ram0","size":536870912,"prealloc":true,"share":true,"merge":true,"dump":true,"policy":"default","host-nodes":[]}]`)
	raw("query-migrate-capabilities", `[{"capability":"multifd","state":true},{"capability":"xbzrle","state":false}]`)
	raw("qom-get", `"/dev/shm/ram0"`)
	c := dial(t, s)

	check := func(name string, got any, err error, want any) {
		t.Helper()
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
	status, err := c.QueryStatus(t.Context())
	check("query-status", status, err, qmp.RunState{Status: qmp.StatePostmigrate})
	uuid, err := c.QueryUUID(t.Context())
	check("query-uuid", uuid, err, "00000000-0000-0000-0000-000000000001")
	memdev, err := c.QueryMemdev(t.Context())
	check("query-memdev", memdev, err, []qmp.MemoryBackend{{ID: "ram0", Size: 512 << 20,
		Prealloc: true, Share: new(true), Merge: true, Dump: true, Policy: "default"}})
	caps, err := c.QueryMigrateCapabilities(t.Context())
	check("query-migrate-capabilities", caps, err, map[string]bool{"multifd": true, "xbzrle": false})
	var path string
	err = c.QomGet(t.Context(), "/objects/ram0", "mem-path", &path)
	check("qom-get", path, err, "/dev/shm/ram0")

	var number int
	err = c.QomGet(t.Context(), "/objects/ram0", "mem-path", &number)
	if err == nil || !strings.Contains(err.Error(), "mem-path") {
		t.Errorf("qom-get into the wrong type: %v, want an error that names the property", err)
	}
}

func TestQueryMigrate_DecodesEachState(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	c := dial(t, s)
	for name, test := range map[string]struct {
		answer string
		ended  bool
		want   qmp.Migration
	}{
		"never":     {`{}`, false, qmp.Migration{}},
		"cancelled": {`{"status":"cancelled"}`, true, qmp.Migration{Status: qmp.MigrationCancelled}},
		"failing":   {`{"status":"failing"}`, false, qmp.Migration{Status: qmp.MigrationFailing}},
		"failed": {`{"status":"failed","error-desc":"Unable to write to socket: Broken pipe","blocked-reasons":["a","b"]}`, true,
			qmp.Migration{Status: qmp.MigrationFailed, ErrorDesc: "Unable to write to socket: Broken pipe", BlockedReasons: []string{"a", "b"}}},
		"active": {`{"expected-downtime":300,"status":"active","setup-time":2,"total-time":1302,
			"ram":{"total":554250240,"postcopy-requests":0,"dirty-sync-count":3,"multifd-bytes":42,"pages-per-second":8129,
			"downtime-bytes":0,"page-size":4096,"remaining":463351808,"postcopy-bytes":0,"mbps":268.5,"transferred":33664342,
			"dirty-sync-missed-zero-copy":0,"precopy-bytes":33664342,"duplicate":14005,"dirty-pages-rate":17,
			"normal-bytes":33533952,"normal":8187}}`, false,
			qmp.Migration{Status: qmp.MigrationActive, ExpectedDowntime: 300, SetupTime: 2, TotalTime: 1302, RAM: &qmp.RAMProgress{
				Total: 554250240, DirtySyncCount: 3, MultifdBytes: 42, PagesPerSecond: 8129, PageSize: 4096, Remaining: 463351808,
				Mbps: 268.5, Transferred: 33664342, PrecopyBytes: 33664342, Duplicate: 14005, DirtyPagesRate: 17,
				NormalBytes: 33533952, Normal: 8187}}},
		"completed": {`{"status":"completed","downtime":41}`, true, qmp.Migration{Status: qmp.MigrationCompleted, Downtime: 41}},
	} {
		t.Run(name, func(t *testing.T) {
			s.Answer("query-migrate", json.RawMessage(test.answer))
			got, err := c.QueryMigrate(t.Context())
			if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
			if got.Ended() != test.ended {
				t.Errorf("Ended() = %v", got.Ended())
			}
		})
	}
	if got := qmp.Milliseconds(1500).Duration(); got != 1500*time.Millisecond {
		t.Errorf("Duration: %v", got)
	}
}

func TestQueryMigrateParameters_KnownAndOther(t *testing.T) {
	s := qmptest.Start(t, qmptest.Config{})
	c := dial(t, s)
	s.Answer("query-migrate-parameters", json.RawMessage(
		`{"multifd-channels":2,"multifd-compression":"none","downtime-limit":300,"tls-creds":"","announce-max":550,"mode":"normal"}`))
	got, err := c.QueryMigrateParameters(t.Context())
	want := qmp.MigrateParameters{
		MultifdChannels: new(2), MultifdCompression: new("none"), DowntimeLimit: new(qmp.Milliseconds(300)), TLSCreds: new(""),
		Other: map[string]json.RawMessage{"announce-max": json.RawMessage("550"), "mode": json.RawMessage(`"normal"`)},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("%v\n%s", err, diff)
	}
	if got.ZeroPageDetection != nil {
		t.Error("a parameter that this QEMU does not have is not nil")
	}
	// What was read can be set again as it is.
	s.Answer("migrate-set-parameters", nil)
	if err := c.SetMigrateParameters(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	calls := s.Calls()
	var back qmp.MigrateParameters
	if err := json.Unmarshal(calls[len(calls)-1].Args, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, back); diff != "" {
		t.Error(diff)
	}
}

func TestMigrateParameters_KnownParameterInOther(t *testing.T) {
	p := qmp.MigrateParameters{Other: map[string]json.RawMessage{"multifd-channels": json.RawMessage("3")}}
	if _, err := json.Marshal(p); err == nil || !strings.Contains(err.Error(), "multifd-channels") {
		t.Errorf("got %v, want an error that names the parameter", err)
	}
}
