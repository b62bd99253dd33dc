package relay

import (
	"crypto/rand"
	"encoding/hex"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmferry/vmferry/relay/linkwire"
)

// migrations are those under way.
type migrations struct {
	cfg *Config

	mu     sync.Mutex
	peers  map[string]*peer
	byUUID map[string]*migration // of peers that are not known by their process
	shared *migration            // the cache of all, if it is shared
	// draining says that no further peers are admitted, idle is closed when that is
	// so and there are none.
	draining bool
	idle     chan struct{}
}

// peer is a process, or a host, that makes connections. Their order is kept.
type peer struct {
	key       string
	order     [16]byte
	next      uint64
	opening   map[uint64]bool // connections that the other relay has not answered
	users     int
	migration *migration // nil if the peer is a host, which can have several
	machines  int        // the peer's migrations in byUUID
}

// migration is what the connections of one migration share.
type migration struct {
	counters
	key   string
	users int

	mu      sync.Mutex
	uuid    string // "" until a multifd channel names it
	cacheID linkwire.CacheID
	cache   *linkwire.SenderCache
	failed  bool // the cache could not be made
}

func (m *migrations) init(cfg *Config) {
	m.cfg, m.peers, m.byUUID, m.idle = cfg, map[string]*peer{}, map[string]*migration{}, make(chan struct{})
}

// underWay returns the number of migrations.
func (m *migrations) underWay() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, p := range m.peers {
		n += max(1, p.machines)
	}
	return n
}

// admission is a connection's part in the migrations.
type admission struct {
	all       *migrations
	peer      *peer
	number    uint64
	migration *migration
	once      sync.Once
}

// admit takes a connection of a QEMU. Connections are admitted in the order in which
// QEMU makes them. The caller calls leave.
func (m *migrations) admit(conn net.Conn) (*admission, error) {
	key, isProcess := peerKey(conn)
	return m.admitPeer(key, isProcess)
}

// admitLink takes a link. The order of a hello stands for a process or for a host.
func (m *migrations) admitLink(order [16]byte) (*admission, error) {
	return m.admitPeer("link "+hex.EncodeToString(order[:]), false)
}

func (m *migrations) admitPeer(key string, isProcess bool) (*admission, error) {
	if m.cfg.OneMigration {
		key, isProcess = "the one", true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[key]
	if p == nil && m.draining {
		return nil, ErrDraining
	}
	if p == nil {
		p = &peer{key: key, opening: map[uint64]bool{}}
		rand.Read(p.order[:])
		if isProcess {
			p.migration = newMigration(key)
		}
		m.peers[key] = p
	}
	a := &admission{all: m, peer: p, number: p.next, migration: p.migration}
	if a.migration == nil {
		a.migration = newMigration("") // until the UUID is known
	}
	p.users++
	p.next++
	p.opening[a.number] = true
	return a, nil
}

// drain admits no further peers.
func (m *migrations) drain() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.draining {
		return
	}
	m.draining = true
	if len(m.peers) == 0 {
		close(m.idle)
	}
}

// peerKey names the process at the other end of a unix socket, or the host at the other
// end of a TCP connection.
func peerKey(conn net.Conn) (key string, isProcess bool) {
	if u, ok := conn.(*net.UnixConn); ok {
		raw, err := u.SyscallConn()
		if err != nil {
			return "", false
		}
		pid := 0
		raw.Control(func(fd uintptr) {
			if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
				pid = int(cred.Pid)
			}
		})
		return "process " + strconv.Itoa(pid), pid > 0 // 0: in another namespace
	}
	if tcp, ok := conn.RemoteAddr().(*net.TCPAddr); ok {
		return "host " + tcp.IP.String(), false
	}
	return "", false
}

func newMigration(key string) *migration {
	m := &migration{key: key}
	rand.Read(m.cacheID[:])
	return m
}

// hello introduces the connection to the other relay.
func (a *admission) hello() linkwire.Hello {
	a.all.mu.Lock()
	defer a.all.mu.Unlock()
	after := a.number
	for n := range a.peer.opening {
		after = min(after, n)
	}
	return linkwire.Hello{Order: a.peer.order, Number: a.number, After: after}
}

// answered says that the other relay has answered: later connections need not wait.
func (a *admission) answered() {
	a.all.mu.Lock()
	defer a.all.mu.Unlock()
	delete(a.peer.opening, a.number)
}

// isChannel says that the connection is a multifd channel of a machine. It returns its
// migration.
func (a *admission) isChannel(uuid [16]byte) *migration {
	m := a.all
	m.mu.Lock()
	defer m.mu.Unlock()
	name := ""
	if uuid != ([16]byte{}) {
		name = hex.EncodeToString(uuid[:])
	}
	if a.peer.migration == nil && name != "" {
		// A host can have several machines: those with the same UUID are one.
		key := a.peer.key + " " + name
		of := m.byUUID[key]
		if of == nil {
			of = newMigration(key)
			m.byUUID[key] = of
			a.peer.machines++
		}
		of.users++
		a.migration = of
	}
	a.migration.mu.Lock()
	a.migration.uuid = name
	a.migration.mu.Unlock()
	return a.migration
}

// leave ends the connection's part.
func (a *admission) leave() {
	a.once.Do(func() {
		m := a.all
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(a.peer.opening, a.number)
		if a.peer.users--; a.peer.users == 0 {
			delete(m.peers, a.peer.key)
			if m.draining && len(m.peers) == 0 {
				close(m.idle)
			}
		}
		if len(m.peers) == 0 {
			m.shared = nil // its last connection has cleared it; this frees the memory
		}
		if of := a.migration; of.key != "" && m.byUUID[of.key] == of {
			if of.users--; of.users == 0 {
				delete(m.byUUID, of.key)
				a.peer.machines--
			}
		}
	})
}

// senderCache returns the cache for pages of the migration, nil if there is none.
func (m *migrations) senderCache(of *migration, size int64, pageSize int) (linkwire.CacheID, *linkwire.SenderCache) {
	if m.cfg.CacheShared {
		m.mu.Lock()
		if m.shared == nil {
			m.shared = newMigration("")
		}
		of = m.shared
		m.mu.Unlock()
	}
	of.mu.Lock()
	defer of.mu.Unlock()
	if of.cache == nil && !of.failed {
		of.cache = linkwire.NewSenderCache(size, pageSize)
		of.failed = of.cache == nil
	}
	if of.cache == nil || of.cache.PageSize() != pageSize || of.cache.Size() > size {
		return linkwire.CacheID{}, nil
	}
	return of.cacheID, of.cache
}

// receiverCaches are the caches of the migrations whose destination's QEMU is on this
// side.
type receiverCaches struct {
	linkTimeout time.Duration

	mu sync.Mutex
	by map[linkwire.CacheID]*receiverCache
}

type receiverCache struct {
	*linkwire.ReceiverCache
	users int
	drop  *time.Timer // runs while there are no users
}

// keepTimeouts is how long a cache without users is kept, in link timeouts: the source's
// relay can take a connection for open that has ended here.
const keepTimeouts = 2

// open returns the cache of an id, which the first connection makes. It returns nil if
// the cache has another page size. The caller calls release.
func (r *receiverCaches) open(id linkwire.CacheID, size int64, pageSize int) (c *linkwire.ReceiverCache, release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == nil {
		r.by = map[linkwire.CacheID]*receiverCache{}
	}
	of := r.by[id]
	if of == nil {
		c := linkwire.NewReceiverCache(size, pageSize)
		if c == nil {
			return nil, func() {}
		}
		of = &receiverCache{ReceiverCache: c}
		r.by[id] = of
	}
	if of.PageSize() != pageSize {
		return nil, func() {}
	}
	of.users++
	if of.drop != nil {
		of.drop.Stop()
	}
	return of.ReceiverCache, func() { r.release(id, of) }
}

func (r *receiverCaches) release(id linkwire.CacheID, of *receiverCache) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if of.users--; of.users > 0 {
		return
	}
	of.drop = time.AfterFunc(keepTimeouts*r.linkTimeout, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if of.users == 0 && r.by[id] == of {
			delete(r.by, id)
		}
	})
}
