"""Say what pip-audit found in the pinned versions: for `make audit`.

``python tools/audit.py .venv/share/audit/report.json``

pip-audit ends with 0 also where its database cannot be reached, because it takes the packages for private ones.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def verdict(report: Path) -> tuple[str, int]:
    """Return what to print of pip-audit's JSON, and the exit code: 0 if all packages were looked up and are well."""
    try:
        packages = json.loads(report.read_text())["dependencies"]
    except (OSError, ValueError, KeyError, TypeError):
        return "pip-audit could not reach its database, so nothing was audited", 2
    unknown = [one["name"] for one in packages if "skip_reason" in one]
    if len(unknown) == len(packages):
        return f"pip-audit's database knows none of the {len(packages)} packages from here, so nothing was audited", 2
    lines = [
        f"{one['name']} {one['version']}: {weakness['id']}, mended in {', '.join(weakness['fix_versions']) or 'none'}"
        for one in packages
        for weakness in one.get("vulns", [])
    ]
    if unknown:
        lines.append(f"not audited, since the database does not know them: {', '.join(unknown)}")
    return "\n".join(lines) or f"no known weaknesses in {len(packages)} packages", 1 if lines else 0


if __name__ == "__main__":
    text, code = verdict(Path(sys.argv[1]))
    print(text)
    sys.exit(code)
