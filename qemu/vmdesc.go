package qemu

import (
	"context"

	"github.com/vmferry/vmferry/qmp"
)

// suppressesDescription tells whether the machine sends no description of its devices
// (machine option suppress-vmdesc). The end of such a stream is known only by the end
// of its connection, or by QEMU's answers over QMP. A QEMU without the option sends
// one.
func suppressesDescription(ctx context.Context, vm *qmp.Machine) (suppresses bool, err error) {
	err = qomGetOptional(ctx, vm, "/machine", "suppress-vmdesc", &suppresses)
	return suppresses, err
}
