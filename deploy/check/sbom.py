"""Checks that SBOMs hold to CycloneDX's schema and name what was linked."""

import json
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

for path in sys.argv[1:]:
    with open(path, encoding="utf-8") as f:
        text = f.read()
    if fault := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        sys.exit(f"{path}: {fault}")
    bom = json.loads(text)
    names = {c["name"]: c.get("version") for c in bom["components"]}
    for name in ("std", "github.com/modelcontextprotocol/go-sdk", "github.com/cedar-policy/cedar-go"):
        if not names.get(name):
            sys.exit(f"{path}: {name} is missing")
    print(f"{path} names {len(names)} components")
print(f"result: {len(sys.argv) - 1} SBOMs hold to CycloneDX 1.6")
