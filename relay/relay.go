package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"golang.org/x/time/rate"

	"github.com/vmferry/vmferry/pagecodec"
	"github.com/vmferry/vmferry/relay/linkwire"
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
	// as bases of differences and for references; 0 is no cache. The smaller one of
	// both relays counts.
	Cache int64
	// CacheShared lets all migrations of the source's Relay share one cache. The time
	// that a page takes then shows one machine's owner which pages the other machines
	// have.
	CacheShared bool
	// CPUs bounds the processor time of the whole process, in processors; 0 is one for
	// each migration under way, up to half the host's, negative is no bound.
	CPUs float64
	// Bandwidth bounds the bytes a second that all links together send; 0 is no bound.
	Bandwidth uint64
	// LinkTimeout is the longest time without a byte from the other relay; 30 s.
	LinkTimeout time.Duration
	// OneMigration says that all connections of the Relay belong to one migration.
	// Otherwise a migration is identified by the process of QEMU, or by its address
	// and the machine's UUID.
	OneMigration bool
	// Logger, if not nil, receives connections that fail.
	Logger *slog.Logger
}

// ErrDraining is wrapped if a connection is refused because of Drain.
var ErrDraining = errors.New("relay: it is stopping and takes no further migrations")

// ErrBroken is wrapped if a connection breaks before both directions have ended.
var ErrBroken = errors.New("relay: the connection broke")

// Relay carries connections between QEMUs and links. Its methods may be called
// concurrently.
type Relay struct {
	cfg        Config
	migrations migrations
	arrivals   orders
	caches     receiverCaches
	budget     *budget
	pace       *rate.Limiter // nil without a bound
	total      counters
}

// New returns a Relay. The caller closes it.
func New(cfg Config) (*Relay, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.LinkTimeout == 0 {
		cfg.LinkTimeout = 30 * time.Second
	}
	switch cfg.Compression {
	case "":
		cfg.Compression = Auto
	case Auto, None, QPL, Zstd:
	default:
		return nil, fmt.Errorf("relay: compression %q (want %s, %s, %s or %s)", cfg.Compression, Auto, None, QPL, Zstd)
	}
	if cfg.LinkTimeout < 0 || cfg.Cache < 0 {
		return nil, fmt.Errorf("relay: link timeout %v and cache of %d bytes (want 0 or more)", cfg.LinkTimeout, cfg.Cache)
	}
	if err := cfg.Accelerator.Ready(); err != nil {
		return nil, err
	}
	r := &Relay{cfg: cfg}
	r.caches.linkTimeout = cfg.LinkTimeout
	r.migrations.init(&r.cfg)
	r.budget = newBudget(cfg.CPUs, r.migrations.underWay)
	if cfg.Bandwidth > 0 {
		r.pace = rate.NewLimiter(rate.Limit(cfg.Bandwidth), paceBurst)
	}
	return r, nil
}

// paceBurst is the most bytes that are written at once under a bound of the bandwidth.
const paceBurst = 64 << 10

// Close frees what the Relay holds. Call it after all other methods have returned.
func (r *Relay) Close() error {
	r.budget.stop()
	return nil
}

// Drain refuses further migrations. The connections under way go on, and those that
// their QEMUs add, such as postcopy's. ServeSource and ServeDestination return when none
// is left.
func (r *Relay) Drain() { r.migrations.drain() }

// Source carries one connection of the source's QEMU over a link of its own. It returns
// when both directions have ended, and closes both connections. If one of them breaks,
// the other one and those of the other relay are reset, and the error wraps ErrBroken.
func (r *Relay) Source(ctx context.Context, qemu, link net.Conn) error {
	from, err := r.migrations.admit(qemu)
	if err != nil {
		transport.Reset(qemu)
		transport.Reset(link)
		return err
	}
	return r.source(ctx, qemu, from, link)
}

// source is Source for a connection that was admitted.
func (r *Relay) source(ctx context.Context, qemu net.Conn, from *admission, link net.Conn) error {
	defer from.leave()
	c := newCarrier(r, qemu, r.newLinkConn(link))
	c.from, c.migration = from, from.migration
	hello := from.hello()
	hello.Cache = uint64(r.cfg.Cache)
	c.first = hello.Append(nil)
	c.onLink = func() error {
		reply, err := linkwire.ReadReply(c.link)
		if err != nil {
			return err
		}
		from.answered()
		c.cacheSize.Store(min(int64(reply.Cache), r.cfg.Cache))
		return nil
	}
	c.recognises = true
	return c.run(ctx)
}

// Destination carries a link to the destination's QEMU. It calls dial when the other
// relay has introduced itself and the earlier connections of its QEMU have been made. It
// returns when both directions have ended, and closes both connections. If one of them
// breaks, the other one and those of the other relay are reset, and the error wraps
// ErrBroken.
func (r *Relay) Destination(ctx context.Context, link net.Conn, dial transport.Dialer) error {
	l := r.newLinkConn(link)
	defer context.AfterFunc(ctx, func() { transport.Reset(link) })()
	hello, err := readHello(l)
	if err != nil {
		link.Close()
		return fmt.Errorf("link from %v: %w", link.RemoteAddr(), err)
	}
	cache := min(int64(hello.Cache), r.cfg.Cache)
	reply := linkwire.Reply{Cache: uint64(cache)}.Append(nil)
	from, err := r.migrations.admitLink(hello.Order)
	if err != nil {
		l.writeAll(ctx, net.Buffers{linkwire.AppendReset(reply, err.Error())})
		link.Close()
		return fmt.Errorf("link from %v: %w", link.RemoteAddr(), err)
	}
	defer from.leave()
	qemu, err := r.dialInOrder(ctx, hello, dial)
	if err != nil {
		l.writeAll(ctx, net.Buffers{linkwire.AppendReset(reply, "the destination's relay cannot connect to its QEMU: "+err.Error())})
		link.Close()
		return fmt.Errorf("connecting to the destination's QEMU: %w", err)
	}
	c := newCarrier(r, qemu, l)
	c.from, c.migration = from, from.migration
	c.first = reply
	c.cacheSize.Store(cache)
	return c.run(ctx)
}

// readHello reads what introduces the other relay, in all within identifyWithin.
func readHello(l *linkConn) (linkwire.Hello, error) {
	late := time.AfterFunc(identifyWithin, func() { transport.Reset(l.Conn) })
	defer late.Stop()
	return linkwire.ReadHello(l)
}

func (r *Relay) dialInOrder(ctx context.Context, hello linkwire.Hello, dial transport.Dialer) (net.Conn, error) {
	done := r.arrivals.await(ctx, hello)
	defer done()
	qemu, err := dial.Link(ctx, r.cfg.LinkTimeout)
	if err != nil {
		return nil, err
	}
	return qemu.Conn, nil
}
