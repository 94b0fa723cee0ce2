package policy

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/dynamic"

	"github.com/tombolo-mesh/tombolo/mesh"
	"github.com/tombolo-mesh/tombolo/zone/platform"
)

// World is what global authored and how the zone's proxies are with it;
// platform.View is one.
type World = platform.View

const (
	// annotationRevision is the revision at global of what a copy shows, and
	// annotationDigest its content, so that a restart writes nothing again.
	annotationRevision = mesh.LabelPrefix + "revision"
	annotationDigest   = mesh.LabelPrefix + "digest"

	// pause is the least time between two passes of writes, and so between two
	// writes of one object.
	pause = 2 * time.Second
	// followerLook is how often an instance that does not lead looks whether it does.
	followerLook = 5 * time.Second
	// writeTimeout bounds one write.
	writeTimeout = 10 * time.Second
	// digestShown is how many octets of a digest are part of a name.
	digestShown = 4
)

// write keeps copies and statuses current while this instance leads.
func (r *Resources) write(ctx context.Context) {
	select {
	case <-r.synced:
	case <-ctx.Done():
		return
	}
	for ctx.Err() == nil {
		next := r.cfg.World.Changed()
		wait := followerLook
		if r.cfg.Leads() {
			wait = 0
			if err := r.pass(ctx); err != nil && ctx.Err() == nil {
				r.log.Warn("copies and statuses not written, retrying", "error", err)
				wait = followerLook
			}
		}
		if wait > 0 {
			sleep(ctx, wait)
			continue
		}
		sleep(ctx, pause)
		select {
		case <-ctx.Done():
		case <-next:
		case <-r.dirty:
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// pass writes what differs, once.
func (r *Resources) pass(ctx context.Context) error {
	state, err := r.cfg.World.State(ctx)
	if err != nil {
		return err
	}
	var first error
	note := func(err error) {
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			first = cmp.Or(first, err)
		}
	}
	for _, t := range r.tables {
		select {
		case <-t.objects.Synced():
		default:
			continue
		}
		objects := t.objects.List()
		slices.SortFunc(objects, func(a, b *object) int {
			return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
		})
		if state.Known {
			for _, op := range plan(t.kind, objects, state.Authored) {
				if !r.asWritten(t.kind, op) {
					note(r.mirror(ctx, t.kind, op))
				}
			}
		}
		for _, o := range objects {
			note(r.status(ctx, t.kind, o, state))
		}
		if ctx.Err() != nil {
			return nil
		}
	}
	return first
}

// mirrorOp is a write of a copy. Of want and have one may be nil.
type mirrorOp struct {
	name string
	want *mesh.Resource
	have *object
	// repair: it was of this content, and somebody has changed its labels or, with
	// spec, its spec.
	repair, spec bool
}

// plan says which copies of a kind to create, update and delete. A copy keeps its
// name; a new one gets that of the resource, unless something else has it.
func plan(k mesh.Kind, objects []*object, authored []mesh.Resource) []mirrorOp {
	namespace := copyNamespace(k)
	taken, have := map[string]bool{}, map[mesh.Key]*object{}
	var out []mirrorOp
	for _, o := range objects {
		if o.Namespace != namespace && mirrored(o.Labels) {
			out = append(out, mirrorOp{name: o.Name, have: o}) // copies are nowhere else
			continue
		}
		if o.Namespace != namespace {
			continue
		}
		taken[o.Name] = true
		if !mirrored(o.Labels) {
			continue
		}
		key := copyKey(k, o)
		if have[key] != nil {
			out = append(out, mirrorOp{name: o.Name, have: o})
			continue
		}
		have[key] = o
	}
	authored = slices.Clone(authored)
	slices.SortFunc(authored, func(a, b mesh.Resource) int { return cmp.Compare(a.Key.String(), b.Key.String()) })
	for i := range authored {
		want := &authored[i]
		if want.Kind != k.Name {
			continue
		}
		o := have[want.Key]
		delete(have, want.Key)
		switch {
		case o == nil:
			name := copyName(k, want, taken)
			taken[name] = true
			out = append(out, mirrorOp{name: name, want: want})
		case o.Annotations[annotationDigest] != digestOf(want):
			out = append(out, mirrorOp{name: o.Name, want: want, have: o})
		default:
			if labels, spec := edited(k, o, want); labels || spec {
				out = append(out, mirrorOp{name: o.Name, want: want, have: o, repair: true, spec: spec && !labels})
			}
		}
	}
	for _, o := range have {
		out = append(out, mirrorOp{name: o.Name, have: o})
	}
	slices.SortStableFunc(out, func(a, b mirrorOp) int { return cmp.Compare(a.name, b.name) })
	return out
}

// edited reports whether a copy shows other labels, or another spec, than what it is
// a copy of, which the webhook refuses while it answers. What this program does not
// know of a spec is left out: the cluster may have pruned it.
func edited(k mesh.Kind, o *object, want *mesh.Resource) (labels, spec bool) {
	u, err := copyOf(k, o.Name, want)
	if err != nil {
		return false, false
	}
	for key, value := range u.GetLabels() {
		labels = labels || o.Labels[key] != value
	}
	plain, err := json.Marshal(u.Object["spec"]) // as the API server spells it
	if err != nil || bytes.Equal(plain, o.spec) {
		return labels, false
	}
	mine, err := mesh.DecodeSpec(k.Name, plain)
	if err != nil {
		return labels, false
	}
	theirs, err := mesh.DecodeSpec(k.Name, o.spec)
	return labels, err != nil || !reflect.DeepEqual(mine, theirs)
}

// asWritten reports whether a copy whose spec is to be repaired is what the API server made
// of this instance's own write: to write it again would not change that.
func (r *Resources) asWritten(k mesh.Kind, op mirrorOp) bool {
	if !op.spec {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	made, ok := r.made[objectKey{k.Name, op.have.Namespace, op.have.Name}]
	return ok && made == writtenCopy{op.have.UID, op.have.Generation}
}

// wroteCopy notes what the API server made of a write.
func (r *Resources) wroteCopy(k mesh.Kind, u *unstructured.Unstructured) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made[objectKey{k.Name, u.GetNamespace(), u.GetName()}] = writtenCopy{u.GetUID(), u.GetGeneration()}
}

func copyNamespace(k mesh.Kind) string {
	if k.ClusterScoped() {
		return ""
	}
	return mesh.SystemNamespace
}

// copyKey is the resource that an object is a copy of.
func copyKey(k mesh.Kind, o *object) mesh.Key {
	labels := mesh.CanonicalLabels(o.Labels)
	key := mesh.Key{Kind: k.Name, Mesh: meshOf(k, labels), Name: o.Name}
	if n := labels[labelCopyOf]; n != "" {
		key.Name = n
	}
	return key
}

// labelCopyOf is the name at global, where the copy has another.
const labelCopyOf = mesh.LabelPrefix + "copy-of"

// copyName is the name of a new copy: the resource's, or with a suffix that
// follows from its key.
func copyName(k mesh.Kind, r *mesh.Resource, taken map[string]bool) string {
	if !taken[r.Name] {
		return r.Name
	}
	sum := sha256.Sum256([]byte(r.Key.String()))
	suffix := "-" + hex.EncodeToString(sum[:digestShown])
	most := validation.DNS1123SubdomainMaxLength
	if k.DNSLabel {
		most = mesh.MaxLabelLength
	}
	return r.Name[:min(len(r.Name), most-len(suffix))] + suffix
}

// digestOf is the digest of what a copy shows.
func digestOf(r *mesh.Resource) string {
	sum := mesh.FactDigest(mesh.Resource{Key: r.Key, Labels: r.Labels, Spec: r.Spec})
	return hex.EncodeToString(sum[:16])
}

// copyOf is the object that shows a resource.
func copyOf(k mesh.Kind, name string, r *mesh.Resource) (*unstructured.Unstructured, error) {
	labels := map[string]string{}
	for key, value := range r.Labels {
		// A display name may be longer than the value of a label.
		if len(validation.IsQualifiedName(key)) == 0 && len(validation.IsValidLabelValue(value)) == 0 {
			labels[key] = value
		}
	}
	labels[mesh.LabelOrigin] = mesh.OriginGlobal
	if r.Mesh != "" {
		labels[mesh.LabelMesh] = r.Mesh
	}
	if name != r.Name {
		if len(validation.IsValidLabelValue(r.Name)) > 0 {
			return nil, fmt.Errorf("%s: its name is taken in the cluster, and too long to be shown by another", r.Key)
		}
		labels[labelCopyOf] = r.Name
	}
	spec := map[string]any{}
	if len(r.Spec) > 0 {
		if err := json.Unmarshal(r.Spec, &spec); err != nil {
			return nil, fmt.Errorf("%s: spec: %w", r.Key, err)
		}
	}
	u := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	u.SetAPIVersion(apiVersion)
	u.SetKind(string(k.Name))
	u.SetName(name)
	u.SetNamespace(copyNamespace(k))
	u.SetLabels(labels)
	u.SetAnnotations(map[string]string{annotationRevision: strconv.FormatInt(int64(r.Revision), 10), annotationDigest: digestOf(r)})
	return u, nil
}

func (r *Resources) client(k mesh.Kind, namespace string) dynamic.ResourceInterface {
	if namespace == "" {
		return r.cfg.Client.Dynamic.Resource(gvr(k))
	}
	return r.cfg.Client.Dynamic.Resource(gvr(k)).Namespace(namespace)
}

// mirror makes one write of a copy.
func (r *Resources) mirror(ctx context.Context, k mesh.Kind, op mirrorOp) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	namespace := copyNamespace(k)
	if op.want == nil {
		r.mu.Lock()
		delete(r.made, objectKey{k.Name, op.have.Namespace, op.name})
		r.mu.Unlock()
		err := r.client(k, op.have.Namespace).Delete(ctx, op.name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &op.have.UID}})
		return wrap(err, "delete the copy %s %s", k.Name, op.name)
	}
	u, err := copyOf(k, op.name, op.want)
	if err != nil {
		return err
	}
	if op.have == nil {
		made, err := r.client(k, namespace).Create(ctx, u, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // the watch will tell of it
		}
		if err == nil {
			r.wroteCopy(k, made)
		}
		return wrap(err, "create the copy %s %s", k.Name, op.name)
	}
	u.SetResourceVersion(op.have.ResourceVersion)
	if op.have.status != nil { // an update leaves the status as it is, but must carry none
		unstructured.RemoveNestedField(u.Object, "status")
	}
	if op.repair {
		r.log.Warn("a copy of what global authored was changed in the cluster; it is written again", "kind", k.Name, "name", op.name)
	}
	made, err := r.client(k, namespace).Update(ctx, u, metav1.UpdateOptions{})
	if err == nil {
		r.wroteCopy(k, made)
	}
	return wrap(err, "update the copy %s %s", k.Name, op.name)
}

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(slices.Clone(args), err)...)
}
