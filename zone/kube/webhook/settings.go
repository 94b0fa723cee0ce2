package webhook

import (
	"errors"
	"fmt"
	"os"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// Bounds of the settings.
const (
	maxSettings  = 256 << 10
	maxWait      = 600
	settingsText = "injection settings"
)

// settings is the file of an installation: ConfigMap tombolo-zone, injection.yaml.
type settings struct {
	Image            string                      `json:"image"`
	ImagePullPolicy  corev1.PullPolicy           `json:"imagePullPolicy"`
	CNI              bool                        `json:"cni"`
	DNS              *bool                       `json:"dns"`
	Resources        corev1.ResourceRequirements `json:"resources"`
	WaitSeconds      int                         `json:"waitTimeoutSeconds"`
	ContainerPatches []string                    `json:"containerPatches"`
}

// ReadSettings reads the part of a Config that an installation decides from a
// YAML file. What the zone knows by itself (addresses, authorities, patches) is
// for the caller to add. Unknown fields are errors. The file may be read again at
// any time: a ConfigMap is replaced as a whole.
func ReadSettings(file string) (Config, error) {
	info, err := os.Stat(file)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", settingsText, err)
	}
	if info.Size() > maxSettings {
		return Config{}, fmt.Errorf("%s: %s must have at most %d bytes, not %d", settingsText, file, maxSettings, info.Size())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", settingsText, err)
	}
	c, err := parseSettings(text)
	if err != nil {
		return Config{}, fmt.Errorf("%s %s: %w", settingsText, file, err)
	}
	return c, nil
}

func parseSettings(text []byte) (Config, error) {
	var s settings
	if err := yaml.UnmarshalStrict(text, &s); err != nil {
		return Config{}, err
	}
	var errs []error
	if s.Image == "" {
		errs = append(errs, errors.New("image is required"))
	}
	switch s.ImagePullPolicy {
	case "", corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever:
	default:
		errs = append(errs, fmt.Errorf("imagePullPolicy must be Always, IfNotPresent or Never, not %q", s.ImagePullPolicy))
	}
	if s.WaitSeconds < 0 || s.WaitSeconds > maxWait {
		errs = append(errs, fmt.Errorf("waitTimeoutSeconds must be 0 to %d, not %d", maxWait, s.WaitSeconds))
	}
	if len(s.ContainerPatches) > maxPatches {
		errs = append(errs, fmt.Errorf("containerPatches must have at most %d names, not %d", maxPatches, len(s.ContainerPatches)))
	}
	return Config{Image: s.Image, PullPolicy: s.ImagePullPolicy, CNI: s.CNI, WithoutDNS: s.DNS != nil && !*s.DNS, Resources: s.Resources,
		WaitTimeout: s.WaitSeconds, Patches: s.ContainerPatches}, errors.Join(errs...)
}
