package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/global/api"
	"github.com/tombolo-mesh/tombolo/global/sync"
	"github.com/tombolo-mesh/tombolo/mesh"
)

// defaultWait is how long --wait waits.
const defaultWait = 60 * time.Second

func applyCommand() *cobra.Command {
	var files []string
	var dry, yes bool
	var wait time.Duration
	var o format
	var stages stagesOptions
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIR|-",
		Short: "Create or update resources: all of what is given, or none",
		Long: `Sends all documents as one change: all are applied, or none. With --wait it returns
when every affected proxy of every zone has taken the change. Meanwhile it shows for each
zone how many are done, behind or have rejected it, and at the end the time to the last
proxy. When the change lets callers in that are refused now, it says who, and asks; where
nobody can be asked, in a script or with -f -, it then writes nothing and exits 1, unless
--yes was given. Exits 3 with Envoy's words when a proxy rejects, 4 when a zone is offline or
behind at the end of the time.

With --stages zones get it one after another: the next when the proxies of those before have
it and the pause is over. When a guard of --abort-on is breached, every zone gets back what
it had: rejected>N and gone>N count proxies, success<P the calls of each service that the
change has a say in, in percent. With success<P calls are counted first, for as long as the
pause and a minute at most: a service that was below P already has to get worse. Follow it with tombolo rollout status NAME.`,
		Example: `  tombolo apply -f policies/ --wait
  tombolo apply -f retry.yaml --stages east,west --pause 5m --abort-on 'rejected>0,success<99'
  tombolo apply -f permission.yaml --wait=5m --yes
  cat mesh.yaml | tombolo apply -f - --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			sources, err := readSources(files, cmd.InOrStdin())
			if err != nil {
				return err
			}
			body, places, err := bundle(sources)
			if err != nil {
				return err
			}
			c, err := dial(cmd)
			if err != nil {
				return err
			}
			query := url.Values{"weakening": {"refuse"}}
			if dry {
				query.Set("dryRun", "true")
			}
			if dry || yes {
				query.Set("weakening", "warn")
			}
			if stages.set(cmd) {
				return stages.apply(cmd, c, query, body, places, files, o, wait)
			}
			var out api.Written
			began := time.Now()
			write := func() error {
				return c.call(cmd.Context(), http.MethodPut, "/resources", query, "application/yaml", body, &out)
			}
			err = write()
			if weak := weakens(err); weak != nil {
				if err := ask(cmd, weak, files); err != nil {
					return err
				}
				query.Set("weakening", "accept")
				began = time.Now()
				err = write()
			}
			var r *refusal
			if errors.As(err, &r) {
				return &exitError{exitFailed, refused(r, places)}
			}
			if err != nil {
				return err
			}
			return finish(cmd, c, written{Written: out, DryRun: dry}, o, wait, began)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file, folder, or - for standard input; may be repeated")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "let global check everything, and write nothing")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "apply without asking what lets callers in that are refused now; it is said all the same")
	stages.flags(cmd)
	waitFlag(cmd, &wait)
	outputFlag(cmd, &o)
	return cmd
}

func waitFlag(cmd *cobra.Command, wait *time.Duration) {
	cmd.Flags().DurationVar(wait, "wait", 0, "wait until every affected proxy has it (--wait is 60s)")
	cmd.Flags().Lookup("wait").NoOptDefVal = defaultWait.String()
}

// written is what a write did, and with --wait how far it came.
type written struct {
	api.Written
	// DryRun: nothing was written.
	DryRun bool `json:"dryRun,omitempty"`
	// Deleted resource, of a delete.
	Deleted string `json:"deleted,omitempty"`
	// Status when the wait ended; absent without one.
	Status *sync.ChangeStatus `json:"status,omitempty"`
}

// show says it to people.
func (w written) show(to io.Writer) error {
	for _, x := range w.Results {
		fmt.Fprintf(to, "%s %s\n", label(mesh.Key{Kind: x.Kind, Mesh: x.Mesh, Name: x.Name}), x.Action)
	}
	if w.Deleted != "" {
		fmt.Fprintf(to, "%s deleted\n", w.Deleted)
	}
	text := fmt.Sprintf("revision %d", w.Revision)
	switch {
	case w.DryRun:
		text = "nothing was written (dry run)"
	case w.First == 0:
		text = "nothing changed"
	}
	_, err := fmt.Fprintln(to, text)
	return err
}

// finish prints what was written and waits if it was asked to. Programs get one
// document, at the end.
func finish(cmd *cobra.Command, c *client, out written, o format, wait time.Duration, began time.Time) error {
	for _, w := range out.Warnings {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning: "+w)
	}
	if wait < 0 {
		return &exitError{exitUsage, "--wait must not be negative"}
	}
	if wait == 0 || out.DryRun {
		return o.print(cmd.OutOrStdout(), out, func() error { return out.show(cmd.OutOrStdout()) })
	}
	first := out.First
	if first == 0 {
		first = out.Revision
	}
	if o == asTable {
		if err := out.show(cmd.OutOrStdout()); err != nil {
			return err
		}
		_, err := await(cmd, c, first, out.Revision, o, wait, began)
		return err
	}
	status, failed := await(cmd, c, first, out.Revision, o, wait, began)
	out.Status = &status
	return errors.Join(o.print(cmd.OutOrStdout(), out, nil), failed)
}

func deleteCommand() *cobra.Command {
	var meshName string
	var wait time.Duration
	var o format
	cmd := &cobra.Command{
		Use:     "delete KIND NAME",
		Short:   "Delete a resource; a Mesh with everything in it",
		Example: "  tombolo delete meshtrafficpermission deny-web --wait\n  tombolo delete mt web -m payments",
		Args:    cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := kindOf(args[0])
			if err != nil {
				return err
			}
			c, err := dial(cmd)
			if err != nil {
				return err
			}
			var out api.Written
			began := time.Now()
			if err := c.call(cmd.Context(), http.MethodDelete, pathOf(k, meshName, args[1]), nil, "", nil, &out); err != nil {
				return err
			}
			key := mesh.Key{Kind: k.Name, Name: args[1]}
			if k.Scope == mesh.ScopeMesh {
				key.Mesh = meshName
			}
			return finish(cmd, c, written{Written: out, Deleted: label(key)}, o, wait, began)
		},
	}
	meshFlag(cmd, &meshName)
	waitFlag(cmd, &wait)
	outputFlag(cmd, &o)
	return cmd
}

func meshFlag(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVarP(name, "mesh", "m", mesh.DefaultMesh, "mesh of the resource")
}

// kindOf finds a kind by its name, plural or short form, in any case.
func kindOf(noun string) (mesh.Kind, error) {
	if k, ok := mesh.KindByNoun(strings.ToLower(noun)); ok {
		return k, nil
	}
	var known []string
	for _, k := range mesh.Kinds() {
		name := k.Plural()
		if k.Short != "" {
			name += " (" + k.Short + ")"
		}
		known = append(known, name)
	}
	return mesh.Kind{}, &exitError{exitUsage, fmt.Sprintf("unknown kind %q; known are %s", noun, strings.Join(known, ", "))}
}

// pathOf is the path of a resource, or of the list when name is empty.
func pathOf(k mesh.Kind, meshName, name string) string {
	path := "/" + k.Plural()
	if k.Scope == mesh.ScopeMesh && meshName != "" {
		path = "/meshes/" + url.PathEscape(meshName) + path
	}
	if name != "" {
		path += "/" + url.PathEscape(name)
	}
	return path
}
