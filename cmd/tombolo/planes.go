package main

import "github.com/spf13/cobra"

// planes are the commands that serve.
func planes() []*cobra.Command {
	return []*cobra.Command{globalCommand(), zoneCommand(), migrateCommand(), devCommand()}
}
