"""Ask for known vulnerabilities of the tested set, by pip-audit. 0: none; 1: some; 2: nothing, or not all, could be asked.

pip-audit alone calls a set clean of which it could ask nothing. `--vulnerability-service osv` asks another service.
"""

from __future__ import annotations

import json
import subprocess
import sys

from dependencies.check import LOCK, ROOT

#: Packages that are named in a message.
SHOWN = 10


def main(arguments: list[str]) -> int:
    options = ["--requirement", str(LOCK), "--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", *options, *arguments]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        why = done.stderr.strip().splitlines() or ["it wrote nothing"]
        return not_asked(f"nothing was audited: {why[-1]}")
    skipped = [one["name"] for one in packages if "skip_reason" in one]
    if skipped and len(skipped) == len(packages):
        return not_asked(f"nothing was audited: the service knows none of {len(packages)} packages, not even of public ones")
    found = [(one, bug) for one in packages for bug in one.get("vulns", ())]
    for package, bug in found:
        fixed = f"; fixed in {', '.join(bug['fix_versions'])}" if bug["fix_versions"] else ""
        print(f"audit: {package['name']} {package['version']}: {bug['id']}{fixed}")
    if skipped:
        more = f" and {len(skipped) - SHOWN} more" if len(skipped) > SHOWN else ""
        return not_asked(f"{len(skipped)} of {len(packages)} packages were not audited: {', '.join(skipped[:SHOWN])}{more}")
    print(f"audit: {len(packages)} packages, {len(found)} known vulnerabilities")
    return 1 if found else 0


def not_asked(why: str) -> int:
    print(f"audit: {why}", file=sys.stderr)
    print("audit: run it where the advisory service can be reached (pypi.org's JSON, or osv.dev by", file=sys.stderr)
    print("       `python -m dependencies.audit --vulnerability-service osv`); this is no clean result", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
