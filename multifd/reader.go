package multifd

import (
	"io"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Reader reads a channel. Plain sockets are read with readv, so that pages go
// from the socket to where they belong; other connections (TLS, tests) are
// read a page at a time.
type Reader struct {
	r       io.Reader
	pending []byte // read ahead of a packet's end, oldest first
	total   uint64

	raw  syscall.RawConn
	iov  []unix.Iovec
	left int // first vector of iov that is not full yet
	n    int
	err  error
	step func(fd uintptr) bool
}

// NewReader returns a reader of r that uses readv where r has a descriptor.
func NewReader(r io.Reader) *Reader {
	rd := &Reader{r: r}
	if sc, ok := r.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			rd.raw = raw
			// The closure is made once: a new one for each call would be an
			// allocation a packet.
			rd.step = rd.readvOnce
		}
	}
	return rd
}

// Total returns the bytes read so far.
func (r *Reader) Total() uint64 { return r.total }

// Read reads up to len(p) bytes.
func (r *Reader) Read(p []byte) (int, error) {
	if len(r.pending) > 0 {
		n := copy(p, r.pending)
		r.pending = r.pending[n:]
		return n, nil
	}
	n, err := r.r.Read(p)
	r.total += uint64(n)
	return n, err
}

// ReadFull fills p. A channel that ends early is an error that wraps
// ErrTruncated.
func (r *Reader) ReadFull(p []byte) error {
	_, err := io.ReadFull(r, p)
	return truncated(err)
}

// maxVectors is the kernel's limit on the vectors of one readv.
const maxVectors = 1024

// ReadVectors fills every buffer in turn. Buffers that follow one another in
// memory count as one vector.
func (r *Reader) ReadVectors(bufs [][]byte) error {
	if r.raw == nil || len(r.pending) > 0 {
		for _, b := range bufs {
			if err := r.ReadFull(b); err != nil {
				return err
			}
		}
		return nil
	}
	r.iov, r.left = r.iov[:0], 0
	var end uintptr // a number: a pointer behind an object's end is none
	for _, b := range bufs {
		if len(b) == 0 {
			continue
		}
		start := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
		if n := len(r.iov); n > 0 && start == end {
			r.iov[n-1].SetLen(int(r.iov[n-1].Len) + len(b))
		} else {
			v := unix.Iovec{Base: unsafe.SliceData(b)}
			v.SetLen(len(b))
			r.iov = append(r.iov, v)
		}
		end = start + uintptr(len(b))
	}
	for r.left < len(r.iov) {
		err := r.raw.Read(r.step)
		if err == nil {
			err = r.err
		}
		if err != nil {
			return truncated(err)
		}
		r.advance()
	}
	clear(r.iov)            // hold on to no memory of the caller's
	runtime.KeepAlive(bufs) // a vector points to the first of several only
	return nil
}

// readvOnce is one readv; it says false to be called again when the
// descriptor is readable.
func (r *Reader) readvOnce(fd uintptr) bool {
	iov := r.iov[r.left:]
	if len(iov) > maxVectors {
		iov = iov[:maxVectors]
	}
	for {
		n, _, errno := unix.Syscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&iov[0])), uintptr(len(iov)))
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			return false
		case errno != 0:
			r.n, r.err = 0, errno
		case n == 0:
			r.n, r.err = 0, io.ErrUnexpectedEOF
		default:
			r.n, r.err = int(n), nil
		}
		return true
	}
}

// advance takes the bytes of the last readv off the vectors. One vector can
// span buffers that are objects of their own to the runtime, which its check
// of pointer arithmetic would not allow; ReadVectors keeps all of them alive.
//
//go:nocheckptr
func (r *Reader) advance() {
	r.total += uint64(r.n)
	for n := r.n; n > 0; {
		v := &r.iov[r.left]
		if n < int(v.Len) {
			v.Base = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), n))
			v.SetLen(int(v.Len) - n)
			return
		}
		n -= int(v.Len)
		r.left++
	}
}
