package kube

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// BenchmarkModel is what a start makes of a cluster of 1,000 Services of ten pods,
// all in one namespace: "links" finds who selects whom, whichever is seen first, and
// "flush" makes Dataplanes and MeshServices of it; and a change of one pod.
func BenchmarkModel(b *testing.B) {
	const count, replicas = 1000, 10
	var pods []*Pod
	var services []*Service
	var endpoints []*Slice
	yes := true
	for s := range count {
		app := fmt.Sprintf("s%04d", s)
		services = append(services, slimService(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: app, Namespace: "shop", UID: types.UID("u-" + app)},
			Spec: corev1.ServiceSpec{ClusterIP: fmt.Sprintf("10.96.%d.%d", s/250, s%250), ClusterIPs: []string{fmt.Sprintf("10.96.%d.%d", s/250, s%250)},
				Selector: map[string]string{"app": app}, Ports: []corev1.ServicePort{{Name: "http", Port: 80, TargetPort: intstr.FromString("web")}}}}, operators))
		slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: app + "-x", Namespace: "shop", Labels: map[string]string{discoveryv1.LabelServiceName: app}}}
		for i := range replicas {
			name, ip := fmt.Sprint(app, "-", i), fmt.Sprintf("10.%d.%d.%d", 100+s/250, s%250, i+1)
			pods = append(pods, slimPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "shop", UID: types.UID("u-" + name),
				Labels:      map[string]string{"app": app, "pod-template-hash": "5f6c8d7b9"},
				Annotations: map[string]string{annotationInjected: "true", annotationRedirect: `{"inbound":{"port":15006},"outbound":{"port":15001}}`}},
				Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Name: "app", Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}}}},
				Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
					Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}, operators))
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &yes},
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Name: name, Namespace: "shop"}})
		}
		endpoints = append(endpoints, slimSlice(slice))
	}
	in := func(name string) types.NamespacedName {
		return types.NamespacedName{Namespace: "shop", Name: name}
	}
	fill := func(podsFirst bool) *model {
		m := newModel("east")
		m.setNamespace(change(types.NamespacedName{Name: "shop"}, slimNamespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}), false))
		m.setNode(change(types.NamespacedName{Name: "n"}, slimNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}), false))
		setPods := func() {
			for _, p := range pods {
				m.setPod(change(in(p.Name), p, false))
			}
		}
		if podsFirst {
			setPods()
		}
		for _, s := range services {
			m.setService(change(in(s.Name), s, false))
		}
		for _, s := range endpoints {
			m.setSlice(change(in(s.Name), s, false))
		}
		if !podsFirst {
			setPods()
		}
		return m
	}
	for name, podsFirst := range map[string]bool{"links, pods first": true, "links, services first": false} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				fill(podsFirst).linkServices()
			}
		})
	}
	b.Run("flush", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			m := fill(false)
			b.StartTimer()
			batch, wrong := m.flush(time.Now())
			if len(batch.Pods) != count*replicas || len(batch.Resources) != count || len(wrong) > 0 {
				b.Fatal(len(batch.Pods), len(batch.Resources), wrong)
			}
		}
	})
	m := fill(false)
	m.flush(time.Now())
	b.Run("change", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			p := *pods[5005]
			p.Ready = i%2 == 1
			m.setPod(change(in(p.Name), &p, false))
			if batch, _ := m.flush(time.Now()); len(batch.Pods) != 1 {
				b.Fatal(len(batch.Pods))
			}
		}
	})
}
