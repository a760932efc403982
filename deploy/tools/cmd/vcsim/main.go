// Command vcsim serves govmomi's vCenter simulator on TLS, for tests that want a vCenter that gpuwright did not write.
//
// It prints its URL on one line when it is ready, and ends on SIGTERM, SIGINT or when its standard input closes, so
// that a test that dies takes its server with it.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/vmware/govmomi/simulator"
)

func main() {
	listen := flag.String("l", "127.0.0.1:0", "listen address; port 0 picks a free one")
	certificate := flag.String("cert-out", "", "file that gets the server's certificate as PEM (required)")
	version := flag.String("api-version", "8.0.2.0", "vSphere API version to announce")
	username := flag.String("username", "user", "the only user who may log in")
	password := flag.String("password", "pass", "that user's password")
	flag.Parse()
	if *certificate == "" {
		log.Fatal("vcsim: -cert-out is missing; name the file that should get the server's certificate")
	}
	if err := serve(*listen, *certificate, *version, url.UserPassword(*username, *password)); err != nil {
		log.Fatalf("vcsim: %v", err)
	}
}

func serve(listen, certificate, version string, login *url.Userinfo) error {
	tlsConfig, err := selfSigned(certificate)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)

	model := simulator.VPX()
	model.ServiceContent.About.ApiVersion = version
	defer model.Remove()
	if err := model.Create(); err != nil {
		return err
	}
	model.Service.TLS = tlsConfig
	model.Service.Listen = &url.URL{Host: listen, User: login}
	server := model.Service.NewServer()
	defer server.Close()

	address := *server.URL
	address.User = nil
	fmt.Println(address.String())

	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop <- syscall.SIGTERM
	}()
	<-stop
	// Close waits for idle connections only; clients that hold one open must not keep the process alive.
	server.CloseClientConnections()
	return nil
}
