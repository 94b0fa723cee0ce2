package explain

import "github.com/tombolo-mesh/tombolo/mesh"

// Question is the body of what a zone is asked; one of its fields is set.
type Question struct {
	// Leave asks the zone of the source for the way of a call.
	Leave *Call `json:"leave,omitempty"`
	// Arrive asks the zones of servers what happens there.
	Arrive []Arriving `json:"arrive,omitempty"`
}

// MaxArriving bounds Question.Arrive.
const MaxArriving = 1000

// Arriving is a call on its way into a zone.
type Arriving struct {
	// Service and Port that it is for.
	Service mesh.Key `json:"service"`
	Port    uint32   `json:"port"`
	// SNI that it asks for.
	SNI string `json:"sni"`
	// Caller is its SPIFFE ID.
	Caller string `json:"caller"`
}

// Reply is a zone's answer.
type Reply struct {
	// Problem why there is no explanation.
	Problem *Problem `json:"problem,omitempty"`
	// Explanation answers Leave: its arrivals are those of the zone itself.
	Explanation *Explanation `json:"explanation,omitempty"`
	// Arrivals answer Arrive, in its order.
	Arrivals []*Arrival `json:"arrivals,omitempty"`
}

// Problem is why a call cannot be explained as it was asked for. It is an error.
type Problem struct {
	// Field at fault: source, destination or port.
	Field string `json:"field"`
	// Reason for people, with what is possible.
	Reason string `json:"reason"`
	// Unknown: there is no such thing; else there are several.
	Unknown bool `json:"unknown,omitempty"`
}

// Error is the problem in one line.
func (p *Problem) Error() string { return p.Field + ": " + p.Reason }

// Missing are the peers in other zones whose arrival is not known, with what to
// ask, by zone. Answers go into the peers themselves.
func (x *Explanation) Missing() map[string][]*Peer {
	out := map[string][]*Peer{}
	for i := range x.Ways {
		for j := range x.Ways[i].Peers {
			if p := &x.Ways[i].Peers[j]; p.Arrival == nil {
				out[p.Zone] = append(out[p.Zone], p)
			}
		}
	}
	return out
}

// Arriving is the call as it arrives at a peer.
func (x *Explanation) Arriving(p *Peer) Arriving {
	return Arriving{Service: p.Service, Port: p.Port, SNI: p.SNI, Caller: x.Caller.Identity}
}
