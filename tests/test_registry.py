"""Registries: a part has a name of its own, is found without an import, and a mistake lists the names there are."""

from __future__ import annotations

import subprocess
import sys

import pytest

from kaldi_uq.registry import Registry
from tests.recipe import LIMIT_S, REPO


@pytest.fixture
def fruit() -> Registry[type]:
    registry: Registry[type] = Registry("fruit")
    for name in ("pear", "apple"):
        registry.register(name)(type(name, (), {}))
    return registry


def test_part_is_found_by_its_name_and_comes_back_from_the_decorator_as_it_is(fruit: Registry[type]) -> None:
    @fruit.register("plum")
    class Plum:
        pass

    assert fruit.get("plum") is Plum
    assert fruit.names() == ("apple", "pear", "plum")


def test_unknown_name_lists_the_names_there_are(fruit: Registry[type]) -> None:
    with pytest.raises(ValueError, match=r"^there is no fruit 'nut'; there are apple, pear$"):
        fruit.get("nut")
    with pytest.raises(ValueError, match="there is no fruit") as error:
        fruit.get("x" * 9999)
    assert len(str(error.value)) < 120


def test_name_that_is_taken_is_refused_and_stays_what_it_was(fruit: Registry[type]) -> None:
    apple = fruit.get("apple")

    class Other:
        pass

    with pytest.raises(ValueError, match="there is already a fruit 'apple': choose another name"):
        fruit.register("apple")(Other)
    assert fruit.get("apple") is apple


def test_same_part_again_replaces_the_first_as_where_a_module_is_imported_twice(fruit: Registry[type]) -> None:
    def define() -> type:
        @fruit.register("fig")
        class Fig:
            pass

        return Fig

    first, second = define(), define()
    assert first is not second
    assert fruit.get("fig") is second


@pytest.mark.long
@pytest.mark.parametrize(
    "module, registry, names",
    [
        ("attack", "ATTACKS", "adaptive black_box consistent pgd psychoacoustic"),
        ("constraints", "CONSTRAINTS", "l2 linf masking snr"),
    ],
)
def test_parts_of_the_package_are_there_though_nobody_imported_them(module: str, registry: str, names: str) -> None:
    code = f"""
from kaldi_uq.attacks.{module} import {registry} as registry
print(*registry.names())
print(all(registry.get(name) for name in registry.names()))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=True, cwd=REPO
    )
    assert done.stdout.splitlines() == [names, "True"]
