"""Checks the locked dependencies: pip-audit for Python's, npm audit for npm's."""

import json

from scan.tool import Broken, Finding, Json, NotDone, Ran, Report, Run, repository

PIP_AUDIT = (
    ".tools/scan/bin/pip-audit --strict --require-hashes --disable-pip"
    " --progress-spinner off --format json --requirement"
)
ERROR_PREFIX = "ERROR:pip_audit._cli:"
NPM_AUDIT = "npm audit --json --package-lock-only --prefix scan/outside"
NPM_LOCK = "scan/outside/package-lock.json"


def check(run: Run) -> Report:
    """Audit every lock; raise NotDone if the advisories can't be reached."""
    locks = repository(run, "*requirements*.txt")
    findings, packages = [], 0
    for lock in locks:
        done = run(PIP_AUDIT, lock)
        try:
            audited = json.loads(done.out)["dependencies"]
        except ValueError:
            raise unaudited(run, lock, done) from None
        packages += len(audited)
        findings += [found(lock, each, flaw) for each in audited for flaw in each["vulns"]]
    return Report(f"{packages} packages of {len(locks)} locks", findings)


def unaudited(run: Run, lock: str, done: Ran) -> Exception:
    """Return the error of a failed audit: Broken if the lock also fails without advisories."""
    lines = done.err.strip().splitlines() or [f"pip-audit ended with exit code {done.code}"]
    errors = [each.removeprefix(ERROR_PREFIX) for each in lines if each.startswith(ERROR_PREFIX)]
    cause = next(iter(errors), lines[-1])
    if run(PIP_AUDIT, lock, "--dry-run").code:
        return Broken(f"{lock}: {cause}")
    return NotDone(f"not audited ({cause})")


def found(lock: str, package: Json, flaw: Json) -> Finding:
    """Return a flaw as a finding; its rule is its CVE if it has one, which all databases share."""
    names = [flaw["id"], *flaw["aliases"]]
    name = next((each for each in names if each.startswith("CVE-")), flaw["id"])
    fixed = " or ".join(flaw["fix_versions"]) or "no version yet"
    where = f"{lock}: {package['name']} {package['version']}"
    message = f"{where}: {flaw['description'][:200]} (fixed in {fixed})"
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
        if isinstance(each, dict)  # otherwise it is the name of the dependency with the advisory
    ]
    total = answer["metadata"]["dependencies"]["total"]
    return Report(f"{total} packages", [found_by_npm(each) for each in advisories])


def found_by_npm(advisory: Json) -> Finding:
    """Return an advisory as a finding; its rule is its number, GHSA-…, the end of its URL."""
    name, rule = advisory["name"], advisory["url"].rpartition("/")[2]
    text = f"{name} {advisory['range']}: {advisory['title']} ({advisory['severity']})"
    return Finding(rule, f"{NPM_LOCK} {name}", f"{NPM_LOCK}: {text}")
