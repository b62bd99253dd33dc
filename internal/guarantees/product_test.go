package guarantees

import (
	"os/exec"
	"strings"
	"testing"
)

// notInProduct are the beginnings of packages, below the module's path, that the program
// does not hold. It holds the model of the accelerator, for vmferry bench iaa --destination.
var notInProduct = []string{"bench", "internal/demo", "internal/qemutest", "internal/slowlink", "qmp/qmptest", "store/storetest"}

func TestProduct_HoldsNoBenchmarkEngine(t *testing.T) {
	const module = "github.com/vmferry/vmferry/"
	out, err := exec.Command("go", "list", "-deps", module+"cmd/vmferry").Output()
	if err != nil {
		t.Fatal(err)
	}
	packages := strings.Fields(string(out))
	if len(packages) < 20 {
		t.Fatalf("%d packages", len(packages))
	}
	for _, p := range packages {
		for _, not := range notInProduct {
			if p == module+not || strings.HasPrefix(p, module+not+"/") {
				t.Errorf("cmd/vmferry imports %s", p)
			}
		}
	}
}
