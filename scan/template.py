"""Checks the templates with checkov, after the SAM translator has expanded them."""

import json
import shutil
from collections import Counter
from pathlib import Path

import yaml
from samtranslator.model.exceptions import InvalidDocumentException

from scan.tool import BUILD, ROOT, Broken, Finding, Json, Report, Run, repository
from tests.template.expanded import expanded

EXPANDED = BUILD / "expanded"
# --skip-download: without the vendor's texts. The checks need no network.
CHECKOV = (
    ".tools/checkov/bin/checkov --framework cloudformation --skip-download"
    " --compact --quiet --output json --file"
)


def expand(run: Run) -> dict[str, Path]:
    """Expand each template of the repository; return the expanded files by name."""
    names = repository(run, "template.yaml", "stacks/*.yaml")
    shutil.rmtree(ROOT / EXPANDED, ignore_errors=True)
    files = {name: EXPANDED / f"{name}.json" for name in names}
    for name, file in files.items():
        (ROOT / file).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / file).write_text(json.dumps(as_sam_does(name), indent=1), "utf-8")
    return files


def as_sam_does(name: str) -> Json:
    try:
        return expanded(ROOT / name)
    except InvalidDocumentException as refused:
        causes = "\n".join(f"{name}: {each.message}" for each in refused.causes)
        raise Broken(causes or f"{name}: {refused}") from None
    except yaml.YAMLError as error:
        raise Broken(f"{name}: {error}") from None


def resources(templates: dict[str, Path]) -> dict[str, dict[str, Json]]:
    """Return the resources of each template, by logical id."""
    return {
        name: json.loads((ROOT / path).read_text("utf-8"))["Resources"]
        for name, path in templates.items()
    }


def places(templates: dict[str, Path]) -> dict[tuple[str, str], str]:
    """Return each resource's place in findings, by (template, logical id).

    The place is the logical id, which stays when a resource moves to another template. If several
    templates have the same id, the template's name precedes it.
    """
    both = [(name, each) for name, some in resources(templates).items() for each in some]
    times = Counter(each for _, each in both)
    return {(name, each): each if times[each] == 1 else f"{name} {each}" for name, each in both}


def check(run: Run, templates: dict[str, Path]) -> Report:
    files = {str((ROOT / path).resolve()): name for name, path in templates.items()}
    done = run(CHECKOV, *files)
    try:
        answer = json.loads(done.out)
        summary, failed = answer["summary"], answer["results"]["failed_checks"]
    except (ValueError, LookupError, TypeError):
        raise done.broken() from None
    if unread := summary["parsing_errors"]:
        raise Broken(f"checkov couldn't read {unread} of the templates: {done.err.strip()}")
    at = places(templates)
    findings = [found(each, files[each["file_abs_path"]], at) for each in failed]
    return Report(f"{summary['resource_count']} resources", findings)


def found(failed: Json, template: str, at: dict[tuple[str, str], str]) -> Finding:
    logical_id = failed["resource"].rpartition(".")[2]
    keys = ", ".join(failed["check_result"].get("evaluated_keys") or [])
    message = f"{template}: {failed['resource']}: {failed['check_name']}"
    message += f" ({keys})" if keys else ""
    return Finding(failed["check_id"], at[template, logical_id], message)
