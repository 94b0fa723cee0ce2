package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
)

// An inbound takes its permission, and what else it answers with, as extensions. An
// Envoy that refuses one of them and has none from before is live all the same, and
// answers every call with an error that another instance would not make.
const extensionStats = "extension_config_discovery."

// maxExtensionStats bounds what is read of them.
const maxExtensionStats = 4 << 20

// callable asks whether others may be sent to this Envoy. Once they may, they may until
// it ends: what it refuses later leaves what it has.
func (a *admin) callable(ctx context.Context) error {
	if a.called.Load() {
		return nil
	}
	response, err := a.do(ctx, http.MethodGet, `/stats?filter=^extension_config_discovery\..*\.update_(success|rejected)$`)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	refused, err := refusedExtensions(io.LimitReader(response.Body, maxExtensionStats))
	if err != nil {
		return err
	}
	if len(refused) > 0 {
		return fmt.Errorf("envoy refuses %s, and has none from before: it would answer calls with errors; the zone says why, on the policy", strings.Join(refused, ", "))
	}
	a.called.Store(true)
	return nil
}

// refusedExtensions are those of inbounds that were refused and never taken.
func refusedExtensions(stats io.Reader) ([]string, error) {
	taken, refused := map[string]bool{}, map[string]bool{}
	lines := bufio.NewScanner(stats)
	for lines.Scan() {
		stat, value, ok := strings.Cut(lines.Text(), ": ")
		rest, is := strings.CutPrefix(stat, extensionStats)
		_, rest, named := strings.Cut(rest, ".") // behind the kind of filter
		at := strings.LastIndexByte(rest, '.')
		if !ok || !is || !named || at < 0 || value == "0" || !ofInbound(rest[:at]) {
			continue
		}
		switch rest[at+1:] {
		case "update_success":
			taken[rest[:at]] = true
		case "update_rejected":
			refused[rest[:at]] = true
		}
	}
	if err := lines.Err(); err != nil {
		return nil, errors.Join(errors.New("envoy admin: statistics cannot be read"), err)
	}
	var out []string
	for name := range refused {
		if !taken[name] {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out, nil
}

// ofInbound says by a name of the zone's that an extension is one of an inbound: its
// permission, or where its connections go. Without one of an outbound the application
// calls in vain, but is called.
func ofInbound(name string) bool {
	return strings.HasPrefix(name, "rbac_") || strings.HasPrefix(name, "self_inbound_dp_")
}
