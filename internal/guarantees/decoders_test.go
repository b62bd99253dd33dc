package guarantees

import (
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// decoding are the packages that decode what comes from a peer or a file.
var decoding = []string{"deflate", "devicestate", "guest", "guestmem", "internal/strictjson", "live", "migration", "multifd", "qemu", "qemu/agreement", "qmp", "relay/linkwire", "snapshot", "store", "transport", "vmstate"}

// decoders are functions that decode, with the fuzz target that feeds them and, where
// they keep what they decode, the test that bounds their memory.
var decoders = map[string][]string{
	"deflate.Decoder.Inflate":             {"deflate.FuzzInflate"},
	"internal/strictjson.Unmarshal":       {"internal/strictjson.FuzzUnmarshal", "snapshot.TestReader_ManifestOfEmptyElementsTakesLittleMemory"},
	"live.Receive":                        {"migration.FuzzReceiveWhole", "live.TestMigrate_LinkBreaksDuringHandover"},
	"migration.Inbound.NextCommand":       {"vmstate.FuzzReader"},
	"migration.Receive":                   {"migration.FuzzReceiveWhole", "migration.TestReceive_MemoryFollowsReceivedBytes"},
	"devicestate.ParseHeader":             {"devicestate.FuzzReadAll", "multifd.FuzzReceiver"},
	"devicestate.ReadAll":                 {"devicestate.FuzzReadAll"},
	"devicestate.ReadData":                {"devicestate.FuzzReadAll", "migration.TestReceive_MemoryFollowsReceivedBytes"},
	"multifd.Header.Decode":               {"multifd.FuzzReceiver", "relay/transcode.FuzzCarry"},
	"multifd.ReadHandshake":               {"multifd.FuzzHandshake"},
	"multifd.Reader.Read":                 {"multifd.FuzzReceiver"},
	"multifd.Reader.ReadFull":             {"multifd.FuzzReceiver"},
	"multifd.Reader.ReadVectors":          {"multifd.FuzzReceiver"},
	"multifd.Receiver.Next":               {"multifd.FuzzReceiver", "migration.TestReceive_MemoryFollowsReceivedBytes"},
	"multifd.Receiver.Receive":            {"multifd.FuzzReceiver", "migration.TestReceive_MemoryFollowsReceivedBytes"},
	"qemu/agreement.Conn.Receive":         {"qemu/agreement.FuzzReceive", "qemu/agreement.TestMessage_LengthAloneTakesNoMemory"},
	"qemu/agreement.Token.UnmarshalText":  {"qemu/agreement.FuzzReceive"},
	"qmp.Event.Decode":                    {"qmp.FuzzStream"},
	"qmp.MigrateParameters.UnmarshalJSON": {"qmp.FuzzMigrateParameters"},
	"relay/linkwire.Decoder.Next":         {"relay/linkwire.FuzzDecoder", "relay/linkwire.TestDecoder_MemoryFollowsTheBounds"},
	"relay/linkwire.ReadHello":            {"relay/linkwire.FuzzHello"},
	"relay/linkwire.ReadReply":            {"relay/linkwire.FuzzHello"},
	"relay/linkwire.Splitter.Next":        {"relay/linkwire.FuzzPair"},
	"snapshot.Open":                       {"snapshot.FuzzSnapshotRepaired", "snapshot.FuzzManifest", "snapshot.FuzzIndex", "snapshot.TestReader_ManifestOfEmptyElementsTakesLittleMemory"},
	"store.Dir.Open":                      {"snapshot.FuzzSnapshotRepaired"},
	"store.OpenDir":                       {"snapshot.FuzzSnapshotRepaired"},
	"transport.ParseAddress":              {"cmd/vmferry.TestScripts"},
	"vmstate.Destination.NextCommand":     {"vmstate.FuzzReader"},
	"vmstate.FindEnd":                     {"vmstate.FuzzFindEnd", "migration.TestReceive_MemoryFollowsReceivedBytes"},
	"vmstate.ParseHead":                   {"vmstate.FuzzReader"},
	"vmstate.ParseOwnerState":             {"vmstate.FuzzParseOwnerState"},
	"vmstate.ReadReply":                   {"vmstate.FuzzAwaitShut"},
	"vmstate.Reader.Next":                 {"vmstate.FuzzReader", "migration.TestReceive_MemoryFollowsReceivedBytes"},
	"vmstate.Reader.NextCommand":          {"vmstate.FuzzReader"},
	"vmstate.Reader.ReadHead":             {"vmstate.FuzzReader", "migration.TestReceive_MemoryFollowsReceivedBytes"},
	"vmstate.RunState":                    {"vmstate.FuzzReader"},
	"vmstate.SyncMode.UnmarshalText":      {"snapshot.FuzzManifest"},
}

// TestDecoders_EveryOneIsFuzzed takes exported functions whose name begins like one
// that decodes.
func TestDecoders_EveryOneIsFuzzed(t *testing.T) {
	found := make(map[string]bool)
	for _, s := range sources(t, false) {
		if !slices.Contains(decoding, s.dir()) {
			continue
		}
		for _, d := range s.file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if ok && decodes(f.Name.Name) && exported(f) {
				if name := s.dir() + "." + funcName(f); !slices.Contains(others, name) {
					found[name] = true
				}
			}
		}
	}
	registered(t, "the decoder", found, decoders)
	tests := testNames(t)
	for name, by := range decoders {
		shown(t, tests, "the decoder "+name, by...)
	}
}

// exported tells whether users of the package can call a function.
func exported(f *ast.FuncDecl) bool {
	return ast.IsExported(f.Name.Name) && (f.Recv == nil || ast.IsExported(funcName(f)))
}

// begins are how the names of functions begin that decode.
var begins = []string{"Decode", "Decompress", "FindEnd", "Inflate", "Next", "Open", "Parse", "Read", "Receive", "RunState", "Unmarshal"}

// others are exported functions whose names begin like that and that decode nothing.
var others = []string{"guestmem.Memory.Received", "migration.Inbound.Received", "transport.Link.Read", "pagecodec.Accelerator.Ready", "qemu/agreement.OpenControl", "qemu/agreement.OpenLink", "qmp.OpenWithin", "qmp.Socket.Open", "relay/linkwire.Decoder.Read", "relay/linkwire.Splitter.ReadAll", "store.ReadFull", "vmstate.OpenReturnPath"}

func decodes(name string) bool {
	return slices.ContainsFunc(begins, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}
