package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/tombolo-mesh/tombolo/agent/redirect"
)

// Name of the plugin: its type in a network configuration, and its file.
const Name = "tombolo-cni"

// Annotations of pods, as the injecting webhook writes them.
const (
	// AnnotationInjected is "true" on a pod with a sidecar.
	AnnotationInjected = "tombolo.io/sidecar-injected"
	// AnnotationRedirect is the JSON of a redirect.Config.
	AnnotationRedirect = "traffic.tombolo.io/redirect"
)

// capability by which containerd hands over a pod's annotations.
const capability = "io.kubernetes.cri.pod-annotations"

// Entry is the plugin's part of a network configuration list.
type Entry struct {
	Type         string          `json:"type"`
	Capabilities map[string]bool `json:"capabilities"`
	Settings
}

// Settings of the plugin on a node.
type Settings struct {
	// Kubeconfig is a file on the node, JSON as the daemon writes it: for runtimes
	// that hand over no annotations.
	Kubeconfig string `json:"kubeconfig,omitempty"`
	// ExcludeNamespaces are passed without asking the API server.
	ExcludeNamespaces []string `json:"excludeNamespaces,omitempty"`
	// LogFile on the node; it and its predecessor (.1) are at most 1 MiB each.
	LogFile string `json:"logFile,omitempty"`
}

// conf is what a runtime gives to the plugin.
type conf struct {
	types.PluginConf
	Settings
	RuntimeConfig map[string]json.RawMessage `json:"runtimeConfig"`
}

// podArgs are in CNI_ARGS.
type podArgs struct {
	types.CommonArgs
	K8S_POD_NAMESPACE types.UnmarshallableString //nolint:revive // the names are the runtime's
	K8S_POD_NAME      types.UnmarshallableString //nolint:revive // the names are the runtime's
	K8S_POD_UID       types.UnmarshallableString //nolint:revive // the names are the runtime's
}

// Plugin serves one call of a container runtime.
type Plugin struct {
	// Stdout takes the result.
	Stdout io.Writer
}

// Main is the plugin's main function: it reads the CNI variables and standard
// input, answers on standard output, and does not return after an error.
func Main(about string) {
	p := Plugin{}
	skel.PluginMainFuncs(p.Funcs(), Versions(), about)
}

// Versions of the CNI specification that the plugin speaks.
func Versions() version.PluginInfo {
	return version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
}

// Funcs are the plugin's answers to the commands of CNI.
func (p Plugin) Funcs() skel.CNIFuncs {
	nothing := func(*skel.CmdArgs) error { return nil }
	return skel.CNIFuncs{
		Add:   p.add,
		Check: p.check,
		// Rules go with their network namespace.
		Del: nothing,
		GC:  nothing,
		// A node that could not redirect refuses the pods that need it, each with a
		// reason. Saying so here would take the others' network away as well.
		Status: nothing,
	}
}

func (p Plugin) add(args *skel.CmdArgs) error {
	start := time.Now()
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	log, done := p.log(c)
	defer done()
	pod, want, err := decide(c, args)
	if err != nil {
		log.Error("pod refused", "pod", pod, "error", err)
		return fmt.Errorf("%s: pod %s: %w", Name, pod, err)
	}
	if want != nil {
		if err := redirect.Install(*want, args.Netns); err != nil {
			log.Error("pod refused", "pod", pod, "error", err)
			return fmt.Errorf("%s: pod %s has a sidecar and its traffic cannot be redirected: %w", Name, pod, err)
		}
		log.Info("pod redirected", "pod", pod, "netns", args.Netns, "took", time.Since(start).Round(time.Microsecond).String())
	}
	return p.echo(c)
}

func (p Plugin) check(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	if c.PrevResult == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, Name+": CHECK needs prevResult", "")
	}
	pod, want, err := decide(c, args)
	if err != nil {
		return fmt.Errorf("%s: pod %s: %w", Name, pod, err)
	}
	if want == nil {
		return nil
	}
	problems, err := redirect.Check(*want, args.Netns)
	if err != nil {
		return fmt.Errorf("%s: pod %s: %w", Name, pod, err)
	}
	if len(problems) > 0 {
		lines := make([]string, len(problems))
		for i, problem := range problems {
			lines[i] = problem.String()
		}
		return fmt.Errorf("%s: pod %s: the redirect differs: %s", Name, pod, strings.Join(lines, "; "))
	}
	return nil
}

// echo answers with the result of the plugins before this one.
func (p Plugin) echo(c *conf) error {
	var result types.Result = &current.Result{CNIVersion: c.CNIVersion}
	if c.PrevResult != nil {
		result = c.PrevResult
	}
	if p.Stdout == nil {
		return types.PrintResult(result, c.CNIVersion)
	}
	out, err := result.GetAsVersion(c.CNIVersion)
	if err != nil {
		return err
	}
	return out.PrintTo(p.Stdout)
}

func parse(data []byte) (*conf, error) {
	c := &conf{}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, Name+": network configuration: "+err.Error(), "")
	}
	if c.RawPrevResult != nil {
		raw, err := json.Marshal(c.RawPrevResult)
		if err != nil {
			return nil, types.NewError(types.ErrDecodingFailure, Name+": prevResult: "+err.Error(), "")
		}
		result, err := create.Create(c.CNIVersion, raw)
		if err != nil {
			return nil, types.NewError(types.ErrDecodingFailure, Name+": prevResult: "+err.Error(), "")
		}
		c.PrevResult = result
	}
	return c, nil
}

// decide says which pod this is and how it is redirected; nil is not at all.
func decide(c *conf, args *skel.CmdArgs) (pod string, _ *redirect.Config, _ error) {
	var a podArgs
	// Other runtimes' arguments are no concern of ours.
	a.IgnoreUnknown = true
	if err := types.LoadArgs(args.Args, &a); err != nil {
		return args.ContainerID, nil, fmt.Errorf("CNI_ARGS: %w", err)
	}
	if a.K8S_POD_NAME == "" {
		return args.ContainerID, nil, nil // no pod
	}
	namespace := string(a.K8S_POD_NAMESPACE)
	pod = namespace + "/" + string(a.K8S_POD_NAME)
	var annotations map[string]string
	if given, ok := c.RuntimeConfig[capability]; ok {
		if err := json.Unmarshal(given, &annotations); err != nil {
			return pod, nil, fmt.Errorf("annotations from the container runtime: %w", err)
		}
	} else {
		if slices.Contains(c.ExcludeNamespaces, namespace) {
			return pod, nil, nil
		}
		var err error
		if annotations, err = askAPI(c.Kubeconfig, namespace, string(a.K8S_POD_NAME), string(a.K8S_POD_UID)); err != nil {
			return pod, nil, fmt.Errorf("whether it has a sidecar is unknown: the container runtime hands over no annotations, and %w", err)
		}
	}
	text, ok := annotations[AnnotationRedirect]
	if annotations[AnnotationInjected] != "true" || !ok {
		return pod, nil, nil
	}
	want, err := redirect.Parse([]byte(text))
	if err != nil {
		return pod, nil, fmt.Errorf("annotation %s: %w", AnnotationRedirect, err)
	}
	return pod, &want, nil
}

func (p Plugin) log(c *conf) (*slog.Logger, func()) {
	f, err := openLog(c.LogFile)
	if err != nil || f == nil {
		return slog.New(slog.DiscardHandler), func() {}
	}
	// A line is one write, so that concurrent plugins do not mix them.
	var line bytes.Buffer
	return slog.New(slog.NewTextHandler(&line, nil)), func() {
		_, err := f.Write(line.Bytes())
		_ = errors.Join(err, f.Close())
	}
}
