package cni

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
)

// saved is what a single plugin's configuration is renamed to, for runtimes to
// ignore it, while its list is in place.
const saved = ".before-tombolo"

// configs are the network configurations that a runtime considers, in its order.
func configs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		switch filepath.Ext(e.Name()) {
		case ".conf", ".conflist", ".json":
			if !e.IsDir() {
				out = append(out, filepath.Join(dir, e.Name()))
			}
		}
	}
	sort.Strings(out)
	return out, nil
}

// chain puts the plugin's entry into the first configuration of dir; changed
// says whether it was not so already.
func chain(dir string, entry []byte) (path string, changed bool, _ error) {
	files, err := configs(dir)
	if err != nil {
		return "", false, err
	}
	if len(files) == 0 {
		return "", false, fmt.Errorf("no network configuration in %s yet", dir)
	}
	path = files[0]
	was, err := os.ReadFile(path)
	if err != nil {
		return path, false, err
	}
	list, single := was, ""
	if filepath.Ext(path) != ".conflist" {
		if _, _, err := pluginsOf(was); err != nil {
			single = path
			if list, err = listOf(was); err != nil {
				return path, false, fmt.Errorf("%s: %w", path, err)
			}
			path = strings.TrimSuffix(path, filepath.Ext(path)) + ".conflist"
		}
	}
	want, err := chained(list, entry)
	if err != nil {
		return path, false, fmt.Errorf("%s: %w", path, err)
	}
	if bytes.Equal(want, was) {
		return path, false, nil
	}
	like := path
	if single != "" {
		like = single
	}
	if err := replace(path, like, want, 0o600); err != nil {
		return path, false, err
	}
	if single != "" {
		if err := os.Rename(single, single+saved); err != nil {
			return path, false, err
		}
	}
	return path, true, nil
}

// unchain takes the plugin out of every configuration of dir.
func unchain(dir string) error {
	files, err := configs(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range files {
		was, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		list, err := unchained(was)
		if err != nil || bytes.Equal(list, was) {
			continue // somebody else's business
		}
		single := ""
		for _, extension := range []string{".conf", ".json"} {
			if candidate := strings.TrimSuffix(path, ".conflist") + extension; exists(candidate + saved) {
				single = candidate
			}
		}
		switch {
		case single == "":
			errs = append(errs, replace(path, path, list, 0o600))
		case exists(single): // its owner wrote it again
			errs = append(errs, os.Remove(single+saved), os.Remove(path))
		default:
			errs = append(errs, os.Rename(single+saved, single), os.Remove(path))
		}
	}
	return errors.Join(errs...)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// replace writes a file by renaming, so that a reader sees all or nothing of it,
// with the mode and owner of the file like, if there is one, else mode.
func replace(path, like string, content []byte, mode fs.FileMode) error {
	uid, gid := -1, -1
	if info, err := os.Stat(like); err == nil {
		mode = info.Mode().Perm()
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			uid, gid = int(s.Uid), int(s.Gid)
		}
	}
	// The extension is none that a runtime reads.
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".tombolo-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil && (uid > 0 || gid > 0) {
		err = f.Chown(uid, gid)
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
