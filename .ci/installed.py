"""Checks an installation outside the checkout: `python -I installed.py CHECKOUT`.

Every module of ours can be imported without the extras and comes from the installation, every package is
typed, and every backend is found by its entry point.
"""

from importlib import import_module
from importlib.metadata import distribution, distributions, entry_points
from importlib.util import find_spec
from pathlib import Path
from pkgutil import walk_packages
from sys import argv

checkout = Path(argv[1]).resolve()
ours = sorted({d.name for d in distributions() if d.name.split("-")[0] == "statepath"})
packages = sorted(
    {str(f).split("/")[0] for d in ours for f in distribution(d).files or () if f.suffix == ".py"}
)

assert "statepath" in ours, ours
assert len({distribution(d).version for d in ours}) == 1, "one version for all"
for package in packages:
    spec = find_spec(package)
    assert spec is not None, package
    assert spec.origin is not None, package
    folder = Path(spec.origin).parent
    assert not folder.is_relative_to(checkout), f"{package} was imported from the checkout"
    assert (folder / "py.typed").is_file(), f"{package} is not marked as typed"
    modules = [package, *(m.name for m in walk_packages([str(folder)], f"{package}."))]
    for module in modules:
        if not module.startswith("statepath.testing") and not module.endswith("__main__"):
            import_module(module)

backends = entry_points(group="statepath.backends")
assert {"file", "memory"} < set(backends.names), backends.names
for backend in backends:
    assert callable(backend.load().connect), backend
print(f"{len(packages)} packages, backends: {' '.join(sorted(backends.names))}")
