// Command echo is the workload of the Kubernetes laboratory: one static binary
// that serves HTTP/1.1, h2c, gRPC and TCP and says who it is and who called, and
// that keeps calling others and counts what came of it.
//
//	echo serve [flags]                 serve, until SIGTERM and --linger
//	echo get URL                       one call, its sample as JSON
//	echo send NAME URL [RATE]          calls from now on, RATE a second (default 20)
//	echo report NAME [SINCE [UNTIL]]   what came of them (times in Unix nanoseconds)
//	echo stop NAME                     no more of them
//	echo job URL...                    calls each once and ends: 0 when all answered
//
// URLs are http://, h2c://, grpc:// and tcp://. send, report and stop speak to the
// echo that serves in the same pod, on loopback, where no proxy interferes.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/tombolo-mesh/tombolo/e2e/kube/calls"
)

// control is where the serving echo takes orders.
const control = "127.0.0.1:9999"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "echo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("usage: echo serve|get|send|report|stop|job")
	}
	command, args := args[0], args[1:]
	switch {
	case command == "serve":
		return serveCommand(ctx, args)
	case command == "get" && len(args) == 1:
		return json.NewEncoder(os.Stdout).Encode(calls.NewCaller().Call(ctx, args[0]))
	case command == "job" && len(args) > 0:
		return job(ctx, args)
	case command == "send" && len(args) >= 2:
		return order(ctx, url.Values{"name": args[:1], "url": args[1:2], "rate": args[2:]}, "send")
	case command == "report" && len(args) >= 1:
		q := url.Values{"name": args[:1]}
		if len(args) > 1 {
			q["since"], q["until"] = args[1:2], args[2:]
		}
		return order(ctx, q, "report")
	case command == "stop" && len(args) == 1:
		return order(ctx, url.Values{"name": args}, "stop")
	}
	return fmt.Errorf("%s with %d arguments: see the package's documentation", command, len(args))
}

func serveCommand(ctx context.Context, args []string) error {
	host, err := os.Hostname()
	if err != nil {
		return err
	}
	f := flag.NewFlagSet("serve", flag.ContinueOnError)
	s := server{}
	f.StringVar(&s.http, "http", ":8080", "address of HTTP/1.1 and h2c")
	f.StringVar(&s.grpc, "grpc", ":9090", "address of gRPC (health service)")
	f.StringVar(&s.tcp, "tcp", ":7070", "address of TCP: each line comes back behind the instance's name")
	f.StringVar(&s.control, "control", control, "address for send, report and stop")
	f.StringVar(&s.self.Instance, "instance", host, "name to answer with")
	f.StringVar(&s.self.Service, "service", "", "service to answer with")
	f.StringVar(&s.self.Zone, "zone", "", "zone to answer with")
	f.DurationVar(&s.linger, "linger", 5*time.Second, "how long to serve on after SIGTERM, as servers behind a load balancer do")
	if err := f.Parse(args); err != nil {
		return err
	}
	return s.run(ctx)
}

// job fails with the first call that is not answered.
func job(ctx context.Context, urls []string) error {
	c := calls.NewCaller()
	for _, u := range urls {
		s := c.Call(ctx, u)
		if s.Outcome != "200" {
			return fmt.Errorf("%s: %s %s", u, s.Outcome, s.Err)
		}
		fmt.Println(u, s.Reply)
	}
	return nil
}

// order sends a command to the echo that serves in this pod and prints its answer.
func order(ctx context.Context, q url.Values, what string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+control+"/"+what+"?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", what, body)
	}
	_, err = os.Stdout.Write(body)
	return err
}
