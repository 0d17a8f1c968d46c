"""Validates a CycloneDX BOM with its schema: `validate_bom.py FILE`, for scan/bom.py.

Runs on the interpreter of .tools/scan. If the BOM is wrong: exit code 1, with the error.
"""

import sys
from pathlib import Path

from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator

if __name__ == "__main__":
    validator = make_schemabased_validator(OutputFormat.JSON, SchemaVersion.V1_6)
    if wrong := validator.validate_str(Path(sys.argv[1]).read_text("utf-8")):
        sys.exit(f"{wrong.data.json_path}: {wrong.data.message}")
