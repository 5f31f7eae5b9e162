//go:build unix

package servers

import (
	"context"
	"syscall"
)

// A Kind is one kind of server: how to get it, start it, and see that it serves. The kinds that tests
// know are in [Table]; any other program that is started and stopped alike can be described by one.
type Kind struct {
	Name  string // in one word
	About string // version and what is special about it
	Env   string // the variable that tells tests where it is

	// Files is what it is made of; the zero value: nothing that has to be fetched.
	Files Package
	// Before is the name of the kind that it stands before and cannot be without.
	Before string
	// Unprivileged marks a server that refuses to be run by root; it is then run as another user.
	Unprivileged bool
	// Stop is the signal that makes it end in order without waiting for its clients; default SIGTERM.
	Stop syscall.Signal

	// Prepare makes the folder ready, once, before the first start. May be nil.
	Prepare func(context.Context, Place) error
	// Configure writes what the server reads at its start, before every start. May be nil.
	Configure func(Place) error
	// Command says how it is run.
	Command func(Place) Command
	// URL says where it is when it listens on the port of 127.0.0.1.
	URL func(port int) string
	// Ready asks it once whether it serves.
	Ready func(context.Context, Place) error
}

// A Place is where one server lives.
type Place struct {
	Dir    string   // a folder of its own, which it may write
	Files  string   // the folder of its files; see [Kind.Files]
	Port   int      // on 127.0.0.1
	Behind string   // host and port of the server that it stands before
	Args   []string // more arguments, from [Options.Args]

	// Run runs a program to its end, as the user that the server will run as.
	Run func(context.Context, Command) error
	// Write writes a file of the folder, which that user may read and write.
	Write func(name, text string) error
}

// A Command is a program with its arguments. Env is laid over a small environment: PATH, HOME, TMPDIR
// and the C locale; servers do not inherit what the environment of this process holds.
type Command struct {
	Path string
	Args []string
	Env  []string
}
