// Package config holds the default configuration: what the program runs with when it is given no
// file, and the place to start from. The files are meant to be read and copied.
package config

import "embed"

// FS holds atlas.yaml, policy.yaml, http_allowlist.yaml and tools/*.yaml.
//
//go:embed atlas.yaml policy.yaml http_allowlist.yaml tools/*.yaml
var FS embed.FS
