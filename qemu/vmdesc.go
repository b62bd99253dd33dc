package qemu

import (
	"context"

	"github.com/vmferry/vmferry/qmp"
)

// suppressesDescription says whether the machine sends no VM description behind its
// device state (machine option suppress-vmdesc=on). A QEMU that has no such property
// sends one.
func suppressesDescription(ctx context.Context, c *qmp.Client) bool {
	var suppressed bool
	return c.QomGet(ctx, "/machine", "suppress-vmdesc", &suppressed) == nil && suppressed
}
