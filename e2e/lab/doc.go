// Package lab is a laboratory on one Linux machine: hosts that are network
// namespaces, zones that are bridges, routes that can be cut, real processes on
// the hosts and traffic that never pauses. It needs root.
//
// In flow a layout of zones and hosts, out flow dialers, processes and counts of
// what passed and what was denied. Namespaces have no names and no files: they
// vanish with the process that made them, however it ends.
package lab
