// Package schema describes the kinds of package mesh to people and programs. In
// flow the list of kinds with their Go types and doc comments, out flow JSON
// Schemas, an OpenAPI 3.1 document and reference pages. Everything is derived;
// nothing here knows one kind from another.
package schema
