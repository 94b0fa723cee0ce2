package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	gosync "sync"

	"github.com/tombolo-mesh/tombolo/global/store"
	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/mesh/ir/explain"
)

// reachRoutes say of each kind of policy which proxies one reaches.
func (s *Server) reachRoutes() []route {
	var out []route
	for _, k := range mesh.Kinds() {
		if k.Policy == nil {
			continue
		}
		out = append(out, route{method: http.MethodGet, path: "/meshes/{mesh}/" + k.Plural() + "/{name}/reach", need: reader, handle: s.reach(k), op: operation{
			summary: "Which proxies a " + string(k.Name) + " reaches in every zone, and what it gives them", answer: "Reach", long: true,
			codes: []int{401, 403, 404}}})
	}
	return out
}

func (s *Server) reach(k mesh.Kind) func(http.ResponseWriter, *request) error {
	return func(w http.ResponseWriter, r *request) error {
		key, err := s.target(r, k)
		if err != nil {
			return err
		}
		res, err := s.cfg.Store.Get(r.Context(), key)
		if errors.Is(err, store.ErrNotFound) {
			return missing(key)
		}
		if err != nil {
			return err
		}
		zones, err := s.cfg.Store.List(r.Context(), store.Query{Kind: mesh.KindZone})
		if err != nil {
			return err
		}
		out := explain.Reach{Kind: key.Kind, Mesh: key.Mesh, Name: key.RESTName(), Revision: res.Revision, Zones: make([]explain.ZoneReach, len(zones.Items))}
		slots := make(chan struct{}, maxAsked)
		var wg gosync.WaitGroup
		for i, zone := range zones.Items {
			wg.Go(func() {
				slots <- struct{}{}
				defer func() { <-slots }()
				z := &out.Zones[i]
				err := s.question(r.Context(), zone.Name, "policy", key.Mesh, explain.Asked{Policy: key}, z)
				if z.Zone = zone.Name; err != nil {
					*z = explain.ZoneReach{Zone: zone.Name, Unanswered: silence(zone.Name, err)}
				}
			})
		}
		wg.Wait()
		slices.SortFunc(out.Zones, func(a, b explain.ZoneReach) int { return strings.Compare(a.Zone, b.Zone) })
		for _, z := range out.Zones {
			out.Proxies += z.Proxies
		}
		setRevision(w, zones.At)
		return answer(w, http.StatusOK, out)
	}
}

// silence says why a zone did not answer.
func silence(zone string, err error) string {
	switch {
	case errors.Is(err, sync.ErrZoneOffline):
		return "zone " + zone + " is offline"
	case errors.Is(err, sync.ErrZoneUnknown):
		return "zone " + zone + " cannot be asked: " + oneLine(err.Error())
	case errors.Is(err, sync.ErrOutdated):
		return "zone " + zone + " has an older version, which cannot answer this"
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("zone %s did not answer within %s", zone, askTime)
	}
	return "zone " + zone + " did not answer: " + oneLine(clip(err.Error()))
}
