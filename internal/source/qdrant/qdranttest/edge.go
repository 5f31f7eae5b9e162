package qdranttest

import _ "embed"

// Edge is the program edge.py: Qdrant's REST API on Qdrant's own engine, with Python. Package
// internal/testenv/servers runs it.
//
//go:embed edge.py
var Edge string
