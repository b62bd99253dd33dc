//go:build !amd64

package dirty

const haveWatcher = false

func startWatcher(*watch) (errno uintptr) { panic("dirty: no watcher for this processor") }
