"""Writes the layer's bill of materials in CycloneDX: the packages in production beside the SDK.

Names, versions and hashes come from the lock. Licenses, descriptions and dependencies come from the
packages in .venv, which has the layer's versions. The same lock and packages give the same bytes.
"""

import json
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

from scan.tool import BUILD, ROOT, Json, Report, Run

DIRECT, LOCK = "requirements/layer.in", "layers/telemetry/requirements.txt"
BOM = BUILD / "layer.cdx.json"
CYCLONEDX = (
    ".tools/scan/bin/cyclonedx-py {} {} --spec-version 1.6"
    " --output-reproducible --no-validate --output-format JSON"
)
VALIDATE = ".tools/scan/bin/python scan/outside/validate_bom.py"
LAYER = {"type": "library", "bom-ref": "TelemetryLayer", "name": "TelemetryLayer"}


def check(run: Run) -> Report:
    """Write the bill, and validate it with CycloneDX's schema."""
    direct = re.findall(r"^[\w.-]+(?===)", (ROOT / DIRECT).read_text("utf-8"), re.MULTILINE)
    locked, installed = listed(run, "requirements", LOCK), listed(run, "environment", ".venv")
    bom = merged(direct, locked, installed)
    (ROOT / BOM).parent.mkdir(parents=True, exist_ok=True)
    (ROOT / BOM).write_text(json.dumps(bom, indent=1, sort_keys=True) + "\n", "utf-8")
    done = run(VALIDATE, BOM)
    if done.code:
        raise done.broken()
    return Report(f"{len(bom['components'])} components in {BOM}")


def listed(run: Run, kind: str, source: str) -> Json:
    """Return cyclonedx-py's bill of a lock, or of an environment."""
    done = run(CYCLONEDX.format(kind, source))
    if done.code:
        raise done.broken()
    bom: Json = json.loads(done.out)
    return bom


def merged(direct: list[str], locked: Json, installed: Json) -> Json:
    """Return the lock's components, with the metadata of their installed packages."""
    packages = {each["purl"]: each for each in installed["components"]}
    components = [described(each, packages.get(each["purl"], {})) for each in locked["components"]]
    components.sort(key=lambda each: str(each["purl"]))
    layer = [each["purl"] for each in components if each["name"] in direct]
    needs = needed({each["purl"] for each in components}, installed)
    return {
        **locked,
        "metadata": {**locked["metadata"], "component": LAYER},
        "components": components,
        "dependencies": [{"ref": LAYER["bom-ref"], "dependsOn": layer}, *needs],
    }


def needed(purls: set[str], installed: Json) -> Iterator[Json]:
    """Yield the dependencies of each of the layer's components on the others."""
    names = {each["bom-ref"]: each["purl"] for each in installed["components"]}
    for each in installed["dependencies"]:
        if (purl := names.get(each["ref"])) in purls:
            of_package = {names[ref] for ref in each.get("dependsOn", [])}
            yield {"ref": purl, "dependsOn": sorted(of_package & purls)}


def described(component: Json, package: Json) -> Json:
    """Return a component of the lock with its package's description and licenses."""
    about = {key: package[key] for key in ("description", "licenses") if key in package}
    if "licenses" not in about and (name := license_name(component["name"])):
        about["licenses"] = [{"license": {"name": name, "acknowledgement": "declared"}}]
    rest = {key: value for key, value in component.items() if key != "description"}
    return rest | about | {"bom-ref": component["purl"]}


def license_name(package: str) -> str | None:
    """Return a package's own name of its license; cyclonedx-py leaves out names not in SPDX."""
    try:
        about: Any = metadata(package)
    except PackageNotFoundError:
        return None
    name: str | None = about["License"]
    return name
