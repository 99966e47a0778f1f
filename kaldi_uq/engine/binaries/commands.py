"""What the operations of the kaldi engine share: files moved into place, arguments of aligners and their graphs."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from kaldi_uq.engine.base import Transcripts
from kaldi_uq.engine.binaries.jobs import Jobs
from kaldi_uq.engine.checks import no_path
from kaldi_uq.engine.files import existing_files, open_lexicon
from kaldi_uq.errors import EngineError
from kaldi_uq.io.lang import Lang


def move(source: Path, target: Path) -> None:
    """Put a finished file into its place, whole: through a temporary name where it comes from another file system."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.stat().st_dev != target.parent.stat().st_dev:
        near = target.with_name(f".{target.name}.tmp")
        shutil.copyfile(source, near)
        source = near
    os.replace(source, target)


def lexicon_files(lang: Lang) -> tuple[str, str]:
    """Absolute paths of the lexicon, checked, and of its disambiguation symbols."""
    (disambig,) = existing_files(lang.path, "phones/disambig.int")
    return open_lexicon(lang).path, disambig


def graph_arguments(
    lexicon_and_disambig: tuple[str, str], model: str, tree: str, transcripts: str, graphs: Path
) -> list[str]:
    """Arguments of ``compile-train-graphs``, which writes training graphs without transition probabilities.

    Args:
        lexicon_and_disambig: what :func:`lexicon_files` gives, once for all jobs.
        model, tree: the files.
        transcripts: specifier of the word-ids.
        graphs: archive to write.
    """
    lexicon, disambig = lexicon_and_disambig
    return [f"--read-disambig-syms={disambig}", tree, model, lexicon, transcripts, f"ark:{graphs}"]


def align_options(scales: tuple[float, float, float], beam: float, retry_beam: float) -> list[str]:
    """Options of Kaldi's aligners; scales of acoustics, transitions and self-loops."""
    names = ("acoustic", "transition", "self-loop")
    options = [f"--{name}-scale={scale:.9g}" for name, scale in zip(names, scales, strict=True)]
    return [*options, f"--beam={beam:g}", f"--retry-beam={retry_beam if retry_beam > beam else 0:g}"]


@contextlib.contextmanager
def spelled(jobs: Jobs, lang: Lang, transcripts: Transcripts) -> Iterator[None]:
    """A context for jobs that compile training graphs: Kaldi's program crashes at a word without a pronunciation.

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
                raise no_path(lang, text) from None
        raise
