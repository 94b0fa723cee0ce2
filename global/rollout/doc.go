// Package rollout is what a staged change is: documents, the zones that get them
// in order, the guards that watch, and how far it came. In flow what the store
// holds, out flows what each zone sees in place of it. It does no I/O.
package rollout
