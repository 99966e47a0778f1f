"""A trained digit recogniser, and what the rows that need words are measured on.

``python -m bench.system WORK NUM-UTTS [RECIPE-DIR]`` makes it in a process of its own: of a recipe that has run, or of
one that it runs on a small synthetic corpus.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from bench import inputs
from kaldi_uq.io.ark import MatrixWriter, read_archive
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.files import read_json, write_json
from kaldi_uq.io.lang import Lang
from kaldi_uq.recogniser.hybrid import HybridModel

REPO = Path(__file__).resolve().parents[1]
CORPUS = "--num-train 300 --num-fit 20 --num-test 60 --num-attack 20"
MORE = 4  # utterances that are decoded, for each that is attacked: an utterance is decoded in milliseconds


class System:
    """What was made in a directory.

    Attributes:
        recipe: directory with ``data`` and ``exp``.
        model_dir, mono_dir: ``exp/dnn`` and ``exp/mono``.
        loglikes_path: archive of the scores of the utterances.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.recipe = Path(read_json(self.path / "recipe.json"))
        self.model_dir, self.mono_dir = self.recipe / "exp/dnn", self.recipe / "exp/mono"
        self.loglikes_path = self.path / "loglikes.ark"

    @property
    def lang(self) -> Lang:
        return Lang.read(self.recipe / "data/lang")

    @property
    def waves(self) -> dict[str, np.ndarray]:
        """Audio to attack: utt -> (N,) float32."""
        return dict(np.load(self.path / "waves.npz"))

    @property
    def targets(self) -> dict[str, np.ndarray]:
        """Alignments of random words with it: utt -> (T,) pdf-ids."""
        return dict(np.load(self.path / "targets.npz"))

    @property
    def loglikes(self) -> dict[str, np.ndarray]:
        """Scores of speech: utt -> (T, C) float32."""
        return {utt: scores.astype(np.float32) for utt, scores in read_archive(self.loglikes_path)}

    @property
    def transcripts(self) -> dict[str, list[int]]:
        """What is heard in it, words there are: utt -> word-ids."""
        lines = (self.path / "text.int").read_text().splitlines()
        return {line.split()[0]: [int(word) for word in line.split()[1:]] for line in lines}

    def model(self, device: str) -> HybridModel:
        return HybridModel.load(self.model_dir, device)


def run_recipe(root: Path) -> Path:
    """A copy of the digit recipe below ``root``, run on a small corpus up to its ordinary DNN."""
    recipe = root / "recipes/tidigits"
    made = shutil.ignore_patterns("data", "exp", "runs", "results")
    shutil.copytree(REPO / "recipes/tidigits", recipe, symlinks=True, ignore=made)
    for name in ("local", "steps", "utils"):
        (root / name).symlink_to(REPO / name)
    path = os.pathsep.join([str(REPO / "utils/bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    chosen = {"KALDI_UQ_ENV": f"{REPO}:{Path(sys.executable).parent / 'python3'}", "PATH": path}
    options = ("--stop-stage", "4", "--robust", "false", "--engine", "embedded", "--device", "cpu")
    subprocess.run(
        ["./run.sh", *options, "--corpus-opts", CORPUS],
        cwd=recipe,
        env={**os.environ, **chosen, "PYTHONPATH": str(REPO)},
        stdout=sys.stderr,
        check=True,
    )
    return recipe


def recordings(recipe: Path, rate: int, num_utts: int) -> dict[str, np.ndarray]:
    """Utterances of the lengths of :func:`bench.inputs.sizes`, cut one after the other from the recipe's test set."""
    from kaldi_uq.io.waves import read_waves

    os.chdir(recipe)  # the paths of its tables are relative to it
    speech = np.concatenate(list(read_waves(DataDir.read(Path("data/test")), sample_rate=rate).values()))
    ends = np.cumsum([size * rate // inputs.RATE for size in inputs.sizes(num_utts)])
    speech = np.tile(speech, int(ends[-1]) // len(speech) + 1)
    starts = np.concatenate([[0], ends[:-1]])
    return {f"utt{i:04d}": speech[a:b].copy() for i, (a, b) in enumerate(zip(starts, ends, strict=True))}


def prepare(recipe: Path, out: Path, num_utts: int) -> None:
    """Compute everything that :class:`System` has."""
    from kaldi_uq.attacks.goal import Say, align_all
    from kaldi_uq.recogniser.recogniser import Recogniser

    recipe = recipe.resolve()
    rec = Recogniser.load(recipe / "exp/dnn", engine="embedded", device="cpu", lang_dir=recipe / "data/lang")
    spoken = recordings(recipe, rec.sample_rate, MORE * num_utts)
    heard = rec.hear(spoken)
    scores = {utt: scored.scores for utt, scored in rec.score(spoken)}
    attacked = dict(list(spoken.items())[:num_utts])
    words = Say(spoken={utt: heard[utt].words or () for utt in attacked}).choose(rec, attacked, 0)
    paths = align_all(rec, words, {utt: scores[utt] for utt in attacked}, Say(), 0)
    ids = {utt: rec.lang.word_ids(h.words, where="heard") for utt, h in heard.items() if h.words}
    np.savez(out / "waves.npz", **attacked)
    np.savez(out / "targets.npz", **{utt: path.astype(np.int64) for utt, path in paths.items()})
    with MatrixWriter(out / "loglikes.ark", out / "loglikes.scp") as writer:
        for utt in spoken:
            writer.write(utt, scores[utt])
    (out / "text.int").write_text("".join(f"{utt} {' '.join(map(str, ids[utt]))}\n" for utt in sorted(ids)))
    write_json(out / "recipe.json", str(recipe))


def main() -> int:
    """Make it."""
    work, num_utts, *recipe = sys.argv[1:]
    out = Path(work).resolve()
    prepare(Path(recipe[0]) if recipe else run_recipe(out / "root"), out, int(num_utts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
