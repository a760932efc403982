// Command decodeevents times how long govmomi takes to decode an answer of ReadNextEvents: a peer for benchmarks.
//
// It decodes the file named by its argument as govmomi's SOAP client decodes an answer, without the network, and
// prints the number of events and the CPU seconds, of all threads, of the cheapest of several rounds. With -json it
// prints the events instead, as event routers sent them: by the names of govmomi's fields, absent ones included.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"reflect"
	"syscall"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

func main() {
	rounds := flag.Int("rounds", 9, "how often to decode the page")
	asJSON := flag.Bool("json", false, "print the events as JSON")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("decodeevents: name one file that holds an answer of ReadNextEvents")
	}
	answer, err := os.ReadFile(flag.Arg(0))
	if err != nil {
		log.Fatalf("decodeevents: %v", err)
	}
	if *asJSON {
		decoded, err := decode(answer)
		if err != nil {
			log.Fatalf("decodeevents: %s: %v", flag.Arg(0), err)
		}
		if err := json.NewEncoder(os.Stdout).Encode(plain(reflect.ValueOf(decoded))); err != nil {
			log.Fatalf("decodeevents: %v", err)
		}
		return
	}
	events, best := 0, time.Duration(0)
	for round := range *rounds {
		before := cpu()
		decoded, err := decode(answer)
		took := cpu() - before
		if err != nil {
			log.Fatalf("decodeevents: %s: %v", flag.Arg(0), err)
		}
		events = len(decoded)
		if round == 0 || took < best {
			best = took
		}
	}
	fmt.Println(events, best.Seconds())
}

func decode(answer []byte) ([]types.BaseEvent, error) {
	var body methods.ReadNextEventsBody
	decoder := xml.NewDecoder(bytes.NewReader(answer))
	decoder.TypeFunc = types.TypeFunc()
	if err := decoder.Decode(&soap.Envelope{Body: &body}); err != nil {
		return nil, err
	}
	if body.Fault() != nil {
		return nil, fmt.Errorf("it is a fault: %s", body.Fault().String)
	}
	if body.Res == nil {
		return nil, fmt.Errorf("it is no answer of ReadNextEvents")
	}
	return body.Res.Returnval, nil
}

// plain is what encoding/json made of govmomi's types before they had tags for it.
func plain(value reflect.Value) any {
	switch value.Kind() {
	case reflect.Interface, reflect.Pointer:
		if value.IsNil() {
			return nil
		}
		return plain(value.Elem())
	case reflect.Slice:
		if value.IsNil() || value.Type().Elem().Kind() == reflect.Uint8 {
			return value.Interface()
		}
		items := make([]any, value.Len())
		for i := range items {
			items[i] = plain(value.Index(i))
		}
		return items
	case reflect.Struct:
		switch known := value.Interface().(type) {
		case time.Time:
			return known
		case types.ManagedObjectReference:
			return map[string]any{"Type": known.Type, "Value": known.Value}
		}
		fields := map[string]any{}
		for i := range value.NumField() {
			field, inner := value.Type().Field(i), plain(value.Field(i))
			if embedded, ok := inner.(map[string]any); ok && field.Anonymous {
				for name, each := range embedded {
					if _, taken := fields[name]; !taken {
						fields[name] = each
					}
				}
			} else {
				fields[field.Name] = inner
			}
		}
		return fields
	default:
		return value.Interface()
	}
}

// cpu is what this process has used so far, its garbage collector included.
func cpu() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		log.Fatalf("decodeevents: %v", err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
