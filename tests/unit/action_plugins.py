"""Action plugins as Ansible loads them: by their path."""

import importlib.util
from types import ModuleType

from testbed.paths import CHECKOUT


def load_action_plugin(role: str, name: str) -> ModuleType:
    """The module of a role's plugin."""
    spec = importlib.util.spec_from_file_location(name, CHECKOUT / f"roles/{role}/action_plugins/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
