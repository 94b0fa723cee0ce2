package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// format is how a command prints its result: for people, or for programs.
type format string

const (
	asTable format = "table"
	asYAML  format = "yaml"
	asJSON  format = "json"
)

func outputFlag(cmd *cobra.Command, o *format) {
	*o = asTable
	cmd.Flags().VarP(o, "output", "o", "table, yaml or json")
}

// String implements pflag.Value.
func (o *format) String() string { return string(*o) }

// Set implements pflag.Value.
func (o *format) Set(text string) error {
	if !slices.Contains([]format{asTable, asYAML, asJSON}, format(text)) {
		return fmt.Errorf("must be table, yaml or json, not %q", text)
	}
	*o = format(text)
	return nil
}

// Type implements pflag.Value.
func (o *format) Type() string { return "format" }

// print writes a result: v for programs, with the names of its JSON form, or what
// people writes.
func (o format) print(w io.Writer, v any, people func() error) error {
	if o == asTable {
		return people()
	}
	data, err := json.MarshalIndent(v, "", "  ")
	if err == nil && o == asYAML {
		data, err = yaml.JSONToYAML(data)
	} else {
		data = append(data, '\n')
	}
	if err != nil {
		return fmt.Errorf("print: %w", err)
	}
	_, err = w.Write(data)
	return err
}

func table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}
