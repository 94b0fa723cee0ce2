// Package effect says what the difference between two compiled proxies means for
// calls, in words of people: who may call whom, which route, which timeout, what
// can be reached.
//
// In flow two ir.Proxy of a class (or two endpoint sets, or two tables of names),
// old and new; out flow lines, each with the policies that cause it and, for
// permissions, whether it lets more callers in. The package is pure and
// deterministic.
package effect
