package api

import (
	"net/http"

	"github.com/tombolo-mesh/tombolo/global/peers"
)

// InstanceList lists the instances of global.
type InstanceList struct {
	// Items sorted by id, the one that answers included.
	Items []peers.Instance `json:"items"`
}

func (s *Server) instanceRoutes() []route {
	return []route{{method: http.MethodGet, path: "/instances", need: reader, handle: s.instances,
		op: operation{summary: "Every instance of global, as the one that answers sees it", answer: "InstanceList", codes: []int{401, 403}}}}
}

func (s *Server) instances(w http.ResponseWriter, _ *request) error {
	out := InstanceList{Items: []peers.Instance{}}
	if s.cfg.Instances != nil {
		out.Items = s.cfg.Instances()
	}
	return answer(w, http.StatusOK, out)
}
