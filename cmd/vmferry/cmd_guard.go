package main

import (
	"os"

	"github.com/vmferry/vmferry/qemu"
	"github.com/vmferry/vmferry/qmp"
)

// guardCmd is run by save and migrate in a process of its own.
type guardCmd struct{}

func (guardCmd) Run(a *app) error { return qemu.RunGuard(a.stdin, os.Stdout, qmp.SocketFromJSON) }
