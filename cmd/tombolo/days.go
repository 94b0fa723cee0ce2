package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// maxDays keeps a duration from overflowing.
const maxDays = 36_500

// days is a duration that can be given in days, as "30d".
type days time.Duration

// String implements pflag.Value.
func (d *days) String() string {
	if whole := time.Duration(*d); whole > 0 && whole%(24*time.Hour) == 0 {
		return strconv.Itoa(int(whole/(24*time.Hour))) + "d"
	}
	return time.Duration(*d).String()
}

// Set implements pflag.Value.
func (d *days) Set(text string) error {
	if n, ok := strings.CutSuffix(text, "d"); ok {
		if whole, err := strconv.Atoi(n); err == nil && whole > 0 && whole <= maxDays {
			*d = days(whole) * days(24*time.Hour)
			return nil
		}
	}
	v, err := time.ParseDuration(text)
	if err != nil || v <= 0 {
		return fmt.Errorf("must be a duration such as 30d or 12h, not %q", text)
	}
	*d = days(v)
	return nil
}

// Type implements pflag.Value.
func (d *days) Type() string { return "duration" }
