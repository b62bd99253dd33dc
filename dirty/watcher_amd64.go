package dirty

// haveWatcher reports whether the mode Sync is implemented for this processor.
const haveWatcher = true

// startWatcher starts the thread of w, and returns an errno. The caller must have
// blocked all signals.
//
//go:noescape
func startWatcher(w *watch) (errno uintptr)
