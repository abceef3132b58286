"""Changes to a module of the service in all of its processes, as the module is loaded."""

import os
from pathlib import Path

_SITECUSTOMIZE = """
import sys
from importlib.machinery import PathFinder

{change}

class Hook:
    def find_spec(self, name, path=None, target=None):
        if name != {module!r}:
            return None
        spec = PathFinder.find_spec(name, path, target)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            change(module)
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Hook())
"""


def hooked(folder: Path, module: str, change: str) -> dict[str, str]:
    """The environment in which `change`, code with a function `change(module)`, takes hold.

    Python runs it in every process that starts with the folder on its path.
    """
    hook = folder / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(_SITECUSTOMIZE.format(module=module, change=change))
    paths = [str(hook), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
