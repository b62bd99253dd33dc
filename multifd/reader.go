package multifd

import (
	"io"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Reader reads a channel. It reads plain sockets with readv, from the socket straight
// into the pages, and other connections (TLS, tests) a page at a time.
type Reader struct {
	r       io.Reader
	pending []byte // read ahead of a packet's end, oldest first
	total   uint64

	raw syscall.RawConn
	vectors
	step func(fd uintptr) bool
}

// NewReader returns a reader of r that uses readv if r has a file descriptor.
func NewReader(r io.Reader) *Reader {
	rd := &Reader{r: r}
	if sc, ok := r.(syscall.Conn); ok {
		if raw, err := sc.SyscallConn(); err == nil {
			rd.raw = raw
			// One closure for all calls: one for each call would be an allocation a
			// packet.
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

// ReadFull fills p. If the channel ends before, the error wraps ErrTruncated.
func (r *Reader) ReadFull(p []byte) error {
	_, err := io.ReadFull(r, p)
	return truncated(err)
}

// ReadVectors fills the buffers in order. Buffers that are adjacent in memory make one
// vector.
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
		r.total += uint64(r.n)
		r.advance()
	}
	clear(r.iov)            // keep no reference to the caller's memory
	runtime.KeepAlive(bufs) // a vector points to the first of several only
	return nil
}

func (r *Reader) readvOnce(fd uintptr) bool { return r.once(unix.SYS_READV, fd) }
