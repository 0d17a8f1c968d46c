"""The locked dependencies: pip-audit for Python's, npm for its own."""

import json

from scan.tool import Broken, Finding, Json, NotDone, Ran, Report, Run, repository

PIP_AUDIT = (
    ".tools/scan/bin/pip-audit --strict --require-hashes --disable-pip"
    " --progress-spinner off --format json --requirement"
)
SAID = "ERROR:pip_audit._cli:"
NPM_AUDIT = "npm audit --json --package-lock-only --prefix scan/outside"
NPM_LOCK = "scan/outside/package-lock.json"


def check(run: Run) -> Report:
    """Of every lock; the first for which the advisories can't be reached ends it."""
    locks = repository(run, "*requirements*.txt")
    findings, packages = [], 0
    for lock in locks:
        done = run(PIP_AUDIT, lock)
        try:
            audited = json.loads(done.out)["dependencies"]
        except ValueError:
            raise unaudited(run, lock, done) from None
        packages += len(audited)
        findings += [found(lock, each, what) for each in audited for what in each["vulns"]]
    return Report(f"{packages} packages of {len(locks)} locks", findings)


def unaudited(run: Run, lock: str, done: Ran) -> Exception:
    """Why a lock has no audit: itself, where it fails without advisories too; else them."""
    lines = done.err.strip().splitlines() or [f"pip-audit ended with exit code {done.code}"]
    cause = next((each.removeprefix(SAID) for each in lines if each.startswith(SAID)), lines[-1])
    if run(PIP_AUDIT, lock, "--dry-run").code:
        return Broken(f"{lock}: {cause}")
    return NotDone(f"not audited ({cause})")


def found(lock: str, package: Json, what: Json) -> Finding:
    """It goes by its CVE where it has one: databases number the same one differently."""
    names = [what["id"], *what["aliases"]]
    name = next((each for each in names if each.startswith("CVE-")), what["id"])
    mended = " or ".join(what["fix_versions"]) or "no version yet"
    where = f"{lock}: {package['name']} {package['version']}"
    message = f"{where}: {what['description'][:200]} (mended in {mended})"
    return Finding(name, f"{lock} {package['name']}", message)


def check_npm(run: Run, *, has_npm: bool) -> Report:
    if not has_npm:
        raise NotDone("not audited (npm not found)")
    done = run(NPM_AUDIT)
    try:
        answer = json.loads(done.out)
    except ValueError:
        raise done.broken() from None
    if "vulnerabilities" not in answer:
        raise NotDone(f"not audited ({answer.get('message') or done.err.strip()})")
    advisories = [
        each
        for package in answer["vulnerabilities"].values()
        for each in package["via"]
        if isinstance(each, dict)  # else it is the name of the dependency that has one
    ]
    total = answer["metadata"]["dependencies"]["total"]
    return Report(f"{total} packages", [found_by_npm(each) for each in advisories])


def found_by_npm(advisory: Json) -> Finding:
    """It goes by the end of its address: GHSA-…, its number."""
    name, rule = advisory["name"], advisory["url"].rpartition("/")[2]
    what = f"{name} {advisory['range']}: {advisory['title']} ({advisory['severity']})"
    return Finding(rule, f"{NPM_LOCK} {name}", f"{NPM_LOCK}: {what}")
