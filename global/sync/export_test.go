package sync

// Unacked is how many bytes a zone has not acknowledged, for tests.
func (s *Server) Unacked(zone string) int {
	s.mu.Lock()
	st := s.zones[zone].leader.stream
	s.mu.Unlock()
	if st == nil {
		return 0
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.unacked
}
