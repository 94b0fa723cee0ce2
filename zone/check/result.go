package check

import "fmt"

// Status of a check.
type Status string

const (
	// OK is as it should be.
	OK Status = "ok"
	// Warn works, and may not be what was meant, or not for long.
	Warn Status = "warn"
	// Fail does not work.
	Fail Status = "fail"
	// Skip could not be looked at, or has nothing to look at.
	Skip Status = "skip"
)

// Page of the documentation with a section for each check.
const Page = "docs/checks.md"

// Result of one check.
type Result struct {
	// Name of the check, and of its section in Page.
	Name   string `json:"name"`
	Status Status `json:"status"`
	// Message says what was found.
	Message string `json:"message"`
	// Do says what to do about it; empty when nothing is to be done.
	Do string `json:"do,omitempty"`
	// Hint is where to read more; empty for OK and Skip.
	Hint string `json:"hint,omitempty"`
}

// Good is an OK result.
func Good(name, format string, args ...any) Result {
	return Result{Name: name, Status: OK, Message: fmt.Sprintf(format, args...)}
}

// Skipped is a check that was not made.
func Skipped(name, format string, args ...any) Result {
	return Result{Name: name, Status: Skip, Message: fmt.Sprintf(format, args...)}
}

// Bad is a result with something to do.
func Bad(status Status, name, do, format string, args ...any) Result {
	return Result{Name: name, Status: status, Message: fmt.Sprintf(format, args...), Do: do, Hint: Page + "#" + name}
}

// Failed reports whether any of the results is a Fail.
func Failed(results []Result) bool {
	for _, r := range results {
		if r.Status == Fail {
			return true
		}
	}
	return false
}
