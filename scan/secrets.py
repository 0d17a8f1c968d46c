"""The repository: detect-secrets, on every file that is, or would be, committed."""

import json

from scan.tool import Finding, Json, Report, Run, repository

# --no-verify: it asks no network. Without the filter it takes no exceptions from comments:
# accepted.yaml is the one place for them.
DETECT = (
    ".tools/scan/bin/detect-secrets scan --all-files --no-verify"
    " --disable-filter detect_secrets.filters.allowlist.is_line_allowlisted"
)
LOCKS = ":!*requirements*.txt"  # they hold hashes of packages, and take a tenth of the time


def check(run: Run) -> Report:
    files = repository(run, "*", LOCKS)
    done = run(DETECT, *files)
    if done.code:
        raise done.broken()
    results = json.loads(done.out)["results"].values()
    findings = [found(each) for of_file in results for each in of_file]
    return Report(f"{len(files)} files", findings)


def found(result: Json) -> Finding:
    """It goes by its file and the beginning of its SHA-1, so another secret is another finding."""
    file, kind = result["filename"], result["type"]
    place = f"{file} {result['hashed_secret'][:8]}"
    return Finding(kind, place, f"{file}:{result['line_number']}: looks like a secret: {kind}")
