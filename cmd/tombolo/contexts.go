package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tombolo-mesh/tombolo/global"
)

// maxConfig bounds the file of contexts.
const maxConfig = 1 << 20

// contexts is the file of contexts.
type contexts struct {
	// Current context's name.
	Current string `json:"current,omitempty"`
	// Contexts by name, sorted.
	Contexts []remote `json:"contexts"`
}

// remote is one context: a global control plane and who one is there.
type remote struct {
	Name      string `json:"name"`
	Server    string `json:"server"`
	CA        string `json:"ca,omitempty"`
	TokenFile string `json:"tokenFile"`
}

// configPath is TOMBOLO_CONFIG or ~/.config/tombolo/config.yaml.
func configPath() (string, error) {
	if p := os.Getenv("TOMBOLO_CONFIG"); p != "" {
		return p, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("no home directory, set TOMBOLO_CONFIG: %w", err)
	}
	return filepath.Join(dir, "tombolo", "config.yaml"), nil
}

func loadContexts() (contexts, error) {
	var c contexts
	path, err := configPath()
	if err != nil {
		return c, err
	}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read contexts: %w", err)
	}
	if len(data) > maxConfig {
		return c, fmt.Errorf("read contexts: %s has more than %d bytes", path, maxConfig)
	}
	if err := yaml.UnmarshalStrict(data, &c); err != nil {
		return c, fmt.Errorf("read contexts: %s: %w", path, err)
	}
	return c, nil
}

func (c contexts) save() error {
	path, err := configPath()
	if err != nil {
		return err
	}
	slices.SortFunc(c.Contexts, func(a, b remote) int { return strings.Compare(a.Name, b.Name) })
	data, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	f, err := os.CreateTemp(dir, ".config.*") // mode 0600
	if err != nil {
		return fmt.Errorf("write contexts: %w", err)
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // best effort, the error below counts
		return fmt.Errorf("write contexts: %w", err)
	}
	return nil
}

func (c contexts) index(name string) int {
	return slices.IndexFunc(c.Contexts, func(r remote) bool { return r.Name == name })
}

// pick finds the context to use.
func (c contexts) pick(name string) (remote, error) {
	if name == "" {
		name = c.Current
	}
	if name == "" {
		return remote{}, &exitError{exitUsage, "no context: make one with `tombolo config set-context NAME --from-data-dir DIR`"}
	}
	i := c.index(name)
	if i < 0 {
		return remote{}, &exitError{exitUsage, fmt.Sprintf("there is no context %q; `tombolo config get-contexts` lists them", name)}
	}
	return c.Contexts[i], nil
}

func configCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Keep contexts: where global is, and who you are there",
		Long:  "Keeps contexts in ~/.config/tombolo/config.yaml, or in the file that TOMBOLO_CONFIG names.",
		Example: `  tombolo config set-context prod --from-data-dir /var/lib/tombolo
  tombolo config use-context prod`,
	}
	cmd.AddCommand(setContextCommand(), getContextsCommand(), useContextCommand(), deleteContextCommand(), currentContextCommand(), viewCommand())
	return cmd
}

func setContextCommand() *cobra.Command {
	var r remote
	var dataDir string
	var use bool
	cmd := &cobra.Command{
		Use:   "set-context NAME",
		Short: "Create or change a context; the first one becomes current",
		Example: `  tombolo config set-context dev --from-data-dir /var/lib/tombolo
  tombolo config set-context prod --server https://global.example.com:5682 --ca ca.pem --token-file token`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := loadContexts()
			if err != nil {
				return err
			}
			next := remote{Name: args[0]}
			if i := c.index(args[0]); i >= 0 {
				next = c.Contexts[i]
				c.Contexts = slices.Delete(c.Contexts, i, i+1)
			}
			if dataDir != "" {
				if err := next.fromDataDir(dataDir); err != nil {
					return err
				}
			}
			if err := next.override(r); err != nil {
				return err
			}
			c.Contexts = append(c.Contexts, next)
			if use || c.Current == "" {
				c.Current = next.Name
			}
			return c.save()
		},
	}
	cmd.Flags().StringVar(&r.Server, "server", "", "URL of the API, https://host:port")
	cmd.Flags().StringVar(&r.CA, "ca", "", "file with the certificates to trust; default the system's")
	cmd.Flags().StringVar(&r.TokenFile, "token-file", "", "file with the user token")
	cmd.Flags().StringVar(&dataDir, "from-data-dir", "", "take all of it from the data directory of a global on this machine")
	cmd.Flags().BoolVar(&use, "use", false, "make it current")
	return cmd
}

func (r *remote) fromDataDir(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("--from-data-dir: %w", err)
	}
	address, err := os.ReadFile(filepath.Join(dir, global.AddressFile))
	if err != nil {
		return fmt.Errorf("--from-data-dir: was global started with it? %w", err)
	}
	r.Server = strings.TrimSpace(string(address))
	r.CA, r.TokenFile = filepath.Join(dir, global.CAFile), filepath.Join(dir, global.AdminTokenFile)
	return nil
}

// override takes what was given and checks the whole.
func (r *remote) override(given remote) error {
	if given.Server != "" {
		r.Server = strings.TrimSuffix(given.Server, "/")
	}
	for _, f := range []struct {
		to   *string
		from string
	}{{&r.CA, given.CA}, {&r.TokenFile, given.TokenFile}} {
		if f.from == "" {
			continue
		}
		path, err := filepath.Abs(f.from)
		if err != nil {
			return err
		}
		if _, err := os.Stat(path); err != nil {
			return err
		}
		*f.to = path
	}
	u, err := url.Parse(r.Server)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return &exitError{exitUsage, fmt.Sprintf("--server must be https://host:port, not %q", r.Server)}
	}
	if r.TokenFile == "" {
		return &exitError{exitUsage, "--token-file is required"}
	}
	return nil
}

func getContextsCommand() *cobra.Command {
	var o format
	cmd := &cobra.Command{Use: "get-contexts", Short: "List the contexts", Example: "  tombolo config get-contexts", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := loadContexts()
		if err != nil {
			return err
		}
		return o.print(cmd.OutOrStdout(), c, func() error {
			rows := [][]string{{"CURRENT", "NAME", "SERVER"}}
			for _, r := range c.Contexts {
				mark := ""
				if r.Name == c.Current {
					mark = "*"
				}
				rows = append(rows, []string{mark, r.Name, r.Server})
			}
			return table(cmd.OutOrStdout(), rows)
		})
	}}
	outputFlag(cmd, &o)
	return cmd
}

func useContextCommand() *cobra.Command {
	return &cobra.Command{Use: "use-context NAME", Short: "Make a context current", Example: "  tombolo config use-context prod", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := loadContexts()
		if err != nil {
			return err
		}
		if _, err := c.pick(args[0]); err != nil {
			return err
		}
		c.Current = args[0]
		return c.save()
	}}
}

func deleteContextCommand() *cobra.Command {
	return &cobra.Command{Use: "delete-context NAME", Aliases: []string{"delete"}, Short: "Forget a context", Example: "  tombolo config delete-context dev", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		c, err := loadContexts()
		if err != nil {
			return err
		}
		if _, err := c.pick(args[0]); err != nil {
			return err
		}
		i := c.index(args[0])
		c.Contexts = slices.Delete(c.Contexts, i, i+1)
		if c.Current == args[0] {
			c.Current = ""
		}
		return c.save()
	}}
}

func currentContextCommand() *cobra.Command {
	var o format
	cmd := &cobra.Command{Use: "current-context", Aliases: []string{"current"}, Short: "Print the current context's name", Example: "  tombolo config current-context", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := loadContexts()
		if err != nil {
			return err
		}
		r, err := c.pick("")
		if err != nil {
			return err
		}
		return o.print(cmd.OutOrStdout(), r, func() error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), r.Name)
			return err
		})
	}}
	outputFlag(cmd, &o)
	return cmd
}

func viewCommand() *cobra.Command {
	return &cobra.Command{Use: "view", Short: "Print the file of contexts; it holds no token", Example: "  tombolo config view", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := loadContexts()
		if err != nil {
			return err
		}
		data, err := yaml.Marshal(c)
		if err != nil {
			return err
		}
		_, err = cmd.OutOrStdout().Write(data)
		return err
	}}
}
