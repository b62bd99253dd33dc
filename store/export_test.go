package store

// Partial is the suffix of the name of an object that is not committed.
const Partial = partial

// CrashFS is a model of a file system that crashes.
type CrashFS = crashFS

// NewCrashFS returns an empty file system. With links, its rename is a link and an
// unlink. drops reports the syncs to leave out; nil leaves out none.
func NewCrashFS(links bool, drops func(isDir bool, ino uint64) bool) *CrashFS {
	f := newCrashFS()
	f.links, f.dropsSync = links, drops
	return f
}

func (f *crashFS) Mark(what string)                    { f.mark(what) }
func (f *crashFS) Steps() int                          { return len(f.log) }
func (f *crashFS) CreateDir(path string) (*Dir, error) { return createDir(f, path) }
func (f *crashFS) OpenDir(path string) (*Dir, error)   { return openDir(f, path) }

// Mkdir creates a directory and syncs nothing.
func (f *crashFS) Mkdir(above, name string) error {
	d, err := f.openDir(above)
	if err != nil {
		return err
	}
	return d.mkdir(name)
}

// CrashStates calls check with every state that a crash can leave.
func (f *crashFS) CrashStates(check func(mark string, after *CrashFS) error) (states int, err error) {
	return f.crashStates(check)
}

// DataOf returns the bytes of a directory's file.
func (f *crashFS) DataOf(d *Dir, name string) []byte { return d.dir.(*crashDir).n.entries[name].data }

func (f *crashFS) openRoot() directory { return &crashDir{f, f.root} }
