"""The models in docs/model/: each holds in all its states, each mutant is caught, model and code name the same steps.

Here the smaller form of each is run; `make model` runs the whole."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.tooling

ROOT = Path(__file__).parents[2]


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("models", ROOT / "tools" / "models.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["models"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


models = load_tool()
NAMES = models.names()
MUTANTS = [(name, mutant) for name in NAMES for mutant in models.mutants(name)]

needs_spin = pytest.mark.skipif(
    not (shutil.which("spin") and shutil.which("gcc")), reason="the models need spin and gcc (apt install spin gcc)"
)


@needs_spin
@pytest.mark.parametrize("name", NAMES)
def test_a_model_holds_in_all_its_states(name: str) -> None:
    result = models.explore(name, *models.quick_defines(name))
    assert result.errors == 0, result.output
    assert result.complete, result.output
    assert result.states > 1000


@needs_spin
@pytest.mark.parametrize(("name", "mutant"), MUTANTS)
def test_each_mutant_is_caught(name: str, mutant: str) -> None:
    assert models.explore(name, *models.quick_defines(name), f"-D{mutant}").errors > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_model_has_a_mutant(name: str) -> None:
    assert models.mutants(name)


def test_model_and_code_name_the_same_steps() -> None:
    in_models = set().union(*map(models.steps, NAMES))
    assert in_models
    assert in_models == models.steps_in_code()


def test_each_model_is_explained() -> None:
    page = (models.MODELS / "README.md").read_text()
    for name in NAMES:
        assert f"]({name}.pml)" in page
        for mutant in models.mutants(name):
            assert f"`{mutant}`" in page
