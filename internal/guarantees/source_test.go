package guarantees

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const root = "../.."

// notShipped are folders whose code no user of the module runs.
var notShipped = []string{"bench", "internal/demo", "internal/godemo", "internal/libvirttest", "internal/qemutest", "internal/slowlink", "internal/certtest", "internal/guarantees", "internal/seed", "internal/socketpair", "internal/testfiles", "qmp/qmptest", "store/storetest"}

// source is a file of the module.
type source struct {
	path string // from the module's root
	file *ast.File
}

// dir is the folder of the file, "vmferry" for the module's root.
func (s source) dir() string {
	if dir := filepath.ToSlash(filepath.Dir(s.path)); dir != "." {
		return dir
	}
	return "vmferry"
}

// sources parses the module's files, tests or not.
func sources(t *testing.T, tests bool) (list []source) {
	t.Helper()
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			hidden := strings.HasPrefix(d.Name(), ".") && rel != "."
			if hidden || d.Name() == "testdata" || !tests && slices.Contains(notShipped, rel) {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") != tests {
			return nil
		}
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		list = append(list, source{rel, file})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(list) < 50 {
		t.Fatalf("only %d files were found below %s", len(list), root)
	}
	return list
}

// inspectFuncs calls visit for every node of each function of the product. place is
// "DIR.TYPE.METHOD" or "DIR.FUNC".
func inspectFuncs(t *testing.T, visit func(place string, n ast.Node)) {
	t.Helper()
	for _, s := range sources(t, false) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				place := s.dir() + "." + funcName(f)
				ast.Inspect(f, func(n ast.Node) bool {
					visit(place, n)
					return true
				})
			}
		}
	}
}

// testNames are the functions of all tests, as "DIR.NAME".
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	for _, s := range sources(t, true) {
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				names[s.dir()+"."+f.Name.Name] = true
			}
		}
	}
	return names
}

// registered compares what was found in the source with a table.
func registered[T any](t *testing.T, what string, found map[string]bool, table map[string]T) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if _, ok := table[name]; !ok {
			t.Errorf("%s %s has no line in the table: add one that says why it keeps the promise", what, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		if !found[name] {
			t.Errorf("%s %s is in the table and not in the source any more: remove its line", what, name)
		}
	}
}

// shown checks that the tests that a table names exist.
func shown(t *testing.T, names map[string]bool, line string, tests ...string) {
	t.Helper()
	if len(tests) == 0 {
		t.Errorf("%s names no test", line)
	}
	for _, name := range tests {
		if !names[name] {
			t.Errorf("%s names the test %s, which does not exist", line, name)
		}
	}
}
