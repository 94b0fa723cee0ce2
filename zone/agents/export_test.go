package agents

// Bounds, for tests from outside.
const (
	MaxCSR     = maxCSR
	SignBurst  = signBurst
	FrameBurst = frameBurst
	MaxHeaders = maxHeaders
)
