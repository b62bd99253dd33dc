package guarantees

import (
	"go/ast"
	"go/types"
	"strings"
	"testing"
)

// waits are the durations that users of the packages set, with the tests that show
// that the wait ends.
var waits = map[string][]string{
	"iaa.Options.DrainTimeout":                     {"iaa.TestJob_VanishedJobIsDrained", "iaa.TestJob_HungJobKeepsItsMemory"},
	"iaa.Options.JobTimeout":                       {"iaa.TestJob_LateJobKeepsItsSlot", "iaa.TestQueue_IsDisabledAfterConsecutiveTimeouts"},
	"internal/probe/iaa.Config.Budget":             {"internal/probe/iaa.TestRun_SlowCodecHasFewerPages"},
	"live.ReceiveConfig.Answer":                    {"live.TestMigrate_LinkBreaksDuringHandover"},
	"live.Config.ConnectTimeout":                   {"migration.TestConnect_ErrorNamesTheConnectTimeout"},
	"live.Config.Downtime":                         {"live.TestMigrate_DivergingMachineStaysOrStops"},
	"live.Config.Inquiry":                          {"live.TestMigrate_LinkBreaksDuringHandover"},
	"live.Config.StandStill":                       {"live.TestMigrate_LinkBreaksDuringHandover"},
	"migration.ReceiveConfig.ConnectTimeout":       {"migration.TestReceive_SilentConnectionsMakeRoomForTheSource"},
	"migration.SendConfig.ConnectTimeout":          {"migration.TestConnect_RetriesUntilTheDestinationListens", "migration.TestConnect_ErrorNamesTheConnectTimeout"},
	"migration.Wire.LinkTimeout":                   {"live.TestMigrate_HangingDialIsBounded", "migration.TestSender_SlowDestinationThatAcknowledgesIsAlive"},
	"migration.Wire.StallTimeout":                  {"migration.TestReceive_SilentSourceIsAStall", "migration.TestReceive_MissingHeadIsAStall", "migration.TestReceive_ChannelStoppedInAPacketIsAStall", "migration.TestSender_DestinationThatStopsReadingIsAStall", "migration.TestSender_DestinationThatNeverRepliesIsAStall", "qemu.FuzzHostileMonitor"},
	"migration/stored.SendConfig.ConnectTimeout":   {"cmd/vmferry.TestScripts"},
	"qemu.AcceptOptions.ConnectTimeout":            {"cmd/vmferry.TestScripts"},
	"qemu.AcceptOptions.Inquiry":                   {"qemu.TestMigrate_LinkBreaksAtEachMessage"},
	"qemu.AcceptOptions.LinkTimeout":               {"qemu.TestAccept_SilentSource"},
	"qemu.AcceptOptions.StallTimeout":              {"qemu.TestAccept_SilentQEMU"},
	"qemu.AcceptOptions.Wait":                      {"qemu.TestAccept_SourceThatDoesNotConnect"},
	"qemu.MigrateOptions.AtPauseTimeout":           {"qemu.TestRealQEMUAtPause_EndsAfterItsTimeout"},
	"qemu.MigrateOptions.ConnectTimeout":           {"cmd/vmferry.TestScripts"},
	"qemu.MigrateOptions.Downtime":                 {"qemu.TestRealQEMUMigrate_OneHost"},
	"qemu.MigrateOptions.Inquiry":                  {"qemu.TestMigrate_LinkBreaksAtEachMessage"},
	"qemu.MigrateOptions.LinkTimeout":              {"qemu.TestMigrate_SilentDestination"},
	"qemu.MigrateOptions.StallTimeout":             {"qemu.TestMigrate_SilentQEMU"},
	"qemu/agreement.ListenerConfig.IdentifyWithin": {"qemu/agreement.TestListener_SilentConnectionsAreClosed"},
	"qemu/agreement.ListenerConfig.Silence":        {"qemu/agreement.TestConn_SilentPeerIsAnError"},
	"transport.IdentifyConfig.Within":              {"qemu/agreement.TestListener_SilentConnectionsAreClosed"},
	"qemu.ForecastOptions.Downtime":                {"cmd/vmferry.TestScripts"}, // of the forecast migration
	"qemu.ForecastOptions.Measure":                 {"qemu.TestForecast_MeasurementWithoutEndIsBounded"},
	"qemu.RestoreOptions.ConnectTimeout":           {"qemu.TestRealQEMURestore_WaitsForAQEMUThatStarts"},
	"qemu.SaveOptions.AtPauseTimeout":              {"qemu.TestRealQEMUAtPause_EndsAfterItsTimeout"},
	"qemu.SaveOptions.ConnectTimeout":              {"qemu.FuzzHostileMonitor"},
	"qemu.SaveOptions.Downtime":                    {"qemu.TestRealQEMUSaveAndRestore"},
	"relay.Config.LinkTimeout":                     {"relay.TestRelay_SilentLinkBreaksBothEnds"},
	"relay/transcode.Config.DialTimeout":           {"relay/transcode.TestServe_HangingDialEnds"},
	"transport.AcceptConfig.ConnectTimeout":        {"migration.TestReceive_SilentConnectionsMakeRoomForTheSource"},
	"transport.AcceptConfig.IdentifyWithin":        {"migration.TestReceive_SilentConnectionsTimeOut"},
	"transport.AcceptConfig.LinkTimeout":           {"migration.TestSender_SlowDestinationThatAcknowledgesIsAlive"},
	"transport.AcceptConfig.StallTimeout":          {"migration.TestReceive_IncompleteSourceIsDropped"},
	"vmferry.ReceiveOptions.ConnectTimeout":        {"cmd/vmferry.TestScripts"},
	"vmstate.DestinationOptions.Quiet":             {"migration.TestReceive_NoDescriptionWithReturnPath"},
}

// TestWaits_EveryDurationIsShown looks at the exported durations of structs that
// configure something: Config, Options, Wire.
func TestWaits_EveryDurationIsShown(t *testing.T) {
	found := make(map[string]bool)
	for _, s := range sources(t, false) {
		if s.file.Name.Name == "main" {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok || !spec.Name.IsExported() {
				return true
			}
			typ, ok := spec.Type.(*ast.StructType)
			if !ok || !configures(spec.Name.Name) {
				return true
			}
			for _, field := range typ.Fields.List {
				for _, name := range field.Names {
					if name.IsExported() && types.ExprString(field.Type) == "time.Duration" {
						found[s.dir()+"."+spec.Name.Name+"."+name.Name] = true
					}
				}
			}
			return true
		})
	}
	registered(t, "the duration", found, waits)
	tests := testNames(t)
	for name, by := range waits {
		shown(t, tests, "the duration "+name, by...)
	}
}

func configures(name string) bool {
	for _, suffix := range []string{"Config", "Options", "Wire"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}

// endless are functions that wait for another process or a device; a call of one
// belongs into a function that bounds it. The table says how.
var endless = map[string]string{
	"cmd/vmferry.relayCmd.transcode: Dial":     "the caller's context: DialTimeout in transcode.Serve",
	"vmferry.Send: Dial":                       "--connect-timeout and LinkTimeout, in migration.Connect",
	"transport.Address.Dial: DialContext":      "the caller's context: LinkTimeout in migration.Connect",
	"transport.Address.Dial: HandshakeContext": "the caller's context: LinkTimeout in migration.Connect",
	"migration.Sender.openChannel: Handshake":  "writes 64 bytes; the watch's StallTimeout",
	"cmd/vmferry.relayCmd.Run: Dial":           "LinkTimeout, in relay.Relay.dialLink and dialInOrder",
	"transport.AcceptNext: Accept":             "the listener is closed when the context ends; ConnectTimeout",
	"transport.dialUnix: DialContext":          "the caller's context: LinkTimeout in migration.Connect",
	"transport.removeStale: DialTimeout":       "a second",
	"transport.ServeTLS: HandshakeContext":     "the time of a connection that is not identified",
	"qemu.Forecast: OpenWithin":                "qmp.OpenTimeout",
	"qemu.atPauseMonitor.accept: Accept":       "the listener is closed when the command at the pause has ended",
	"qemu.drainer.take: Accept":                "the listener is closed by drainer.close",
	"qemu.lingerListener.Accept: AcceptUnix":   "migration.Receive closes the listener; ConnectTimeout",
	"qemu.recovery.reopenAndRun: OpenWithin":   "qmp.OpenTimeout for an attempt; the caller's context: 15 s, or an hour for the guard",
	"qemu.restore.run: OpenWithin":             "qmp.OpenTimeout for an attempt, ConnectTimeout for all",
	"qemu.outgoing.open: OpenWithin":           "qmp.OpenTimeout",
	"qemu.destination.open: OpenWithin":        "qmp.OpenTimeout for an attempt, ConnectTimeout for all",
	"qemu.destination.runMachine: OpenWithin":  "qmp.OpenTimeout, and 15 s for all",
	"qemu.newRemotePeer: Dial":                 "the caller's context: LinkTimeout and ConnectTimeout in remotePeer.talk and openLink",
	"qemu.remotePeer.carryAll: Accept":         "the listener is closed when the migration has ended",
	"vmferry.Accept: Accept":                   "no wait for a connection: AcceptOptions.Wait",
	"cmd/vmferry.acceptCmd.Run: Accept":        "no wait for a connection: --wait",
	"qemu.socketDir.dial: DialContext":         "the caller's context: LinkTimeout in migration.Connect",
	"qmp.connect: DialContext":                 "qmp.GreetingTimeout",
}

// TestWaits_EveryAcceptAndDialIsBounded finds the calls that wait for a peer to appear.
func TestWaits_EveryAcceptAndDialIsBounded(t *testing.T) {
	found := make(map[string]bool)
	inspectFuncs(t, func(place string, n ast.Node) {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return
		}
		if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
			switch sel.Sel.Name {
			case "Accept", "AcceptUnix", "Dial", "DialContext", "DialTimeout", "HandshakeContext", "Handshake", "OpenWithin":
				found[place+": "+sel.Sel.Name] = true
			}
		}
	})
	registered(t, "the wait", found, endless)
	for place, how := range endless {
		if how == "" {
			t.Errorf("%s: the table does not say what bounds it", place)
		}
	}
}
