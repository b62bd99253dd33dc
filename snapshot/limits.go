package snapshot

// Limits of a snapshot. Writer and reader use the same limits, so that a reader can open
// every snapshot that Finish completes. The index has no limit of its own: the reader
// compares its counts with the machine's pages and with its size.
const (
	// maxManifestSize is the largest size of the manifest in bytes.
	maxManifestSize = 16 << 20

	// maxPageObjects is the largest number of page objects. The entries of more
	// would not fit into the manifest.
	maxPageObjects = 1 << 17

	// maxNewPageObjects is the largest number of page objects that the writer
	// creates. Their entries leave space in the manifest for the largest number
	// of RAM blocks with the longest names.
	maxNewPageObjects = 1 << 14

	// maxOptional is the largest number of optional objects of unknown roles, and
	// maxRequires that of names that a manifest requires.
	maxOptional = 16
	maxRequires = 16

	// maxTextLen is the largest length in bytes of a text that describes the
	// machine.
	maxTextLen = 1024

	// maxHead and maxMeta are the largest sizes in bytes of objects that are
	// read whole: maxHead of the head, maxMeta of devices and device states.
	maxHead = 1 << 20
	maxMeta = 1 << 30

	// openObjects is the number of page objects that a reader keeps open.
	openObjects = 64

	// defaultObjectSize is the approximate size in bytes of the first page
	// objects. The size doubles every growthStep objects, maxGrowth times at
	// most, so 100 TiB take about 6,000 objects.
	defaultObjectSize = 64 << 20
	growthStep        = 512
	maxGrowth         = 10
)

// firstObjectSize returns the approximate size of the first page objects for a bound on
// the size of the snapshot. The writer frees superseded pages by whole objects, so an
// object must be small compared with the bound.
func firstObjectSize(bound int64) int64 {
	if bound == 0 {
		return defaultObjectSize
	}
	return min(defaultObjectSize, max(bound/64, 64<<10))
}

// objectSize returns the approximate size of page object n in bytes.
func objectSize(first int64, n int) int64 {
	return first << min(n/growthStep, maxGrowth)
}
