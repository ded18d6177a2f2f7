"""What this Python environment is made of, as a software bill of materials: CycloneDX 1.6 as JSON."""

from __future__ import annotations

from importlib.metadata import Distribution, distributions
from typing import TYPE_CHECKING

from pythia_quant.core import machine
from pythia_quant.core.extras import refuse_without

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

# ruff: noqa: PLC0415 - an extra

_US = "pythia-quant"
_NEEDS = {"cyclonedx": "cyclonedx-python-lib", "packaging": "packaging"}


def make_sbom() -> str:
    """Return the bill of materials of this environment: every installed package, its license, and what it needs.

    Raises:
        ArgumentError: the library is not installed.
    """
    refuse_without(_NEEDS, "sbom")
    from cyclonedx.model.bom import Bom
    from cyclonedx.output.json import JsonV1Dot6

    packages = {_plain(package.name): package for package in reversed(list(distributions())) if package.name}
    components = {name: _component(package) for name, package in sorted(packages.items())}
    bom = Bom(components=[component for name, component in components.items() if name != _US])
    bom.metadata.component = components.get(_US)
    for name, package in packages.items():
        needed = sorted(_needs(package, name) & packages.keys() - {name})
        bom.register_dependency(components[name], [components[other] for other in needed])
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def _component(package: Distribution) -> Component:
    from cyclonedx.contrib.license.factories import LicenseFactory
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    name, version = _plain(package.name), package.version
    (expression,) = package.metadata.get_all("License-Expression") or [""]
    kind = ComponentType.APPLICATION if name == _US else ComponentType.LIBRARY
    return Component(
        name=package.name,
        version=machine.tool_version().split()[-1] if name == _US else version,
        type=kind,
        purl=PackageURL("pypi", name=name, version=version),
        bom_ref=f"{name}=={version}",
        licenses=[LicenseFactory().make_from_string(expression)] if expression else [],
    )


def _needs(package: Distribution, name: str) -> set[str]:
    """Return what a package needs here, without what only its extras need; of ours, also those of its extras."""
    from packaging.requirements import InvalidRequirement, Requirement

    extras = ["", *(package.metadata.get_all("Provides-Extra") or [])] if name == _US else [""]
    needed = set()
    for text in package.requires or []:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:  # of an old package, which pip reads in its own way
            continue
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
            needed.add(_plain(requirement.name))
    return needed


def _plain(name: str) -> str:
    from packaging.utils import canonicalize_name

    return str(canonicalize_name(name))
