package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/tombolo-mesh/tombolo/mesh"
)

// maxReported bounds the problems of one answer.
const maxReported = 1000

// putBatch applies many documents in one change set.
func (s *Server) putBatch(w http.ResponseWriter, r *request) error {
	began := time.Now()
	dry, err := r.flag("dryRun")
	if err != nil {
		return err
	}
	c, err := r.consent()
	if err != nil {
		return err
	}
	docs, err := s.batch(r)
	if err != nil {
		return err
	}
	s.metrics.stages.WithLabelValues("validate").Observe(time.Since(began).Seconds())
	wr := writer{s: s, user: r.author(), dry: dry, weakening: c}
	out, err := wr.write(r.Context(), docs)
	if err != nil {
		return err
	}
	s.wrote(w, r, out)
	return answer(w, http.StatusOK, out)
}

// batch reads and validates the documents of a request.
func (s *Server) batch(r *request) ([]document, error) {
	data, err := r.body()
	if err != nil {
		return nil, err
	}
	manifests, err := decodeBatch(data)
	if err != nil {
		return nil, problem(http.StatusBadRequest, "the body %s", oneLine(err.Error()))
	}
	if len(manifests) == 0 || len(manifests) > MaxDocuments {
		return nil, problem(http.StatusUnprocessableEntity, "the body has %d documents; 1 to %d are allowed", len(manifests), MaxDocuments)
	}
	docs, bad, err := s.documents(r, manifests)
	if err != nil {
		return nil, err
	}
	if len(bad) > 0 {
		p := problem(http.StatusUnprocessableEntity, "%s in %s; nothing was written", count(len(bad), "problem"), count(len(manifests), "document"))
		p.Invalid = bad[:min(len(bad), maxReported)]
		return nil, p
	}
	return docs, nil
}

// decodeBatch reads YAML documents, or a JSON list.
func decodeBatch(data []byte) ([]mesh.Manifest, error) {
	if trimmed := bytes.TrimSpace(data); len(trimmed) == 0 || trimmed[0] != '[' {
		return mesh.DecodeManifests(data, MaxBatchBody)
	}
	var parts []json.RawMessage
	if err := json.Unmarshal(data, &parts); err != nil {
		return nil, fmt.Errorf("is no JSON list: %w", err)
	}
	out := make([]mesh.Manifest, 0, len(parts))
	for i, part := range parts {
		list, err := mesh.DecodeManifests(part, MaxBatchBody)
		if err != nil {
			return nil, fmt.Errorf("document %d: %w", i+1, err)
		}
		for _, m := range list {
			m.Document, m.Line = i+1, 0
			out = append(out, m)
		}
	}
	return out, nil
}

// documents validates all manifests and returns every problem at once.
func (s *Server) documents(r *request, manifests []mesh.Manifest) (docs []document, bad []InvalidParameter, err error) {
	seen := map[mesh.Key]int{}
	for i := range manifests {
		if k := manifests[i].Resource.Key; k.Kind == mesh.KindMesh {
			seen[k] = manifests[i].Document
		}
	}
	meshes := map[string]bool{}
	known := func(name string) (bool, error) {
		if _, ok := seen[mesh.Key{Kind: mesh.KindMesh, Name: name}]; ok {
			return true, nil
		}
		if ok, asked := meshes[name]; asked {
			return ok, nil
		}
		_, err := s.meshExists(r.Context(), name)
		if err != nil && problemOf(err).Status != http.StatusNotFound {
			return false, err
		}
		meshes[name] = err == nil
		return err == nil, nil
	}
	first := map[mesh.Key]int{}
	for i := range manifests {
		m := &manifests[i]
		doc, problems := s.document(r, m)
		key := m.Resource.Key
		if other, dup := first[key]; dup && key.Name != "" {
			problems.Addf("name", "document %d is the same resource", other)
		}
		first[key] = m.Document
		if key.Mesh != "" && len(problems) == 0 {
			ok, err := known(key.Mesh)
			if err != nil {
				return nil, nil, err
			}
			if !ok {
				problems.Addf("mesh", "there is no mesh %q, neither in the store nor in this request", clip(key.Mesh))
			}
		}
		for _, p := range problems {
			bad = append(bad, InvalidParameter{Document: m.Document, Line: m.Line, Resource: clip(label(key)), Field: p.Field, Reason: p.Reason})
		}
		docs = append(docs, doc)
	}
	return docs, bad, nil
}

// label names a resource in messages: "MeshTimeout default/web".
func label(k mesh.Key) string {
	name := k.RESTName()
	if k.Mesh != "" {
		name = k.Mesh + "/" + name
	}
	if k.Kind == "" {
		return name
	}
	return string(k.Kind) + " " + name
}
