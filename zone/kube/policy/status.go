package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

// maxConditionText bounds the message of a condition.
const maxConditionText = 4096

// remembered is for how long a status that was written counts as there, while
// the watch has not shown it yet.
const remembered = 30 * time.Second

// written is a status that this instance wrote.
type written struct {
	uid    types.UID
	status mesh.ClusterStatus
	at     time.Time
}

// status writes the status of one object, if it differs.
func (r *Resources) status(ctx context.Context, k mesh.Kind, o *object, state platform.State) error {
	now := time.Now()
	id := objectKey{k.Name, o.Namespace, o.Name}
	r.mu.Lock()
	old := o.status
	if w, ok := r.wrote[id]; ok && w.uid == o.UID && now.Sub(w.at) < remembered {
		old = &w.status
	}
	key := owned(r.cfg.Zone, k, o.Name, o.Namespace, o.Labels).Key
	use := usability{refused: r.refused[key], lastGood: r.lastGood[key]}
	r.mu.Unlock()
	next := statusOf(r.cfg.Zone, k, o, use, state, old, now)
	if old != nil && reflect.DeepEqual(*old, next) {
		return nil
	}
	patch, err := statusPatch(&next, o.status, old)
	if err != nil {
		return fmt.Errorf("status of %s %s: %w", k.Name, o.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if _, err := r.client(k, o.Namespace).Patch(ctx, o.Name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return wrap(err, "status of %s %s", k.Name, o.Name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for other, w := range r.wrote {
		if now.Sub(w.at) > remembered {
			delete(r.wrote, other)
		}
	}
	r.wrote[id] = written{uid: o.UID, status: next, at: now}
	return nil
}

// statusPatch is a merge patch after which a status is next and nothing else: what
// former ones had beyond it is taken away.
func statusPatch(next *mesh.ClusterStatus, former ...*mesh.ClusterStatus) ([]byte, error) {
	fields := func(s *mesh.ClusterStatus) (out map[string]any, err error) {
		text, err := json.Marshal(s)
		if err != nil {
			return nil, err
		}
		return out, json.Unmarshal(text, &out)
	}
	status, err := fields(next)
	if err != nil {
		return nil, err
	}
	for _, f := range former {
		if f == nil {
			continue
		}
		had, err := fields(f)
		if err != nil {
			return nil, err
		}
		for name := range had {
			if _, stays := status[name]; !stays {
				status[name] = nil
			}
		}
	}
	return json.Marshal(map[string]any{"status": status})
}

// usability is what the zone can use of an object.
type usability struct {
	// refused says why not its spec; empty if it can.
	refused mesh.Problems
	// lastGood is the spec in force instead; empty for none.
	lastGood json.RawMessage
}

// inForce reports whether there is something in force that has outcomes.
func (u usability) inForce() bool { return len(u.refused) == 0 || len(u.lastGood) > 0 }

// statusOf is what to show of an object. What is as it was keeps its times.
func statusOf(zone string, k mesh.Kind, o *object, use usability, state platform.State, old *mesh.ClusterStatus, now time.Time) mesh.ClusterStatus {
	labels := mesh.CanonicalLabels(o.Labels)
	out := mesh.ClusterStatus{ObservedGeneration: o.Generation, Mesh: meshOf(k, labels), Origin: mesh.OriginZone}
	key := owned(zone, k, o.Name, o.Namespace, o.Labels).Key
	if mirrored(o.Labels) {
		key, out.Origin, out.Role = copyKey(k, o), mesh.OriginGlobal, labels[mesh.LabelPolicyRole]
		if n, err := strconv.ParseInt(o.Annotations[annotationRevision], 10, 64); err == nil {
			out.Revision = n
		}
	} else if use.inForce() {
		used := *o
		if len(use.lastGood) > 0 {
			used.spec, out.LastGood = use.lastGood, use.lastGood
		}
		res, _ := resourceOf(zone, k, &used)
		out.Role = res.Labels[mesh.LabelPolicyRole]
	}
	accepted := mesh.ClusterCondition{Type: mesh.ConditionAccepted, Status: "True", Reason: "Accepted", Message: "the zone uses it"}
	if len(use.refused) > 0 {
		accepted.Status, accepted.Reason, accepted.Message = "False", "Invalid", oneLine(use.refused)
	}
	if len(use.refused) > 0 && len(use.lastGood) > 0 {
		accepted.Message += "; its last good version, in status.lastGood, stays in force"
	}
	outcome := state.Outcomes[key]
	if outcome.Hides && accepted.Status == "True" {
		accepted.Message = "the zone uses it, instead of the one that follows from an object of the cluster of this name"
	}
	out.Conditions = append(out.Conditions, accepted)
	if k.Policy != nil && use.inForce() {
		out.Affected, out.Done, out.Rejected = int64(outcome.Affected), int64(outcome.Done), int64(outcome.Rejected)
		out.Proxies = fmt.Sprintf("%d/%d", outcome.Done, outcome.Affected)
		out.Conditions = append(out.Conditions, programmed(outcome))
	} else if len(outcome.Problems) > 0 && len(use.refused) == 0 {
		out.Conditions[0] = mesh.ClusterCondition{Type: mesh.ConditionAccepted, Status: "False", Reason: "Problem", Message: text(outcome.Problems)}
	}
	if use.inForce() {
		out.ServiceNames = state.Names[key]
	}
	for i := range out.Conditions {
		c := &out.Conditions[i]
		c.ObservedGeneration = o.Generation
		c.LastTransitionTime = now.UTC().Truncate(time.Second)
		if old == nil {
			continue
		}
		for _, was := range old.Conditions {
			if was.Type == c.Type && was.Status == c.Status {
				c.LastTransitionTime = was.LastTransitionTime
			}
		}
	}
	return out
}

func programmed(o platform.Outcome) mesh.ClusterCondition {
	c := mesh.ClusterCondition{Type: mesh.ConditionProgrammed, Status: "False"}
	switch {
	case o.Rejected > 0:
		c.Reason, c.Message = "Rejected", text(o.Problems)
	case len(o.Problems) > 0:
		c.Reason, c.Message = "Problem", text(o.Problems)
	case o.Affected == 0:
		c.Status, c.Reason, c.Message = "True", "NoProxies", "it selects no connected proxy of this zone"
	case o.Done == o.Affected:
		c.Status, c.Reason, c.Message = "True", "Programmed", "every proxy that it selects has it in force"
	default:
		c.Reason, c.Message = "Pending", "some proxies have not confirmed it yet"
	}
	return c
}

func text(problems []string) string {
	s := strings.Join(problems, "; ")
	if len(s) > maxConditionText {
		s = strings.ToValidUTF8(s[:maxConditionText], "") + "…"
	}
	return s
}
