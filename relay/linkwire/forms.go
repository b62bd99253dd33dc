package linkwire

// A PACKET frame:
//
//	u8 coding of the data   u8 log2 of the page size   u16 pages   u32 length of the head   u32 length of the data, decoded
//	head: the channel's header; a form for each page; the forms' fields; 16 bytes of digest if a page is from the cache
//	data
//
// The fields of a page, in this order:
//
//	deflated    uvarint length of the stream
//	difference  uvarint slot, version, length of the difference
//	reference   uvarint slot, version
//	kept        uvarint slot, version: where the other side stores the page
type form uint8

const (
	formZero       form = iota
	formRaw             // data: the page
	formDeflated        // data: a raw deflate stream
	formDifference      // data: see appendDifference
	formReference       // no data
	forms
	// formKept is added to a form if the page goes into a slot.
	formKept form = 0x80
)

// fromCache reports whether the other side takes the page from its cache.
func (f form) fromCache() bool { return f == formDifference || f == formReference }

const packetFixedLen = 12

// bytesFixedLen is the length of the head of a BYTES frame: u8 coding, u24 length of the
// bytes, decoded.
const bytesFixedLen = 4

// coding is how the data of a frame is coded.
type coding uint8

const (
	codingPlain coding = 0
	// codingZstd and codingZstdBetter are two zstd streams, each for the whole life of
	// the connection and flushed at the end of a frame.
	codingZstd       coding = 1
	codingZstdBetter coding = 2
)

// Forms counts pages by form. Zstd are raw pages in data that zstd compressed; Raw are
// the others.
type Forms struct {
	Zero, Raw, Zstd, Deflated, Difference, Reference uint64
}

// Add adds the counts of o.
func (f *Forms) Add(o Forms) {
	f.Zero += o.Zero
	f.Raw += o.Raw
	f.Zstd += o.Zstd
	f.Deflated += o.Deflated
	f.Difference += o.Difference
	f.Reference += o.Reference
}

// count counts a page in data of a coding.
func (f *Forms) count(is form, c coding) {
	switch is {
	case formZero:
		f.Zero++
	case formRaw:
		if c == codingPlain {
			f.Raw++
		} else {
			f.Zstd++
		}
	case formDeflated:
		f.Deflated++
	case formDifference:
		f.Difference++
	case formReference:
		f.Reference++
	}
}

// Pages returns the number of pages.
func (f Forms) Pages() uint64 {
	return f.Zero + f.Raw + f.Zstd + f.Deflated + f.Difference + f.Reference
}

// Level says how hard an Encoder tries to make a frame small.
type Level uint8

const (
	// LevelRaw sends pages raw, except zero pages.
	LevelRaw Level = iota
	// LevelDeflate deflates pages, and uses the cache.
	LevelDeflate
	// LevelZstd and LevelZstdBetter compress the data of a frame with zstd, and use the
	// cache.
	LevelZstd
	LevelZstdBetter
)

func (l Level) coding() coding {
	if l == LevelZstdBetter {
		return codingZstdBetter
	}
	return codingZstd
}

func (l Level) String() string {
	return [...]string{"raw", "deflate", "zstd", "zstd better"}[l]
}
