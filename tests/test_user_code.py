"""Code that a user names: it is imported once, and whatever is wrong with it is one line with its place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kaldi_uq.errors import UsageError
from kaldi_uq.user_code import load_object, mistakes_named, split_name
from tests.recipe import LIMIT_S


def write(folder: Path, text: str, name: str = "net.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_object_comes_out_of_the_file_which_is_imported_once(tmp_path: Path) -> None:
    file = write(
        tmp_path, "from pathlib import Path\nvalues = []\ndef add(x):\n    values.append(x)\n    return values\n"
    )
    add = load_object(f"{file}:add")
    add(1)
    assert load_object(f"{file}:add") is add
    assert load_object(f"{file}:values") == [1]
    write(tmp_path, "values = 'changed'\n")
    assert load_object(f"{file}:values") == "changed"


def test_files_of_the_same_name_are_different_modules_and_see_their_neighbours(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        write(tmp_path / str(number), f"VALUE = {number}\n", name=f"neighbour{number}_of_net.py")
        write(tmp_path / str(number), f"from neighbour{number}_of_net import VALUE\ndef get():\n    return VALUE\n")
    first, second = (load_object(f"{tmp_path / str(number)}/net.py:get") for number in (1, 2))
    assert (first(), second()) == (1, 2)


def test_dataclass_in_the_file_works(tmp_path: Path) -> None:
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n"
    text += "@dataclass\nclass Net:\n    a: int = 3\n"
    assert load_object(f"{write(tmp_path, text)}:Net")().a == 3


@pytest.mark.parametrize(
    "text, message",
    [
        ("net", "expected FILE.py:NAME, got 'net'"),
        ("net.py", "expected FILE.py:NAME, got 'net.py'"),
        ("net.py:", "expected FILE.py:NAME, got 'net.py:'"),
        ("net.py:a b", "expected FILE.py:NAME, got 'net.py:a b'"),
        ("net.txt:a", "expected FILE.py:NAME, got 'net.txt:a'"),
        ("nowhere.py:a", "nowhere.py: no such file"),
    ],
)
def test_name_of_another_form_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "a = 1\n")
    write(tmp_path, "a = 1\n", name="net.txt")
    with pytest.raises(UsageError) as error:
        split_name(text)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "x = 1\n\ny = undefined\n",
            "the import failed with NameError: name 'undefined' is not defined (net.py, line 3)",
        ),
        (
            "import no_such_module\n",
            "failed with ModuleNotFoundError: No module named 'no_such_module' (net.py, line 1)",
        ),
        ("def f(:\n    pass\n", "the import failed with SyntaxError: "),
        ("raise RuntimeError('one\\ntwo')\n", "the import failed with RuntimeError: one two (net.py, line 1)"),
        ("def other():\n    pass\nclass Net:\n    pass\n", "there is no 'tdnn' in it; it defines other, Net"),
    ],
)
def test_file_that_cannot_be_used_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path, text)
    for _ in range(2):  # a failed import is not taken for a good one
        with pytest.raises(UsageError) as error:
            load_object(f"{file}:tdnn")
        assert str(error.value).startswith(f"{file}: ")
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_mistake_in_a_call_names_the_line_and_keeps_the_traceback(tmp_path: Path) -> None:
    function = load_object(f"{write(tmp_path, 'def f(x):' + chr(10) + '    return 1 / x' + chr(10))}:f")
    with pytest.raises(UsageError) as error, mistakes_named("f(0)"):
        function(0)
    assert str(error.value) == "f(0) failed with ZeroDivisionError: division by zero (net.py, line 2)"
    assert isinstance(error.value.__cause__, ZeroDivisionError)
    with pytest.raises(UsageError, match=r"^said already$"), mistakes_named("f(0)"):
        raise UsageError("said already")


def test_loading_needs_no_torch(tmp_path: Path) -> None:
    file = write(tmp_path, "value = 7\n")
    code = (
        "import sys; from kaldi_uq.user_code import load_object; "
        f"print(load_object({file + ':value'!r}), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=True)
    assert done.stdout.split() == ["7", "False"]
