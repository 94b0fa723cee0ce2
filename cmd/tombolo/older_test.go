package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	"github.com/tombolo-mesh/tombolo/global"
	"github.com/tombolo-mesh/tombolo/proto/zonesync"
	zonesyncv1 "github.com/tombolo-mesh/tombolo/proto/zonesync/v1"
)

// olderZones are zones of the first version of the protocol, which no binary speaks any
// more. They take what they are sent, tell of one Dataplane web of theirs, and know no questions.
type olderZones struct {
	global *global.Global
	end    map[string]func()
}

type olderKey struct{}

func older(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: older ZONE TOKENFILE")
	}
	zone, token, zones := args[0], strings.TrimSpace(ts.ReadFile(args[1])), ts.Value(olderKey{}).(olderZones)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ts.ReadFile(filepath.Join(ts.Getenv("DATA"), "ca.pem"))))
	conn, err := grpc.NewClient(zones.global.ZoneAddr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots})))
	ts.Check(err)
	ts.Defer(func() { conn.Close() })
	zones.end[zone] = func() { conn.Close() }
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	ts.Defer(cancel)
	stream, err := zonesyncv1.NewZoneSyncClient(conn).Sync(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token))
	ts.Check(err)
	send := func(f *zonesyncv1.ZoneFrame) { _ = stream.Send(f) } // what fails, Recv says
	send(&zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Hello{Hello: &zonesyncv1.Hello{Zone: zone, Capabilities: zonesync.BodyCapabilities - 1, Version: "v0.1.0", Instance: zone + "-1"}}})
	next := func() (*zonesyncv1.GlobalFrame, error) {
		f, err := stream.Recv()
		if to := max(f.GetSnapshot().GetTo().GetRevision(), f.GetPush().GetTo().GetRevision()); to > 0 {
			send(&zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Ack{Ack: &zonesyncv1.Ack{Revision: to}}})
		}
		return f, err
	}
	for told := false; ; {
		f, err := next()
		ts.Check(err)
		if f.GetSnapshot().GetLast() {
			send(&zonesyncv1.ZoneFrame{Frame: &zonesyncv1.ZoneFrame_Facts{Facts: &zonesyncv1.Facts{To: &zonesyncv1.FactsPosition{Sequence: 1}, Upserts: []*zonesyncv1.Resource{{
				Kind: "Dataplane", Mesh: "default", Zone: zone, Name: "web", Spec: []byte(`{"networking":{"address":"10.0.0.1","inbound":[{"port":80}]}}`)}}}}})
			told = true
		}
		if told && f.GetFactsAck() != nil {
			break
		}
	}
	go func() {
		for {
			if _, err := next(); err != nil {
				return
			}
		}
	}()
}

// leaves ends what older began, and waits until global knows.
func leaves(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: leaves ZONE")
	}
	ts.Value(olderKey{}).(olderZones).end[args[0]]()
	for deadline := time.Now().Add(time.Minute); ; {
		ts.Check(ts.Exec("tombolo", "get", "zones"))
		for line := range strings.Lines(ts.ReadFile("stdout")) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == args[0] && f[1] == "offline" {
				return
			}
		}
		if time.Now().After(deadline) {
			ts.Fatalf("zone %s does not leave", args[0])
		}
	}
}
