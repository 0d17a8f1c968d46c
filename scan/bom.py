"""The bill of materials of the layer, in CycloneDX: what runs in production beside the SDK.

Names, versions and hashes are the lock's. Licenses, descriptions and what needs what are of the
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
    """Write it, and hold it against CycloneDX's schema."""
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
    """What cyclonedx-py knows of a lock, or of an environment."""
    done = run(CYCLONEDX.format(kind, source))
    if done.code:
        raise done.broken()
    bom: Json = json.loads(done.out)
    return bom


def merged(direct: list[str], locked: Json, installed: Json) -> Json:
    """The lock's components, with what their installed packages say of themselves."""
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
    """What each of the layer's components needs of the others."""
    names = {each["bom-ref"]: each["purl"] for each in installed["components"]}
    for each in installed["dependencies"]:
        if (purl := names.get(each["ref"])) in purls:
            of_package = {names[ref] for ref in each.get("dependsOn", [])}
            yield {"ref": purl, "dependsOn": sorted(of_package & purls)}


def described(component: Json, package: Json) -> Json:
    """A component of the lock: what the package is, instead of its line there."""
    about = {key: package[key] for key in ("description", "licenses") if key in package}
    if "licenses" not in about and (name := license_name(component["name"])):
        about["licenses"] = [{"license": {"name": name, "acknowledgement": "declared"}}]
    rest = {key: value for key, value in component.items() if key != "description"}
    return rest | about | {"bom-ref": component["purl"]}


def license_name(package: str) -> str | None:
    """What it calls its license; cyclonedx-py leaves out what is no name of SPDX's."""
    try:
        about: Any = metadata(package)
    except PackageNotFoundError:
        return None
    name: str | None = about["License"]
    return name
