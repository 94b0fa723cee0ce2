// Package archtest holds the house in shape: who may import whom, with the
// reason beside each row, and what every package must and must not have. It is
// tests only; a failure says where a line belongs.
package archtest
