package delta

// Set is an immutable set of resources. Build one with NewSet.
type Set struct{}

// NewSet indexes resources by type and name; a later duplicate of a name wins.
func NewSet(resources []*Resource) *Set { panic("not implemented") }

// Server serves delta ADS.
type Server struct{}

// New makes a server; it starts nothing. Register it with
// discoveryv3.RegisterAggregatedDiscoveryServiceServer.
func New(cfg Config) *Server { panic("not implemented") }

// Publish gives a group its newest layers: a node of the group sees their union
// with its own set. Layers are compared by pointer first, so pass the same *Set
// when it did not change. Mark is an opaque growing number (the zone's revision);
// publishing what is equal to the last publication affects nobody and settles at once.
// Urgent publications (an endpoint removed, a permission tightened) overtake others
// in the queues of streams.
func (s *Server) Publish(group string, mark int64, urgent bool, layers ...*Set) { panic("not implemented") }

// Assign puts a node into a group and gives it resources of its own (may be nil).
func (s *Server) Assign(node, group string, own *Set) { panic("not implemented") }

// Unassign forgets a node; its stream, if any, is ended.
func (s *Server) Unassign(node string) { panic("not implemented") }

// Progress of a group: every publication that is not settled, oldest first, and
// the ones settled since the last call.
func (s *Server) Progress(group string) []Progress { panic("not implemented") }

// InSync reports whether a node is connected and has ACKed all that its group has.
func (s *Server) InSync(node string) bool { panic("not implemented") }

// Connected counts nodes with an open stream.
func (s *Server) Connected() int { panic("not implemented") }

// Rejections in force: resources that some node refuses now.
func (s *Server) Rejections() []Rejection { panic("not implemented") }
