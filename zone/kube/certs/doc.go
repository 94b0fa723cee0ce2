// Package certs keeps the certificate that a zone serves with on Kubernetes,
// for its webhooks and for its agents, shared by all instances of the zone.
//
// In flow the name of a Secret, and the names that clients use; out flow a
// *tls.Config whose certificate is always current and the authorities that
// clients must trust. The Secret holds the authority and the certificate.
// Whichever instance first finds one of them missing or old renews it, with the
// Secret's resourceVersion as the guard; the others take over what it wrote.
//
// An authority lives ten years. After half of its life a successor is made and
// published beside it, after three quarters the successor signs: a client that
// was given the authorities at any time goes on for two and a half years at
// least, so that pods carry them in their spec. When the Secret is deleted, a
// running instance writes what it has, and no client notices.
//
// Rights needed, by a Role in the system namespace: secrets create; secrets get,
// list, watch, update with resourceNames of the one Secret.
package certs
