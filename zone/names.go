package zone

import (
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir"
	agentv1 "github.com/tombolo-mesh/tombolo/proto/agent/v1"
	"github.com/tombolo-mesh/tombolo/zone/agents"
	"github.com/tombolo-mesh/tombolo/zone/world"
)

// nameTTL is how long an application may keep an answer. Virtual addresses never
// move; but a name may go, and a Service may be made anew with another ClusterIP.
const nameTTL = 30 * time.Second

// deriveNames makes the table of names of a mesh. Agents get it once the batch is
// published, so that Envoy knows an address no later than the application.
func (e *engine) deriveNames(b *batch, r ir.Reader, meshName string) []mesh.Resource {
	table := ir.Names(r, meshName)
	e.logNameless(e.names[meshName], table)
	e.names[meshName] = table
	names := make([]*agentv1.Name, 0, len(table.Names))
	for _, n := range table.Names {
		names = append(names, &agentv1.Name{Name: n.Name, Addresses: n.Addresses, TtlSeconds: uint32(nameTTL / time.Second)})
	}
	e.serviceNames[meshName] = serviceNames(r, meshName, table)
	e.facts.name(meshName, e.serviceNames[meshName])
	b.after = append(b.after, func() { e.board.Post(meshName, agents.NewNames(names)) })
	return nil
}

// maxLogged bounds the problems of one table that are logged.
const maxLogged = 20

// logNameless tells of the names that were taken already, once each. That a
// template asks for a label which a service lacks is how some select.
func (e *engine) logNameless(old, next *ir.NameTable) {
	known := map[mesh.HostnameProblem]bool{}
	if old != nil {
		for _, p := range old.Problems {
			known[p] = true
		}
	}
	logged := 0
	for _, p := range next.Problems {
		if p.Name == "" || known[p] {
			continue
		}
		if logged++; logged > maxLogged {
			e.log.Warn("more services have no name", "problems", len(next.Problems))
			return
		}
		e.log.Warn("service has no name", "service", p.Service.String(), "generator", p.Generator.String(), "reason", p.Reason)
	}
}

// unitGenerators stands for the HostnameGenerators of the zone.
const unitGenerators world.Unit = "generators"

// deriveGenerators are those that were declared here, and, while no global ever
// said which there are, the default ones. Who declares one of the same name has
// the last word.
func (e *engine) deriveGenerators(*batch, ir.Reader) []mesh.Resource {
	var out []mesh.Resource
	declared := map[string]bool{}
	for _, k := range sortedKeys(e.files) {
		if k.Kind == mesh.KindHostnameGenerator {
			declared[k.Name] = true
			out = append(out, e.files[k])
		}
	}
	if e.position.Load().Revision > 0 || len(e.synced) > 0 {
		return out
	}
	for _, r := range mesh.DefaultHostnameGenerators() {
		if !declared[r.Name] {
			spec, err := mesh.DecodeSpec(r.Kind, r.Spec)
			if err != nil {
				continue // they are constants, and a test decodes every one
			}
			out = append(out, e.fact(r.Kind, "", r.Name, spec, nil))
		}
	}
	return out
}
