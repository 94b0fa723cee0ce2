// Package helm is the chart of a Kubernetes zone, folder tombolo, for Helm and for
// those who don't use it. In flow values, as Helm takes them; out flow the same
// manifests that `helm template` makes, without a cluster and without Helm.
//
// It has the part of Helm's template language that the chart uses. A test renders
// the chart with Helm, too, and compares.
package helm

import "embed"

//go:embed all:tombolo
var chart embed.FS
