package devicestate_test

import (
	"bytes"
	"fmt"
	"log"

	"github.com/vmferry/vmferry/devicestate"
)

// Packets are kept end to end, and read again.
func Example() {
	p := devicestate.Packet{ID: "0000:00:05.0/vfio", Data: []byte("state")}
	kept, err := p.Append(nil)
	if err != nil {
		log.Fatal(err)
	}
	packets, err := devicestate.ReadAll(bytes.NewReader(kept))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s: %s\n", packets[0].ID, packets[0].Data)
	// Output: 0000:00:05.0/vfio: state
}
