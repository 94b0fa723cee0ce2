package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// scenario is a file of bench/scenarios: what stands, what happens, and what that
// may cost.
type scenario struct {
	// Name is the file's, without its ending.
	Name string `yaml:"-"`
	// About is a line for people.
	About string `yaml:"about"`
	// Quick ones run in `make bench`.
	Quick bool `yaml:"quick"`
	// Topology at the beginning.
	Topology topology `yaml:"topology"`
	// Steps in order.
	Steps []step `yaml:"steps"`
	// Slope runs all of it at several sizes and compares; nil: once.
	Slope *slope `yaml:"slope"`
	// Timeout of bringing up the topology, default 2m.
	Timeout time.Duration `yaml:"timeout"`
}

// topology is what stands. Every number is of each zone, unless it says otherwise.
type topology struct {
	// Zones, default 1, or none where there are Streams.
	Zones int `yaml:"zones"`
	// Streams are zones that are only their stream to global, of the whole topology.
	Streams int `yaml:"streams"`
	// Services, each a workload of its own.
	Services int `yaml:"services"`
	// Instances of each service: proxies that are called.
	Instances int `yaml:"instances"`
	// Calls is how many other services each instance calls, by explicit outbounds.
	Calls int `yaml:"calls"`
	// Callers are transparent proxies that reach every service of the mesh.
	Callers int `yaml:"callers"`
	// Classes among which the callers are divided, default 1.
	Classes int `yaml:"classes"`
	// Policies at rest: they select no proxy.
	Policies int `yaml:"policies"`
	// Light instances share connections: they are there to be called.
	Light bool `yaml:"light"`
}

// proxies of a zone.
func (t topology) proxies() int { return t.Services*t.Instances + t.Callers }

// field is a number of the topology by its name in the file.
func (t *topology) field(name string) *int {
	switch name {
	case "zones":
		return &t.Zones
	case "streams":
		return &t.Streams
	case "services":
		return &t.Services
	case "instances":
		return &t.Instances
	case "callers":
		return &t.Callers
	case "policies":
		return &t.Policies
	}
	return nil
}

// slope compares sizes.
type slope struct {
	// Of is the field of the topology that grows.
	Of string `yaml:"of"`
	// Times it is multiplied by, in order, the first is the base.
	Times []int `yaml:"times"`
	// Expect compares a metric at the last size with the same at the first.
	Expect []expectation `yaml:"expect"`
}

// step is one thing that happens, measured.
type step struct {
	// Do says what; see steps.
	Do string `yaml:"do"`
	// Times it happens, one after the other, default 20.
	Times int `yaml:"times"`
	// For is how long, of idle, churn and stall.
	For time.Duration `yaml:"for"`
	// Rate of churn, changes a second.
	Rate int `yaml:"rate"`
	// Count of what appears, or of the proxies that stall.
	Count int `yaml:"count"`
	// Expect what comes out.
	Expect []expectation `yaml:"expect"`
}

// expectation is a row of the table.
type expectation struct {
	// What it is, for people.
	What string `yaml:"what"`
	// Metric of the step.
	Metric string `yaml:"metric"`
	// Most is the budget, which may be 0; nil: for comparison.
	Most *float64 `yaml:"most"`
	// Unit of both.
	Unit string `yaml:"unit"`
}

// metrics of a step by name.
type metrics map[string]float64

// scenarios reads the files of a folder, sorted by name.
func scenarios(dir string) ([]scenario, error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return nil, err
	}
	var out []scenario
	for _, path := range paths {
		s, err := readScenario(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b scenario) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

func readScenario(path string) (scenario, error) {
	s := scenario{Name: strings.TrimSuffix(filepath.Base(path), ".yaml"), Timeout: 2 * time.Minute}
	text, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&s); err != nil {
		return s, err
	}
	if s.Topology.Streams == 0 {
		s.Topology.Zones = max(1, s.Topology.Zones)
	}
	s.Topology.Classes = max(1, s.Topology.Classes)
	for i := range s.Steps {
		st := &s.Steps[i]
		if steps()[st.Do] == nil {
			return s, fmt.Errorf("steps[%d].do: %q is none of what can be done", i, st.Do)
		}
		if st.Times == 0 {
			st.Times = 20
		}
	}
	if s.Slope != nil && (s.Topology.field(s.Slope.Of) == nil || len(s.Slope.Times) < 2) {
		return s, fmt.Errorf("slope: must be of a number of the topology, with two times or more")
	}
	return s, nil
}
