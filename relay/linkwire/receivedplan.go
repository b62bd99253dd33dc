package linkwire

// receivedPage is how a page of a frame was sent.
type receivedPage struct {
	form       form
	from, kept slotAt
	n          int // bytes of the data
}

// readPlan reads the forms and fields of the pages, whose data has to have plain bytes.
func (d *Decoder) readPlan(r *reader, count, pageSize, plain int) {
	codes := r.take(count)
	d.pages = d.pages[:0]
	if r.err != nil {
		return
	}
	total := 0
	for i, code := range codes {
		p := receivedPage{form: form(code) &^ formKept}
		switch p.form {
		case formZero, formReference:
		case formRaw:
			p.n = pageSize
		case formDeflated, formDifference:
		default:
			r.fail("page %d has form %d", i, p.form)
			return
		}
		if p.form == formDifference || p.form == formReference {
			p.from = r.slot()
		}
		if p.form == formDeflated || p.form == formDifference {
			n := r.uvarint()
			if n >= uint64(pageSize) || n == 0 && p.form == formDeflated {
				r.fail("page %d has %d bytes of data, in form %d of a page of %d", i, n, p.form, pageSize)
				return
			}
			p.n = int(n)
		}
		if form(code)&formKept != 0 {
			p.kept = r.slot()
		}
		total += p.n
		d.pages = append(d.pages, p)
	}
	if r.err == nil && total != plain {
		r.fail("the pages have %d bytes of data, but the frame has %d", total, plain)
	}
}

// slot reads a slot and a version.
func (r *reader) slot() slotAt {
	s := slotAt{slot: int(min(r.uvarint(), maxSlots)), version: r.uvarint()}
	if r.err == nil && s.none() {
		r.fail("version 0 of a slot")
	}
	return s
}

func (d *Decoder) usesCache() bool {
	for i := range d.pages {
		if d.pages[i].form.fromCache() {
			return true
		}
	}
	return false
}

func (d *Decoder) allRaw() bool {
	for i := range d.pages {
		if d.pages[i].form != formRaw {
			return false
		}
	}
	return true
}
