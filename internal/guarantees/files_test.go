package guarantees

import (
	"go/ast"
	"go/types"
	"slices"
	"testing"
)

// changes are functions that change the file system, or open a file so that it may be
// changed.
var changes = map[string][]string{
	"os": {"Chmod", "Chown", "Chtimes", "Create", "CreateTemp", "Lchown", "Link", "Mkdir", "MkdirAll", "MkdirTemp",
		"OpenFile", "Remove", "RemoveAll", "Rename", "Symlink", "Truncate", "WriteFile"},
	"unix": {"Chmod", "Chown", "Fchmod", "Fchmodat", "Fchown", "Fchownat", "Lchown", "Link", "Linkat", "Mkdir", "Mkdirat",
		"Mknod", "Mknodat", "Mount", "Open", "Openat", "Openat2", "Rename", "Renameat", "Renameat2", "Rmdir", "Symlink", "Symlinkat", "Truncate", "Unlink", "Unlinkat"},
	"syscall": {"Chmod", "Chown", "Fchmod", "Fchown", "Lchown", "Link", "Mkdir", "Mount", "Open", "Rename", "Rmdir", "Symlink", "Truncate", "Unlink"},
}

// changing are the places that change the file system, and why each removes only what
// this program made and, as root, resolves no path in another user's directory.
var changing = map[string]string{
	"cmd/vmferry.benchFaultsCmd.Run: os.WriteFile": "the chart that the user names with --chart, as the user",
	"dirty.openDevice: unix.Open":                  "/dev/userfaultfd, nothing is changed",
	"dirty.reopenForHoles: os.OpenFile":            "memory of this process by /proc/self/fd, for reading",
	"iaa/iaamodel.Machine.Disable: os.WriteFile":   "a file of the directory that the model was given, which is new: vmferry bench iaa makes one with MkdirTemp",
	"iaa/iaamodel.Machine.Remove: os.RemoveAll":    "a directory that the model made, below the one that it was given",
	"iaa/iaamodel.chmod: os.Chmod":                 "a file that the model made, below the directory that it was given",
	"iaa/iaamodel.writeQueue: os.MkdirAll":         "below the new directory that the model was given",
	"iaa/iaamodel.writeQueue: os.WriteFile":        "below the new directory that the model was given",
	"iaa/iaamodel.writeTree: os.MkdirAll":          "below the new directory that the model was given",
	"iaa/iaamodel.writeTree: os.WriteFile":         "below the new directory that the model was given",
	"internal/probe/destination.Run: os.MkdirTemp": "a new directory for the model's files, in the directory for temporary files",
	"internal/probe/destination.Run: os.RemoveAll": "the directory that MkdirTemp made, which only this process's user can enter",
	"iaa.host.OpenQueue: unix.Open":                "a work queue's device, nothing is changed",
	"internal/hugepages.reserve: os.WriteFile":     "the number of huge pages in /sys, for vmferry bench faults as root; it is set back at the end",
	"internal/unixpath.Short: unix.Open":           "O_PATH on a directory, nothing is changed",
	"transport.removeStale: os.Remove":             "a socket that refuses connections, so that no process listens on it; in the directory that the user names for it",
	"transport.unixListener.Close: os.Remove":      "the socket that the listener made: the inode is compared",
	"qemu.RunGuard: os.OpenFile":                   "/dev/null, nothing is changed",
	"qemu.makeSocketDir: unix.Mkdirat":             "a new name in the directory for sockets, which is open",
	"qemu.makeSocketDir: unix.Unlinkat":            "the directory made a moment ago, if it is empty, by the descriptor of its parent",
	"qemu.openDir: unix.Openat":                    "no link is followed below another directory",
	"qemu.removeSocketDir: unix.Unlinkat":          "by descriptors; an inode that was noted is compared first",
	"qemu.visibleTo: unix.Openat2":                 "O_PATH on a directory, below the root of QEMU's process; nothing is changed",
	"qemu.socketDir.dial: unix.Openat":             "O_PATH, no link is followed; the user behind the socket is compared",
	"qemu.socketDir.handOver: unix.Fchown":         "by the descriptor of the directory that was made and checked",
	"qemu.socketDir.listen: unix.Fchmod":           "by the descriptor of the directory that was made and checked",
	"qemu.socketDir.listenAs: unix.Fchmodat":       "in a directory that only this process's user can enter",
	"qemu.socketDir.listen: unix.Fchownat":         "in a directory that only this process's user can enter; no link is followed",
	"store.openAt: unix.Openat":                    "no link is followed; what is no regular file is refused",
	"store.osDir.mkdir: unix.Mkdirat":              "a new name, by the descriptor of its parent",
	"store.osDir.remove: unix.Unlinkat":            "callers compare the inode with what they made",
	"store.osDir.removeDir: unix.Unlinkat":         "an empty directory; callers compare the inode with what they made",
	"store.osDir.rename: unix.Linkat":              "replaces nothing",
	"store.osDir.rename: unix.Renameat":            "only where the file system can neither rename without replacing nor link, after a look",
	"store.osDir.rename: unix.Unlinkat":            "the temporary name of a file that this process made",
}

func TestFiles_EveryChangeIsAccountedFor(t *testing.T) {
	found := make(map[string]bool)
	inspectFuncs(t, func(place string, n ast.Node) {
		call, ok := n.(*ast.SelectorExpr)
		if !ok {
			return
		}
		pkg, ok := call.X.(*ast.Ident)
		if ok && slices.Contains(changes[pkg.Name], call.Sel.Name) {
			found[place+": "+pkg.Name+"."+call.Sel.Name] = true
		}
	})
	registered(t, "the change", found, changing)
	for place, why := range changing {
		if why == "" {
			t.Errorf("%s: the table does not say why", place)
		}
	}
}

// funcName is "Type.Method" or "Func".
func funcName(f *ast.FuncDecl) string {
	if f.Recv == nil {
		return f.Name.Name
	}
	receiver := f.Recv.List[0].Type
	if star, ok := receiver.(*ast.StarExpr); ok {
		receiver = star.X
	}
	return types.ExprString(receiver) + "." + f.Name.Name
}
