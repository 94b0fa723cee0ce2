package webhook

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/tombolo-mesh/tombolo/agent/appprobe"
)

// takeProbes points the probes and hooks of a pod's containers at the agent. The
// table it returns is have with what was found. Probes that run in the container
// (exec), ask another host, or ask the agent already are not touched. Every hook gets
// a path that nobody can guess, made by secret.
func takeProbes(pod *corev1.Pod, have appprobe.Table, secret func() string) (ops []Op, table appprobe.Table) {
	table = appprobe.Table{}
	for key, p := range have {
		table[key] = p
	}
	for _, list := range []struct {
		path       string
		containers []corev1.Container
	}{{"initContainers", pod.Spec.InitContainers}, {"containers", pod.Spec.Containers}} {
		for i, c := range list.containers {
			if c.Name == SidecarName {
				continue
			}
			at := fmt.Sprintf("/spec/%s/%d", list.path, i)
			for _, p := range []struct {
				kind, member string
				probe        *corev1.Probe
			}{
				{appprobe.Startup, "startupProbe", c.StartupProbe},
				{appprobe.Liveness, "livenessProbe", c.LivenessProbe},
				{appprobe.Readiness, "readinessProbe", c.ReadinessProbe},
			} {
				if p.probe == nil {
					continue
				}
				taken, ok := take(c, p.probe.ProbeHandler)
				if !ok {
					continue
				}
				taken.TimeoutSeconds = max(1, p.probe.TimeoutSeconds) // Kubernetes' default is 1
				table[appprobe.Key(c.Name, p.kind)] = taken
				ops = append(ops, replaceHandler(at+"/"+p.member, p.probe.ProbeHandler, appprobe.Path(c.Name, p.kind, ""))...)
			}
			if c.Lifecycle == nil {
				continue
			}
			for _, h := range []struct {
				kind, member string
				hook         *corev1.LifecycleHandler
			}{
				{appprobe.PostStart, "postStart", c.Lifecycle.PostStart},
				{appprobe.PreStop, "preStop", c.Lifecycle.PreStop},
			} {
				if h.hook == nil || h.hook.HTTPGet == nil {
					continue
				}
				handler := corev1.ProbeHandler{HTTPGet: h.hook.HTTPGet}
				taken, ok := take(c, handler)
				if !ok {
					continue
				}
				taken.Secret = secret()
				table[appprobe.Key(c.Name, h.kind)] = taken
				ops = append(ops, replaceHandler(at+"/lifecycle/"+h.member, handler, appprobe.Path(c.Name, h.kind, taken.Secret))...)
			}
		}
	}
	return ops, table
}

// take says what a probe asks, unless it is not the agent's to ask.
func take(c corev1.Container, h corev1.ProbeHandler) (appprobe.Probe, bool) {
	switch {
	case h.HTTPGet != nil && h.HTTPGet.Host == "" && !strings.HasPrefix(h.HTTPGet.Path, "/app-probes/"):
		p := appprobe.Probe{Type: appprobe.HTTP, Path: h.HTTPGet.Path}
		if h.HTTPGet.Scheme == corev1.URISchemeHTTPS {
			p.Type = appprobe.HTTPS
		}
		for _, header := range h.HTTPGet.HTTPHeaders {
			p.Headers = append(p.Headers, appprobe.Header{Name: header.Name, Value: header.Value})
		}
		port, ok := portOf(c, h.HTTPGet.Port)
		p.Port = port
		return p, ok
	case h.TCPSocket != nil && h.TCPSocket.Host == "":
		port, ok := portOf(c, h.TCPSocket.Port)
		return appprobe.Probe{Type: appprobe.TCP, Port: port}, ok
	case h.GRPC != nil && h.GRPC.Port > 0 && h.GRPC.Port <= 65535:
		p := appprobe.Probe{Type: appprobe.GRPC, Port: uint16(h.GRPC.Port)}
		if h.GRPC.Service != nil {
			p.Service = *h.GRPC.Service
		}
		return p, true
	}
	return appprobe.Probe{}, false
}

// portOf resolves a port by number or by name. What cannot be resolved is left
// to the API server and the kubelet to complain about.
func portOf(c corev1.Container, p intstr.IntOrString) (uint16, bool) {
	if p.Type == intstr.Int {
		return uint16(p.IntVal), p.IntVal > 0 && p.IntVal <= 65535
	}
	for _, named := range c.Ports {
		if named.Name == p.StrVal {
			return uint16(named.ContainerPort), true
		}
	}
	return 0, false
}

func replaceHandler(at string, was corev1.ProbeHandler, path string) (ops []Op) {
	member := "httpGet"
	switch {
	case was.TCPSocket != nil:
		member = "tcpSocket"
	case was.GRPC != nil:
		member = "grpc"
	}
	return []Op{
		{Op: "remove", Path: at + "/" + member},
		{Op: "add", Path: at + "/httpGet", Value: corev1.HTTPGetAction{
			Path: path, Port: intstr.FromInt32(appprobe.Port), Scheme: corev1.URISchemeHTTP}},
	}
}

// probesOf finds the table in a sidecar's environment, -1 if it has none.
func probesOf(sidecar *corev1.Container) (appprobe.Table, int, error) {
	for i, e := range sidecar.Env {
		if e.Name == envProbes {
			t, err := appprobe.Parse([]byte(e.Value))
			return t, i, err
		}
	}
	return nil, -1, nil
}

// probesOp writes a table into the environment of the sidecar.
func probesOp(sidecar, at int, env []corev1.EnvVar, value string) Op {
	v := corev1.EnvVar{Name: envProbes, Value: value}
	switch {
	case at >= 0:
		return Op{Op: "replace", Path: fmt.Sprintf("/spec/initContainers/%d/env/%d", sidecar, at), Value: v}
	case len(env) == 0:
		return Op{Op: "add", Path: fmt.Sprintf("/spec/initContainers/%d/env", sidecar), Value: []corev1.EnvVar{v}}
	}
	return Op{Op: "add", Path: fmt.Sprintf("/spec/initContainers/%d/env/-", sidecar), Value: v}
}
