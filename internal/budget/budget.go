// Package budget carries what a test has measured to whoever prints it.
//
// In flow rows, each with what it may be at most, out flows a file of them, a line of
// JSON each, which the environment names. It judges nothing.
package budget

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Variable of the environment that names the file.
const Variable = "TOMBOLO_BUDGETS"

// Row is what was measured, once.
type Row struct {
	// What it is, for people.
	What string `json:"what"`
	// Got is the number, in the unit.
	Got float64 `json:"got"`
	// Most that it may be, 0 too; nil: for comparison.
	Most *float64 `json:"most,omitempty"`
	// Unit of both; empty for a number of things.
	Unit string `json:"unit,omitempty"`
}

// Tell appends a row to the file that the environment names; without one it does nothing.
func Tell(r Row) error {
	path := os.Getenv(Variable)
	if path == "" {
		return nil
	}
	line, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("%s: %w", r.What, err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// Read returns the rows of a file in order; none if there is no file.
func Read(path string) ([]Row, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Row
	for line := range bytes.Lines(text) {
		var r Row
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", path, len(out)+1, err)
		}
		out = append(out, r)
	}
	return out, nil
}
