package dirty

// haveWatcher says that the mode Sync is written for this processor.
const haveWatcher = true

// startWatcher starts the thread that works on w, and returns an errno. All
// signals have to be blocked.
//
//go:noescape
func startWatcher(w *watch) (errno uintptr)
