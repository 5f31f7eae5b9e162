// Package atlas holds the words that every part of Atlas shares: a [Call] made by a
// [Principal] for a [Tool], the [Handler] that answers it with a [Result] or an [Error],
// and the [Stage] that wraps a handler with one concern.
//
// The package imports the standard library only, does no I/O, starts no goroutine and reads
// no clock. A type belongs here when two or more parts name it in what they export.
// ARCHITECTURE.md tells how the parts fit together.
package atlas
