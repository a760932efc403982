// Command decodeevents times how long govmomi takes to decode an answer of ReadNextEvents: a peer for benchmarks.
//
// It decodes the file named by its argument as govmomi's SOAP client decodes an answer, without the network, and
// prints the number of events and the CPU seconds, of all threads, of the cheapest of several rounds.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"log"
	"os"
	"syscall"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

func main() {
	rounds := flag.Int("rounds", 9, "how often to decode the page")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("decodeevents: name one file that holds an answer of ReadNextEvents")
	}
	answer, err := os.ReadFile(flag.Arg(0))
	if err != nil {
		log.Fatalf("decodeevents: %v", err)
	}
	events, best := 0, time.Duration(0)
	for round := range *rounds {
		before := cpu()
		events, err = decode(answer)
		took := cpu() - before
		if err != nil {
			log.Fatalf("decodeevents: %s: %v", flag.Arg(0), err)
		}
		if round == 0 || took < best {
			best = took
		}
	}
	fmt.Println(events, best.Seconds())
}

func decode(answer []byte) (int, error) {
	var body methods.ReadNextEventsBody
	decoder := xml.NewDecoder(bytes.NewReader(answer))
	decoder.TypeFunc = types.TypeFunc()
	if err := decoder.Decode(&soap.Envelope{Body: &body}); err != nil {
		return 0, err
	}
	if body.Fault() != nil {
		return 0, fmt.Errorf("it is a fault: %s", body.Fault().String)
	}
	if body.Res == nil {
		return 0, fmt.Errorf("it is no answer of ReadNextEvents")
	}
	return len(body.Res.Returnval), nil
}

// cpu is what this process has used so far, its garbage collector included.
func cpu() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		log.Fatalf("decodeevents: %v", err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
