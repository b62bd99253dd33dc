package guarantees

import (
	"go/ast"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

// command is what a command of the program promises.
type command struct {
	// waits are the flags that bound the command's waits for other processes, without
	// dashes; none if it waits for none.
	waits []string
	// shown are tests that a success can be read back, and that the waits end.
	shown []string
}

var commands = map[string]command{
	"save": {
		waits: []string{"stall-timeout", "at-pause-timeout", "max-rounds"},
		shown: []string{"qemu.TestRealQEMURestore_EveryStore", "qemu.TestRealQEMUAtPause_EndsAfterItsTimeout", "qemu.FuzzHostileMonitor"},
	},
	"restore": {
		waits: []string{"stall-timeout", "connect-timeout"},
		shown: []string{"qemu.TestRealQEMUSaveAndRestore", "qemu.TestRealQEMURestore_WaitsForAQEMUThatStarts", "qemu.FuzzHostileMonitor"},
	},
	"receive": {
		waits: []string{"stall-timeout", "wait"},
		shown: []string{"migration.TestReceive_RecordedMigrationsAreStoredAndSentAgain", "migration.FuzzReceiveWhole", "migration.TestReceive_SilentConnectionsMakeRoomForTheSource"},
	},
	"send": {
		waits: []string{"stall-timeout", "connect-timeout"},
		shown: []string{"migration.TestReceive_RecordedMigrationsAreStoredAndSentAgain", "migration.TestSender_DestinationThatNeverRepliesIsAStall"},
	},
	"migrate": {
		waits: []string{"stall-timeout", "link-timeout", "connect-timeout", "at-pause-timeout", "max-rounds"},
		shown: []string{"qemu.TestMigrate_LinkBreaksAtEachMessage", "qemu.TestMigrate_MachineThatDivergesStays", "qemu.TestRealQEMUMigrate_TwoHostsOverTLS"},
	},
	"accept": {
		waits: []string{"stall-timeout", "link-timeout", "connect-timeout", "wait"},
		shown: []string{"qemu.TestAccept_SourceThatDoesNotConnect", "qemu.TestAccept_SilentSource", "qemu.TestRealQEMUMigrate_TwoHostsOverTLS"},
	},
	"relay": { // a migration ends when its QEMUs end it
		waits: []string{"link-timeout", "drain"},
		shown: []string{"relay.TestRelay_KeepsEveryByteBothWays", "relay.TestRelay_SilentLinkBreaksBothEnds", "cmd/vmferry.TestRelayDaemon_DrainEndsAfterItsTime"},
	},
	"forecast": {
		waits: []string{"measure"},
		shown: []string{"qemu.TestForecast_MeasuresAndChangesNothing", "qemu.TestForecast_MeasurementWithoutEndIsBounded"},
	},
	"export":  {shown: []string{"qemu.TestRealQEMULoadsMappedRAM", "store.TestCreateFile_ExistingNameIsRefused"}},
	"inspect": {shown: []string{"cmd/vmferry.TestScripts"}},
	"verify":  {shown: []string{"snapshot.FuzzSnapshotRepaired"}},
	"demo":    {shown: []string{"cmd/vmferry.TestScripts"}}, // both sides are its own
	"iaa":     {shown: []string{"cmd/vmferry.TestScripts"}},
	"bench":   {shown: []string{"cmd/vmferry.TestScripts"}},
	"version": {shown: []string{"cmd/vmferry.TestScripts"}},
	"guard":   {shown: []string{"qemu.TestGuard_LastRecoveryCounts"}}, // an hour for QEMU
	// A process of the demo, which ends it.
	"demo-side": {shown: []string{"cmd/vmferry.TestScripts"}},
}

func TestCommands_EndAndWriteWhatCanBeReadBack(t *testing.T) {
	structs := structsOf(t, "cmd/vmferry")
	found, flags := make(map[string]bool), make(map[string]map[string]bool)
	for _, field := range structs["cli"].Fields.List {
		tag := tagOf(field)
		if _, ok := tag.Lookup("cmd"); !ok {
			continue
		}
		name := tag.Get("name")
		if name == "" {
			name = strings.ToLower(field.Names[0].Name)
		}
		found[name] = true
		flags[name] = make(map[string]bool)
		collectFlags(structs, field.Type.(*ast.Ident).Name, flags[name])
	}
	registered(t, "the command", found, commands)
	tests := testNames(t)
	for name, c := range commands {
		shown(t, tests, "the command "+name, c.shown...)
		for _, flag := range c.waits {
			if !flags[name][flag] {
				t.Errorf("the command %s has no flag --%s", name, flag)
			}
		}
	}
}

// structsOf are the struct types of a package by their names.
func structsOf(t *testing.T, dir string) map[string]*ast.StructType {
	t.Helper()
	structs := make(map[string]*ast.StructType)
	for _, s := range sources(t, false) {
		if s.dir() != dir {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if typ, ok := spec.Type.(*ast.StructType); ok {
					structs[spec.Name.Name] = typ
				}
			}
			return true
		})
	}
	return structs
}

func tagOf(f *ast.Field) reflect.StructTag {
	if f.Tag == nil {
		return ""
	}
	text, _ := strconv.Unquote(f.Tag.Value)
	return reflect.StructTag(text)
}

// collectFlags notes the flags of a command's struct and of those embedded in it.
func collectFlags(structs map[string]*ast.StructType, name string, flags map[string]bool) {
	typ := structs[name]
	if typ == nil {
		return
	}
	for _, field := range typ.Fields.List {
		if len(field.Names) == 0 {
			if embedded, ok := field.Type.(*ast.Ident); ok {
				collectFlags(structs, embedded.Name, flags)
			}
			continue
		}
		flag := tagOf(field).Get("name")
		if flag == "" {
			flag = kebab(field.Names[0].Name)
		}
		flags[flag] = true
	}
}

// kebab writes AtPauseTimeout as at-pause-timeout, as the command line does.
func kebab(name string) string {
	var b strings.Builder
	for i, r := range name {
		if i > 0 && r >= 'A' && r <= 'Z' {
			b.WriteByte('-')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}
