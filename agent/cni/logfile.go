package cni

import (
	"os"
	"path/filepath"
)

// maxLog is the size at which a log becomes its predecessor, in bytes.
const maxLog = 1 << 20

// openLog opens a log to append to, nil for no path.
func openLog(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	if info, err := os.Stat(path); err == nil && info.Size() >= maxLog {
		// Two plugins may do this at once: then a line of history is lost, no more.
		_ = os.Rename(path, path+".1")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
}
