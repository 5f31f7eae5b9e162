// Package isolation proves on a running deployment that one tenant cannot see another's data, by trying
// to. It plants canaries with two tenants: records whose texts and numbers name the tenant that they
// belong to. It learns from what the tools declare, and from what tenant B's own calls answer, how B
// reaches its canaries; that is the positive control, without which "held" would mean nothing. Then
// tenant A attacks: with B's ids and keys, with cursors, states and idempotency keys that B got,
// through caches that B has warmed and connections that B has used, with SQL and searches that try to
// step out of the tenant. Every answer, error and header that A gets is searched for what is B's.
//
// A [Proof] is one such run and gives a [Report]. A [Prober] repeats the cheap part of it inside a
// server. What is attacked is a [Target]: [Direct] from inside the process, [HTTP] over the network.
//
// Attacks are read-only, or harmless when they are refused. What a proof writes are the canaries, and
// approvals that nobody decides.
package isolation
