package delta

import (
	"maps"
	"slices"
)

// Bounds of what is remembered of versions that proxies disagree on.
const (
	maxContested = 1 << 12
	maxVerdicts  = 1 << 12
	maxRetired   = 1 << 16
)

// Verdict is news of a published version: a node refused it and none had accepted
// it, or one accepted what others had refused.
type Verdict struct {
	Rejection
	// Group of the node.
	Group string
	// Accepted says that the version is good after all: what refuses it has trouble
	// of its own, an address that is in use.
	Accepted bool
}

// Good is the last version of a resource in a group that some node accepted and
// that has been replaced or removed since.
type Good struct {
	// Resource with its bytes.
	Resource *Resource
	// Mark of the last publication that had it.
	Mark int64
}

// Verdicts since the last call, oldest first, at most 4096. OnProgress is called
// when there is one.
func (s *Server) Verdicts() []Verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.verdicts
	s.verdicts = nil
	return out
}

// LastGood is what a group had before what it has now, where nobody accepted the
// newer one yet, by resource. Endpoints are not remembered.
func (s *Server) LastGood(group string) map[Key]Good {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[group]; g != nil {
		return maps.Clone(g.good)
	}
	return nil
}

// Withhold says that refused versions are about to be replaced by others in a
// publication. Nodes that were to get them count as rejected in the publication that had
// them, also those that never see them; nodes that come later do not.
func (s *Server) Withhold(group string, refused []Rejection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[group]
	if g == nil {
		return
	}
	now := s.now()
	for _, r := range refused {
		for _, p := range slices.Backward(g.open) {
			if _, has := p.keys[Key{r.TypeURL, r.Resource}]; has {
				p.withheld, p.withheldAt = append(p.withheld, r), now
				break
			}
		}
	}
}

// contest books a refusal against what others say of the version.
func (s *Server) contest(g *group, r Rejection, proven bool) {
	p := proof{Key{r.TypeURL, r.Resource}, r.Version}
	if proven || s.contested[p] {
		s.disagree(p, true)
		return
	}
	s.disagree(p, false)
	s.tell(Verdict{Rejection: r, Group: g.name})
}

func (s *Server) disagree(p proof, accepted bool) {
	if len(s.contested) >= maxContested {
		// What was accepted since is settled. What is not must not be forgotten before
		// it has to be: nobody would be told of its acceptance.
		maps.DeleteFunc(s.contested, func(_ proof, accepted bool) bool { return accepted })
		for old := range s.contested {
			if len(s.contested) < maxContested {
				break
			}
			delete(s.contested, old)
		}
	}
	s.contested[p] = accepted
}

// acquit notes that a node accepted a version.
func (s *Server) acquit(g *group, k Key, version string) {
	p := proof{k, version}
	if accepted, is := s.contested[p]; is && !accepted {
		s.contested[p] = true
		s.tell(Verdict{Rejection: Rejection{TypeURL: k.TypeURL, Resource: k.Name, Version: version}, Group: g.name, Accepted: true})
	}
	if now := (view{layers: g.layers}); now.version(k.TypeURL, k.Name) == version {
		delete(g.good, k)
	}
}

func (s *Server) tell(v Verdict) {
	// An acceptance is never dropped; there are no more of them than contested versions.
	if v.Accepted || len(s.verdicts) < maxVerdicts {
		s.verdicts = append(s.verdicts, v)
	}
	if s.cfg.OnProgress != nil { // whether or not the group told of progress before
		s.events = append(s.events, func() { s.cfg.OnProgress(v.Group, true) })
	}
}

// retire remembers that a version that is being replaced was accepted: other
// groups may have had it too, and it may come back.
func (s *Server) retire(p proof) {
	if p.TypeURL == endpointType {
		return
	}
	if len(s.retired) >= maxRetired {
		clear(s.retired)
	}
	s.retired[p] = struct{}{}
}

// succeed keeps the accepted versions that a publication replaces, and forgets
// that they are, which bounds their number.
func (g *group) succeed(keys []Key, layers []*Set) {
	s := g.server
	old, now := view{layers: g.layers}, view{layers: layers}
	for _, k := range keys {
		if r := old.get(k.TypeURL, k.Name); r != nil {
			p := proof{k, r.Version}
			s.end(p) // groups that have it still begin another one
			_, proven := s.proven[p]
			if proven {
				delete(s.proven, p)
				s.retire(p)
			}
			if _, retired := s.retired[p]; retired {
				if g.good == nil {
					g.good = map[Key]Good{}
				}
				g.good[k] = Good{r, g.mark}
			}
		}
		if v := now.version(k.TypeURL, k.Name); v != "" {
			if _, retired := s.retired[proof{k, v}]; retired {
				s.prove(k, v)
			}
		}
	}
}

// forget drops the last good ones of what is gone for all nodes.
func (g *group) forget(p *publication) {
	if p.Nodes == 0 || p.Rejected > 0 || len(g.good) == 0 {
		return
	}
	now := view{layers: g.layers}
	for k := range p.keys {
		if now.get(k.TypeURL, k.Name) == nil {
			delete(g.good, k)
		}
	}
}
