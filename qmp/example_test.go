package qmp_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/vmferry/vmferry/qmp"
)

// Save a machine's memory somewhere and let it run on.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	c, err := qmp.Dial(ctx, "/run/vm/qmp.sock")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println("QEMU", c.Version())

	if err := c.SetMigrateCapabilities(ctx, map[string]bool{"multifd": true, "events": true}); err != nil {
		log.Fatal(err)
	}
	if err := c.SetMigrateParameters(ctx, qmp.MigrateParameters{MultifdChannels: new(4)}); err != nil {
		log.Fatal(err)
	}
	progress := c.Subscribe("MIGRATION")
	if err := c.Migrate(ctx, "unix:/run/vm/migrate.sock"); err != nil {
		log.Fatal(err)
	}
	for range progress.Events() {
		m, err := c.QueryMigrate(ctx)
		if err != nil {
			log.Fatal(err)
		}
		if m.Ended() {
			fmt.Println(m.Status, m.ErrorDesc)
			break
		}
	}
	if err := c.Cont(ctx); err != nil {
		log.Fatal(err)
	}
}

// A refusal by QEMU and a lost connection are different things.
func ExampleClient_Execute() {
	ctx := context.Background()
	c, err := qmp.Dial(ctx, "/run/vm/qmp.sock")
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	var answer struct {
		Name string `json:"name"`
	}
	err = c.Execute(ctx, "query-name", nil, &answer)
	var refusal *qmp.Error
	switch {
	case err == nil:
		fmt.Println("the machine is called", answer.Name)
	case errors.As(err, &refusal):
		fmt.Println("QEMU says:", refusal.Desc)
	case errors.Is(err, qmp.ErrClosed):
		fmt.Println("QEMU is gone")
	}
}
