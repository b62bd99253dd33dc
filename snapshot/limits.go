package snapshot

// What a snapshot can hold at most. Writer and reader go by the same bounds, so
// that what Finish completes can be opened. The index has no bound of its own:
// its counts are compared with the machine's pages and with its own bytes.
const (
	// maxManifestSize bounds the manifest's text.
	maxManifestSize = 16 << 20
	// maxPageObjects bounds the objects of pages. The lines of so many would
	// fill the manifest.
	maxPageObjects = 1 << 17
	// maxNewPageObjects is how many the writer makes: their lines leave room
	// for those of the most RAM blocks with the longest names.
	maxNewPageObjects = 1 << 14
	// maxTextLen bounds the texts that say what a machine is.
	maxTextLen = 1024
	// maxHead and maxMeta bound the objects that are read whole: the head,
	// and devices or device states.
	maxHead = 1 << 20
	maxMeta = 1 << 30
	// openObjects is how many objects of pages a reader keeps open.
	openObjects = 64

	// defaultObjectSize is about how large the first objects of pages get.
	// The size doubles every growthStep objects up to 2^maxGrowth times:
	// 100 TiB are some 6,000 objects.
	defaultObjectSize = 64 << 20
	growthStep        = 512
	maxGrowth         = 10
)

// firstObjectSize returns about how large the first objects get below a bound.
// Superseded pages make room again by whole objects: so none is a large part of
// the bound.
func firstObjectSize(bound int64) int64 {
	if bound == 0 {
		return defaultObjectSize
	}
	return min(defaultObjectSize, max(bound/64, 64<<10))
}

// objectSize returns about how large page object number n gets.
func objectSize(first int64, n int) int64 {
	return first << min(n/growthStep, maxGrowth)
}
