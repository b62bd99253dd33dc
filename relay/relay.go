package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/vmferry/vmferry/pagecodec"
	"github.com/vmferry/vmferry/transport"
)

// Compression says how pages are compressed on the link.
type Compression string

const (
	// Auto sends pages raw while the link keeps up. When the link is the limit, pages
	// are compressed as hard as the processor time allows. It is the default.
	Auto Compression = "auto"
	// None sends pages raw, except zero pages.
	None Compression = "none"
	// QPL deflates each page, on the accelerator if there is one.
	QPL Compression = "qpl"
	// Zstd compresses pages with zstd.
	Zstd Compression = "zstd"
)

// Config configures a Relay. The zero value is usable.
type Config struct {
	// Compression is used for what this relay sends; the other relay needs no setting.
	Compression Compression
	// Accelerator deflates and inflates pages; nil is software. The caller closes it
	// after the Relay.
	Accelerator *pagecodec.Accelerator
	// Cache is the size in bytes of the pages that both relays keep for a migration,
	// as bases of differences and for references; 0 is no cache.
	Cache int64
	// CacheShared lets all migrations of the Relay share one cache. The time that a
	// page takes then shows one machine's owner which pages the other machines have.
	CacheShared bool
	// CPUs bounds the processor time of the whole process, in processors; 0 is one for
	// each migration under way, up to half the host's.
	CPUs float64
	// Bandwidth bounds the bytes a second that all links together send; 0 is no bound.
	Bandwidth uint64
	// LinkTimeout is the longest time without a byte from the other relay; 30 s.
	LinkTimeout time.Duration
	// OneMigration says that all connections of the Relay belong to one migration.
	// Otherwise the relay finds out by QEMU's process or the machine's UUID.
	OneMigration bool
	// Logger, if not nil, receives connections that fail.
	Logger *slog.Logger
}

// Relay carries connections between QEMUs and links. Its methods may be called
// concurrently.
type Relay struct {
	cfg Config
}

// New returns a Relay. The caller closes it.
func New(cfg Config) (*Relay, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Relay{cfg: cfg}, nil
}

// Close frees what the Relay holds. Call it after all other methods have returned.
func (r *Relay) Close() error { return nil }

// Source carries one connection of the source's QEMU over a link of its own. It returns
// when both directions have ended, and closes both connections.
func (r *Relay) Source(ctx context.Context, qemu, link net.Conn) error {
	return splice(ctx, qemu, link)
}

// Destination carries a link to the destination's QEMU. It calls dial when the other
// relay has introduced itself. It returns when both directions have ended, and closes
// both connections.
func (r *Relay) Destination(ctx context.Context, link net.Conn, dial transport.Dialer) error {
	qemu, err := dial(ctx)
	if err != nil {
		link.Close()
		return err
	}
	return splice(ctx, qemu, link)
}

// ServeSource accepts connections of QEMUs from ln, and dials a link for each. It
// returns after ctx has ended or ln was closed, and all connections have ended. It
// closes ln.
func (r *Relay) ServeSource(ctx context.Context, ln net.Listener, dial transport.Dialer) error {
	return r.serve(ctx, ln, func(ctx context.Context, qemu net.Conn) error {
		link, err := dial(ctx)
		if err != nil {
			qemu.Close()
			return err
		}
		return r.Source(ctx, qemu, link)
	})
}

// ServeDestination accepts links from ln, with TLS if cfg is not nil, and dials a QEMU
// for each. It returns as ServeSource does.
func (r *Relay) ServeDestination(ctx context.Context, ln net.Listener, cfg *tls.Config, dial transport.Dialer) error {
	return r.serve(ctx, ln, func(ctx context.Context, link net.Conn) error {
		if cfg != nil {
			secure, err := transport.ServeTLS(ctx, link, cfg)
			if err != nil {
				link.Close()
				return err
			}
			link = secure
		}
		return r.Destination(ctx, link, dial)
	})
}

func (r *Relay) serve(ctx context.Context, ln net.Listener, carry func(context.Context, net.Conn) error) error {
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	var carrying sync.WaitGroup
	defer carrying.Wait()
	for {
		conn, err := ln.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		carrying.Go(func() {
			if err := carry(ctx, conn); err != nil {
				r.cfg.Logger.Warn("a connection failed", "error", err)
			}
		})
	}
}

// splice copies both ways and keeps half-closes.
func splice(ctx context.Context, a, b net.Conn) error {
	defer a.Close()
	defer b.Close()
	defer context.AfterFunc(ctx, func() { a.Close(); b.Close() })()
	var both sync.WaitGroup
	errs := make([]error, 2)
	one := func(i int, to, from net.Conn) {
		if _, errs[i] = io.Copy(to, from); errs[i] != nil {
			a.Close()
			b.Close()
			return
		}
		if c, ok := to.(interface{ CloseWrite() error }); ok {
			errs[i] = c.CloseWrite()
		}
	}
	both.Go(func() { one(0, a, b) })
	both.Go(func() { one(1, b, a) })
	both.Wait()
	return errors.Join(errs...)
}
