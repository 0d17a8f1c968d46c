"""Checks the repository for secrets with detect-secrets: committed files and new ones."""

import json

from scan.tool import Finding, Json, Report, Run, repository

# --no-verify: no network. Without the filter, comments can't allow a secret: accepted.yaml is the
# one place for exceptions.
DETECT = (
    ".tools/scan/bin/detect-secrets scan --all-files --no-verify"
    " --disable-filter detect_secrets.filters.allowlist.is_line_allowlisted"
)
LOCKS = ":!*requirements*.txt"  # package hashes look like secrets, and take a tenth of the time


def check(run: Run) -> Report:
    files = repository(run, "*", LOCKS)
    done = run(DETECT, *files)
    if done.code:
        raise done.broken()
    results = json.loads(done.out)["results"].values()
    findings = [found(each) for of_file in results for each in of_file]
    return Report(f"{len(files)} files", findings)


def found(result: Json) -> Finding:
    """Return a result as a finding; its place is its file and the first digits of its SHA-1."""
    file, kind = result["filename"], result["type"]
    place = f"{file} {result['hashed_secret'][:8]}"
    return Finding(kind, place, f"{file}:{result['line_number']}: looks like a secret: {kind}")
