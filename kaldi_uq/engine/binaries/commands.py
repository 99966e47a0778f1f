"""What every operation of the kaldi engine shares: paths, files moved into place, options, training graphs."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kaldi_uq.engine.binaries.jobs import Jobs
from kaldi_uq.errors import EngineError, ModelFileError
from kaldi_uq.io.lang import Lang


def absolute(path: str | os.PathLike[str]) -> str:
    """The path as a job sees it wherever it runs."""
    return os.path.abspath(path)


def move(source: Path, target: Path) -> None:
    """Put a finished file into its place, whole: through a temporary name where it comes from another file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_dev != target.parent.stat().st_dev:
        near = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(source, near)
        source = near
    os.replace(source, target)


def model_files(model_dir: Path) -> tuple[str, str]:
    """Absolute paths of ``final.mdl`` and ``tree``.

    Raises:
        ModelFileError: one is missing.
    """
    for name in ("final.mdl", "tree"):
        if not (Path(model_dir) / name).is_file():
            raise ModelFileError(f"{Path(model_dir) / name}: no such file; steps/train_mono.sh makes it")
    return absolute(Path(model_dir) / "final.mdl"), absolute(Path(model_dir) / "tree")


def compile_graphs(jobs: Jobs, lang: Lang, model: str, tree: str, transcripts: str, graphs: Path) -> list[str]:
    """The command that writes the training graphs of transcripts, without transition probabilities."""
    disambig = absolute(lang.path / "phones/disambig.int")
    lexicon = absolute(lang.path / "L.fst")
    option = f"--read-disambig-syms={disambig}"
    return jobs.command("compile-train-graphs", option, tree, model, lexicon, transcripts, f"ark:{graphs}")


def align_options(scales: tuple[float, float, float], beam: float, retry_beam: float) -> list[str]:
    """Options of Kaldi's aligners; scales of acoustics, transitions and self-loops."""
    names = ("acoustic", "transition", "self-loop")
    options = [f"--{name}-scale={scale:.9g}" for name, scale in zip(names, scales, strict=True)]
    return [*options, f"--beam={beam:g}", f"--retry-beam={retry_beam if retry_beam > beam else 0:g}"]


@contextlib.contextmanager
def spelled(jobs: Jobs, lang: Lang, transcripts: Mapping[str, Sequence[int]]) -> Iterator[None]:
    """Around jobs that compile training graphs: Kaldi's program ends in a crash at a word without a pronunciation.

    Raises:
        EngineError: the jobs failed; if it was for such a word, the message has the text.
    """
    try:
        yield
    except EngineError:
        arcs = (line.split() for line in jobs.output("fstprint", lang.path / "L.fst").splitlines())
        words = {int(fields[3]) for fields in arcs if len(fields) > 3}
        for text in transcripts.values():
            if not set(text) <= words:
                names = " ".join(lang.id_to_word.get(word, str(word)) for word in text)
                raise EngineError(
                    f"{lang.path / 'L.fst'}: no path for the text {names!r}: each word must be in the lexicon"
                ) from None
        raise
