//go:build !amd64

package dirty

const haveWatcher = false

func startWatcher(*watch) (errno uintptr) {
	panic("dirty: mode sync is not implemented for this processor")
}
