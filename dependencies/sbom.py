"""Write the software bill of materials of the server, in CycloneDX: all packages that it runs with, and its packages of weights.

`python -m dependencies.sbom FILE`. cyclonedx-py describes the whole environment; what only tests and tools need is left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name as canonical

from dependencies.check import ROOT, needed


def main(arguments: list[str]) -> int:
    [file] = arguments
    runtime = {canonical(requirement.name) for _, requirement, _ in needed(ROOT, only_runtime=True)} | {"topwork"}
    bom = of_runtime(environment(), runtime)
    bom["components"] += weights()
    missing = sorted(runtime - {canonical(one["name"]) for one in bom["components"]})
    if missing:
        print(f"sbom: {', '.join(missing)} is not installed: run `make install`", file=sys.stderr)
        return 1
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(json.dumps(bom, indent=1) + "\n", "utf-8")
    print(f"sbom: {len(bom['components'])} components in {file}")
    return 0


def environment() -> dict[str, Any]:
    """Return what cyclonedx-py says of all that is installed here."""
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "all.json"
        # Its own validation takes most of a minute for the licenses of 200 packages.
        options = ["--pyproject", "pyproject.toml", "--output-reproducible", "--no-validate", "--of", "JSON", "-o", str(made)]
        subprocess.run([sys.executable, "-m", "cyclonedx_py", "environment", sys.executable, *options], cwd=ROOT, check=True)
        found: dict[str, Any] = json.loads(made.read_text("utf-8"))
        return found


def of_runtime(bom: dict[str, Any], names: set[str]) -> dict[str, Any]:
    """Keep the components of these names, once each, without the paths of this machine, and what depends on what among them."""
    kept = {canonical(one["name"]): one for one in bom["components"] if canonical(one["name"]) in names}
    for component in kept.values():
        references = component.pop("externalReferences", [])
        public = [one for one in references if not one["url"].startswith("file:")]
        component.update({"externalReferences": public} if public else {})
    refs = {one["bom-ref"] for one in kept.values()} | {bom["metadata"]["component"]["bom-ref"]}
    depends = [
        {"ref": one["ref"], "dependsOn": [ref for ref in one.get("dependsOn", []) if ref in refs]}
        for one in bom["dependencies"]
        if one["ref"] in refs
    ]
    return {**bom, "components": [kept[name] for name in sorted(kept)], "dependencies": depends}


def weights() -> list[dict[str, Any]]:
    """The packages of weights that `topwork pull` downloads for encoders of the catalog, each with the SHA-256 that is pinned."""
    from topwork_server.plugin_api.plugin_registry import PluginRegistry
    from topwork_server.plugin_api.sources import SourceUri

    found = {}
    for registered in PluginRegistry.load().encoders().values():
        source = SourceUri.parse(registered.spec.source)
        if source.scheme == "package":
            found[source.location] = {
                "bom-ref": f"{source.location}=={source.revision}",
                "type": "machine-learning-model",
                "name": source.location,
                "version": source.revision,
                "purl": f"pkg:pypi/{canonical(source.location)}@{source.revision}",
                "hashes": [{"alg": "SHA-256", "content": registered.spec.sha256}],
            }
    return [found[name] for name in sorted(found)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
