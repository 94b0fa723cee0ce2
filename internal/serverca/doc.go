// Package serverca keeps the certificate that a control plane serves with.
//
// In flow a directory, names and addresses; out flow a *tls.Config whose
// certificate is always current. Either the package runs an authority of its
// own, made at first start and kept in the directory, or it serves the pair of
// files that the operator provides and picks up their replacement.
package serverca
