package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
)

// Source is what to watch.
type Source struct {
	// What a person reads in logs, for example "pods".
	What string
	// Object is an empty one of the type that comes, for example &corev1.Pod{}.
	Object runtime.Object

	lw cache.ListerWatcher
}

// Typed is a source of a type that client knows.
func Typed(client rest.Interface, resource, namespace string, object runtime.Object) Source {
	return Source{What: resource, Object: object, lw: cache.NewListWatchFromClient(client, resource, namespace, fields.Everything())}
}

// TypedWhere is a source of those objects of a type that a field selector selects,
// for example status.phase=Pending.
func TypedWhere(client rest.Interface, resource, namespace string, object runtime.Object, selector string) Source {
	return Source{What: resource, Object: object, lw: cache.NewFilteredListWatchFromClient(client, resource, namespace,
		func(o *metav1.ListOptions) { o.FieldSelector = selector })}
}

// Custom is a source of custom resources, as *unstructured.Unstructured; namespace
// "" watches all.
func Custom(c *Client, gvr schema.GroupVersionResource, kind, namespace string) Source {
	r := c.Dynamic.Resource(gvr).Namespace(namespace)
	object := &unstructured.Unstructured{}
	object.SetGroupVersionKind(gvr.GroupVersion().WithKind(kind))
	return Source{What: gvr.Resource, Object: object, lw: &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return r.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return r.Watch(ctx, o)
		},
	}}
}

// Slim is what a table keeps of an object. Implementations embed metav1.ObjectMeta
// and leave in it what they need: at least the name and the namespace.
type Slim interface {
	comparable
	metav1.Object
}

// Change of a table.
type Change[T Slim] struct {
	// Key is the namespace and the name.
	Key types.NamespacedName
	// Old and New; the zero value says that there was none, or is none any more.
	Old, New T
}

// Table is what a watch has seen, kept slim: memory holds nothing of an object
// but what it is read for.
type Table[T Slim] struct {
	source Source
	slim   func(runtime.Object) T
	notify func([]Change[T])

	mu     sync.RWMutex
	items  map[types.NamespacedName]T
	synced chan struct{}
	once   sync.Once
}

// NewTable makes a table of what a source has. The function slim makes of an
// object what is kept, and must not hold on to it. The function notify, if not
// nil, gets all changes in order, those of the first list and of each list after a
// broken watch together, from one goroutine; it must not block for long.
func NewTable[T Slim](source Source, slim func(runtime.Object) T, notify func([]Change[T])) *Table[T] {
	if notify == nil {
		notify = func([]Change[T]) {}
	}
	return &Table[T]{source: source, slim: slim, notify: notify, items: map[types.NamespacedName]T{}, synced: make(chan struct{})}
}

// Get finds an object.
func (t *Table[T]) Get(namespace, name string) (T, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v, ok := t.items[types.NamespacedName{Namespace: namespace, Name: name}]
	return v, ok
}

// Len counts objects.
func (t *Table[T]) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.items)
}

// List is every object, in no order.
func (t *Table[T]) List() []T {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]T, 0, len(t.items))
	for _, v := range t.items {
		out = append(out, v)
	}
	return out
}

// Synced is closed when the first list is complete and was notified.
func (t *Table[T]) Synced() <-chan struct{} { return t.synced }

// Run watches until ctx ends. While the API server does not answer the table
// stays as it is, and tries again after up to 5 s.
func (t *Table[T]) Run(ctx context.Context, c *Client) {
	log := c.log
	if log == nil { // a client that Connect did not make
		log = slog.New(slog.DiscardHandler)
	}
	logger := logr.FromSlogHandler(log.Handler())
	r := cache.NewReflectorWithOptions(t.source.lw, t.source.Object, &store[T]{t}, cache.ReflectorOptions{
		Name: t.source.What, Logger: &logger, Backoff: retry(),
	})
	r.RunWithContext(ctx)
}

// retry is quicker than the library's, which waits up to 30 s: an API server that
// restarts is back within seconds, and meanwhile endpoints change.
func retry() *wait.Backoff {
	return &wait.Backoff{Duration: retryFirst, Cap: retryMost, Steps: 5, Factor: 2, Jitter: 1}
}

func keyOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// of makes an object slim, if it is not yet.
func (t *Table[T]) of(obj any) (T, error) {
	switch o := obj.(type) {
	case T:
		return o, nil
	case runtime.Object:
		return t.slim(o), nil
	}
	var none T
	return none, fmt.Errorf("%s: %T is not watched here", t.source.What, obj)
}

func (t *Table[T]) set(v T) {
	key := keyOf(v)
	t.mu.Lock()
	old := t.items[key]
	t.items[key] = v
	t.mu.Unlock()
	t.notify([]Change[T]{{Key: key, Old: old, New: v}})
}

func (t *Table[T]) remove(v T) {
	key := keyOf(v)
	t.mu.Lock()
	old, ok := t.items[key]
	delete(t.items, key)
	t.mu.Unlock()
	if ok {
		t.notify([]Change[T]{{Key: key, Old: old}})
	}
}

// replace takes a whole list.
func (t *Table[T]) replace(all []T) {
	next := make(map[types.NamespacedName]T, len(all))
	for _, v := range all {
		next[keyOf(v)] = v
	}
	t.mu.Lock()
	old := t.items
	t.items = next
	t.mu.Unlock()
	changes := make([]Change[T], 0, len(next))
	for key, v := range old {
		if _, still := next[key]; !still {
			changes = append(changes, Change[T]{Key: key, Old: v})
		}
	}
	for key, v := range next {
		changes = append(changes, Change[T]{Key: key, Old: old[key], New: v})
	}
	if len(changes) > 0 {
		t.notify(changes)
	}
	t.once.Do(func() { close(t.synced) })
}

// store is a table as the library's reflector writes it.
type store[T Slim] struct{ t *Table[T] }

var _ cache.TransformingStore = (*store[*metav1.ObjectMeta])(nil)

// Add implements cache.ReflectorStore.
func (s *store[T]) Add(obj any) error { return s.Update(obj) }

// Update implements cache.ReflectorStore.
func (s *store[T]) Update(obj any) error {
	v, err := s.t.of(obj)
	if err == nil {
		s.t.set(v)
	}
	return err
}

// Delete implements cache.ReflectorStore.
func (s *store[T]) Delete(obj any) error {
	v, err := s.t.of(obj)
	if err == nil {
		s.t.remove(v)
	}
	return err
}

// Replace implements cache.ReflectorStore.
func (s *store[T]) Replace(list []any, _ string) error {
	all := make([]T, 0, len(list))
	for i, obj := range list {
		v, err := s.t.of(obj)
		if err != nil {
			return err
		}
		list[i], all = nil, append(all, v)
	}
	s.t.replace(all)
	return nil
}

// Resync implements cache.ReflectorStore.
func (s *store[T]) Resync() error { return nil }

// Transformer implements cache.TransformingStore: what a first list streams is
// made slim as it comes, not when it is complete.
func (s *store[T]) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) { return s.t.of(obj) }
}
