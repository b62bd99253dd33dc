package guarantees

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// module is the module's path.
const module = "github.com/vmferry/vmferry"

// TestLayers_ImportsAreThoseOfTheArchitecture compares the imports of every shipped
// package, tests left out, with the table in docs/architecture.md.
func TestLayers_ImportsAreThoseOfTheArchitecture(t *testing.T) {
	allowed := tableOfRooms(t)
	imports := make(map[string][]string) // not nil where there are none
	for _, s := range sources(t, false) {
		dir := s.dir()
		imports[dir] = append(append([]string{}, imports[dir]...), modulesImports(t, s)...)
	}
	for dir, list := range imports {
		slices.Sort(list)
		list = slices.Compact(list)
		want, ok := allowed[dir]
		if !ok {
			if !slices.ContainsFunc(besideRooms, func(name string) bool { return dir == name || strings.HasPrefix(dir, name+"/") }) {
				t.Errorf("docs/architecture.md has no line for the package %s", dir)
			}
			continue
		}
		if diff := cmp.Diff(want, list); diff != "" {
			t.Errorf("%s imports other packages than docs/architecture.md says (-table +code):\n%s", dir, diff)
		}
	}
	for dir := range allowed {
		if imports[dir] == nil {
			t.Errorf("docs/architecture.md has a line for %s, which has no code", dir)
		}
	}
}

// besideRooms are the packages that the table leaves out: they are for tests and
// measurements, or internal to a driver.
var besideRooms = []string{"internal/soak", "iaa/internal"}

// tableOfRooms reads the table of docs/architecture.md: package to imports.
func tableOfRooms(t *testing.T) map[string][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile("(?m)^\\| `([a-z/]+)`[^|]*\\|[^|]*\\|([^|]*)\\|$")
	name := regexp.MustCompile("`([a-z/]+)`")
	rooms := make(map[string][]string)
	for _, m := range line.FindAllStringSubmatch(string(text), -1) {
		list := []string{}
		for _, n := range name.FindAllStringSubmatch(m[2], -1) {
			list = append(list, n[1])
		}
		slices.Sort(list)
		rooms[m[1]] = list
	}
	if len(rooms) < 20 {
		t.Fatalf("the table of docs/architecture.md has only %d lines that could be read", len(rooms))
	}
	return rooms
}

// modulesImports are the packages of this module that a file imports.
func modulesImports(t *testing.T, s source) []string {
	t.Helper()
	list := []string{}
	for _, i := range s.file.Imports {
		path, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		if path == module {
			list = append(list, "vmferry")
		} else if rest, ok := strings.CutPrefix(path, module+"/"); ok {
			list = append(list, rest)
		}
	}
	return list
}
