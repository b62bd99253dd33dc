package main

import (
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/vmferry/vmferry/internal/certtest"
	"github.com/vmferry/vmferry/internal/testfiles"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"vmferry": main})
}

func TestScripts(t *testing.T) {
	captures, err := filepath.Abs("../../migration/testdata/captures")
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("CAPTURES", captures)
			// Paths of unix sockets are short; that of a test's folder is
			// not always.
			dir, err := os.MkdirTemp("", "vf")
			env.Setenv("SOCK", filepath.Join(dir, "s"))
			env.Defer(func() { os.RemoveAll(dir) })
			return err
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"replay": replay, "stall": stall, "digest": digest, "gencerts": genCerts, "flipbit": flipBit, "listening": listening, "freeport": freePort,
			"exits": exits, "forge": forge, "lastjson": lastJSON, // script_output_test.go
			"awaitfile": awaitFile,
		},
	})
}

// replay DIR ADDRESS [CONNS] plays a recorded migration to a unix socket.
func replay(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: replay DIR SOCKET [CONNECTIONS]")
	}
	count := 3
	if len(args) > 2 {
		fmt.Sscan(args[2], &count)
	}
	// All is ready before the first connection: a receiver does not wait for long.
	var recorded [][]byte
	for i := range count {
		data, err := testfiles.ReadZstd(filepath.Join(args[0], fmt.Sprintf("conn%d.src.zst", i)))
		ts.Check(err)
		recorded = append(recorded, data)
	}
	for _, data := range recorded {
		conn, err := dialSoon(args[1])
		ts.Check(err)
		go func() {
			conn.Write(data)
			conn.(*net.UnixConn).CloseWrite()
		}()
		ts.Defer(func() { conn.Close() })
	}
}

// stall DIR ADDRESS plays a recorded migration up to the middle of its main channel,
// and leaves the connections open.
func stall(ts *testscript.TestScript, neg bool, args []string) {
	for i := range 3 {
		data, err := testfiles.ReadZstd(filepath.Join(args[0], fmt.Sprintf("conn%d.src.zst", i)))
		ts.Check(err)
		conn, err := dialSoon(args[1])
		ts.Check(err)
		if i == 0 {
			data = data[:200]
		}
		go conn.Write(data)
		ts.Defer(func() { conn.Close() })
	}
}

// hang is how many times a command looks for what is sure to come, 20 ms apart.
const hang = 15000 // 5 minutes

func dialSoon(path string) (conn net.Conn, err error) {
	for range hang {
		if conn, err = net.Dial("unix", path); err == nil {
			return conn, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil, err
}

// listening ADDRESS waits until something listens on a TCP address, or on a unix
// socket's path.
func listening(ts *testscript.TestScript, neg bool, args []string) {
	var file string
	var listens *regexp.Regexp
	if strings.Contains(args[0], "/") {
		file, listens = "/proc/net/unix", regexp.MustCompile(` 00010000 0001 [0-9]+ +[0-9]+ `+regexp.QuoteMeta(args[0])+"\n")
	} else {
		file, listens = "/proc/net/tcp", regexp.MustCompile(fmt.Sprintf(":%04X 00000000:0000 0A", port(ts, args[0])))
	}
	for range hang {
		table, err := os.ReadFile(file)
		ts.Check(err)
		if listens.Match(table) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("nothing listens on %s", args[0])
}

// awaitfile PATH waits until there is a file, a socket for one.
func awaitFile(ts *testscript.TestScript, neg bool, args []string) {
	for range 3000 {
		if _, err := os.Lstat(ts.MkAbs(args[0])); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	ts.Fatalf("%s does not appear", args[0])
}

func port(ts *testscript.TestScript, addr string) (n int) {
	_, p, err := net.SplitHostPort(addr)
	ts.Check(err)
	fmt.Sscan(p, &n)
	return n
}

// freeport VAR puts an address with a free TCP port into a variable.
func freePort(ts *testscript.TestScript, neg bool, args []string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	defer ln.Close()
	ts.Setenv(args[0], ln.Addr().String())
}

// digest FILE DIGESTFILE compares a file's SHA-256 with the first word of
// another file.
func digest(ts *testscript.TestScript, neg bool, args []string) {
	data, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	want := strings.Fields(ts.ReadFile(args[1]))[0]
	if got := fmt.Sprintf("%x", sha256.Sum256(data)); (got == want) == neg {
		ts.Fatalf("%s has the digest %s, want %s", args[0], got, want)
	}
}

// flipbit FILE OFFSET flips a bit; a negative offset counts from the end.
func flipBit(ts *testscript.TestScript, neg bool, args []string) {
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	var at int
	fmt.Sscan(args[1], &at)
	if at < 0 {
		at += len(data)
	}
	data[at] ^= 0x10
	ts.Check(os.WriteFile(path, data, 0o600))
}

// gencerts NAME... makes an authority ca.pem and, for each name, NAME.pem and
// NAME-key.pem from it; named.pem has a SPIFFE URI, other.pem is a certificate from
// nowhere.
func genCerts(ts *testscript.TestScript, neg bool, args []string) {
	write := func(name string, pem []byte) { ts.Check(os.WriteFile(ts.MkAbs(name), pem, 0o600)) }
	ca, err := certtest.NewAuthority()
	ts.Check(err)
	write("ca.pem", ca.PEM())
	for _, name := range args {
		issue := ca.Issue
		if name == "named" {
			issue = func(name string) (certtest.Pair, error) {
				return ca.IssueFor(certtest.Request{Name: name, URIs: []string{"spiffe://example/vm/host1"}})
			}
		}
		if name == "other" {
			issue = certtest.Stranger
		}
		pair, err := issue(name)
		ts.Check(err)
		write(name+".pem", pair.Cert)
		write(name+"-key.pem", pair.Key)
	}
}
