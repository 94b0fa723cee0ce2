package cni

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// span is where a JSON value lies in a file.
type span struct{ from, to int }

// pluginsOf finds the plugins of a configuration list: their type and place.
func pluginsOf(list []byte) (types []string, places []span, _ error) {
	if !json.Valid(list) {
		return nil, nil, errors.New("not JSON")
	}
	d := json.NewDecoder(bytes.NewReader(list))
	if token, err := d.Token(); err != nil || token != json.Delim('{') {
		return nil, nil, errors.New("not a JSON object")
	}
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return nil, nil, err
		}
		if key != "plugins" {
			var skipped json.RawMessage
			if err := d.Decode(&skipped); err != nil {
				return nil, nil, err
			}
			continue
		}
		if token, err := d.Token(); err != nil || token != json.Delim('[') {
			return nil, nil, errors.New("plugins is not a list")
		}
		for d.More() {
			var plugin json.RawMessage
			if err := d.Decode(&plugin); err != nil {
				return nil, nil, err
			}
			var named struct {
				Type string `json:"type"`
			}
			if err := json.Unmarshal(plugin, &named); err != nil {
				return nil, nil, fmt.Errorf("plugins: %w", err)
			}
			to := int(d.InputOffset())
			types, places = append(types, named.Type), append(places, span{to - len(plugin), to})
		}
		return types, places, nil
	}
	return nil, nil, errors.New("no plugins")
}

// chained returns a configuration list with entry as its last plugin. Every
// other byte stays as it is, so that unchained undoes exactly this.
func chained(list, entry []byte) ([]byte, error) {
	rest, err := unchained(list)
	if err != nil {
		return nil, err
	}
	_, places, err := pluginsOf(rest)
	if err != nil {
		return nil, err
	}
	if len(places) == 0 {
		return nil, errors.New("plugins is empty: nothing to chain to")
	}
	at := places[len(places)-1].to
	return bytes.Join([][]byte{rest[:at], []byte(",\n    "), entry, rest[at:]}, nil), nil
}

// unchained returns a configuration list without the plugin.
func unchained(list []byte) ([]byte, error) {
	for {
		types, places, err := pluginsOf(list)
		if err != nil {
			return nil, err
		}
		at := -1
		for i, name := range types {
			if name == Name {
				at = i
			}
		}
		switch {
		case at < 0:
			return list, nil
		case at > 0: // with the comma before it
			list = bytes.Join([][]byte{list[:places[at-1].to], list[places[at].to:]}, nil)
		case len(places) > 1: // with the comma after it
			list = bytes.Join([][]byte{list[:places[0].from], list[places[1].from:]}, nil)
		default:
			list = bytes.Join([][]byte{list[:places[0].from], list[places[0].to:]}, nil)
		}
	}
}

// listOf makes a configuration list of a single plugin's configuration.
func listOf(single []byte) ([]byte, error) {
	var head struct {
		CNIVersion string `json:"cniVersion"`
		Name       string `json:"name"`
		Type       string `json:"type"`
	}
	if err := json.Unmarshal(single, &head); err != nil {
		return nil, err
	}
	if head.Type == "" || head.Name == "" {
		return nil, errors.New("no name or no type: not a plugin's configuration")
	}
	return json.MarshalIndent(map[string]any{
		"cniVersion": head.CNIVersion,
		"name":       head.Name,
		"plugins":    []json.RawMessage{single},
	}, "", "  ")
}
