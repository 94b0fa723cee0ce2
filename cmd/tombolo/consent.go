package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tombolo-mesh/tombolo/global/api"
)

// weakens is the refusal of a change that lets callers in who are refused now; nil
// for any other error.
func weakens(err error) *refusal {
	var r *refusal
	if errors.As(err, &r) && r.Type == api.WeakensType {
		return r
	}
	return nil
}

// ask says who would get in, and asks whether the change is to be made. Where
// nobody can answer, it is not.
func ask(cmd *cobra.Command, r *refusal, files []string) error {
	for _, x := range r.Invalid {
		fmt.Fprintln(cmd.ErrOrStderr(), "warning: "+x.Reason)
	}
	if slices.Contains(files, "-") || !isTerminal(cmd) {
		return &exitError{exitFailed, "the change lets callers in that are refused now, and nobody can be asked: nothing was written; --yes applies it all the same"}
	}
	fmt.Fprint(cmd.ErrOrStderr(), "Apply all the same? [y/N] ")
	line, _ := bufio.NewReader(cmd.InOrStdin()).ReadString('\n') // no answer is no
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return &exitError{exitFailed, "nothing was written"}
	}
	return nil
}

// isTerminal reports whether somebody may sit at the other end of standard input;
// from /dev/null no answer comes, and no answer is no.
func isTerminal(cmd *cobra.Command) bool {
	f, ok := cmd.InOrStdin().(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}
