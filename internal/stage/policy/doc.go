// Package policy decides whether a call may be made: deny by default, and a deny beats every
// allow. The rules are YAML in the shape below, compiled to Cedar (https://www.cedarpolicy.com);
// hiding tools, rate limits and human approval are left to other stages.
//
//	rules:
//	  - id: support-reads-crm              # unique
//	    description: for people
//	    subjects: [role:support_copilot]   # role:<name>, user:<subject> or *
//	    actions: [tool:crm:read]           # scopes of tools
//	    resources: ["tenant:*/crm/*"]      # tenant:<tenant>/<source>/<item>
//	    effect: allow                      # or deny; allow if left out
//	    conditions: {read_only: true}      # all must hold; the table is in conditions.go
//	    when: context.args.limit <= 100    # a Cedar expression
//
// # Which rules match
//
// A rule matches when one of its subjects, one of its actions and one of its resources match, all
// its conditions hold and its when is true. Each scope of the tool is decided for itself and all
// must be allowed; a tool without scopes is never allowed. The caller's token must hold the scopes
// as well. A rule that cannot be decided (its when ends in an error, a fact that it needs could not
// be found out, an argument that it reads has no Cedar form) denies if it is a deny rule and is
// passed over if it is an allow rule.
//
// # Globs
//
// In a pattern * stands for any run of characters, also none, inside one segment: it never crosses
// ':' in an action, '/' in a resource, or either in a subject. A last segment that is exactly *
// stands for one or more segments. So tool:*:read matches tool:crm:read; tenant:*/* matches
// everything of every tenant; tenant:acme/* everything of acme; and tenant:acme*/crm/* the source
// crm of acme, of acme2 and of acme-eu: write the whole name unless that is meant. There is no
// other wildcard and no escape. A resource with a "." or ".." segment is never allowed.
//
// # Names in when
//
//	principal   entity: subject, tenant, delegator (Strings, empty if none), roles, scopes (Sets)
//	action      Action::"tool:crm:read", the scope that is being decided
//	resource    Resource::"tenant:acme/crm/crm_query"
//	context.tenant  String: the tenant of the call
//	context.tool    name, level, source, reads, effects (Strings), read_only, destructive (Booleans)
//	context.args    Record: the arguments, defaults filled in
//	context.facts   sql (String), tables, columns, pii (Sets of Strings, lower case)
//
// An argument of JSON Schema type number is a decimal, one of type integer a Long; without a type a
// whole number is a Long and any other a decimal. Arrays are Sets, objects Records, and null is
// left out. An argument that a tool does not require must be asked for first: context.args has
// limit && context.args.limit > 100. The expression is checked against the input schemas of the
// tools that the rule's actions match.
package policy
