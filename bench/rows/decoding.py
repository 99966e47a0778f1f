"""Kaldi's search: the embedded engine beside Kaldi's programs, and beside a plain search in NumPy."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measure import Case, Facts, Row, Setting

if TYPE_CHECKING:
    from bench.system import System

Work = Callable[[], Facts]
WATCH = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""
NUM_ITERS, TOTGAUSS = 20, 400  # of monophone training


def system(setting: Setting) -> System:
    from bench.system import System

    return System(setting.system_dir)


def result(values: object) -> str:
    """A short digest, by which the table says whether two cases found the same."""
    return hashlib.sha256(repr(values).encode()).hexdigest()[:8]


# decoding


def decode_ours(setting: Setting) -> Work:
    """Graph and model are loaded before, as in a command that decodes a directory."""
    from kaldi_uq.engine.base import DecodeConfig
    from kaldi_uq.engine.embedded.engine import EmbeddedEngine

    made = system(setting)
    scores = made.loglikes
    decoder = EmbeddedEngine().decoder(made.model_dir, made.model_dir / "graph", DecodeConfig())

    def work() -> Facts:
        found = decoder.decode(scores.items())
        return {"units": len(scores), "result": result([(utt, found[utt].words) for utt in sorted(found)])}

    return work


def decode_numpy(setting: Setting) -> Work:
    """The same graph without a beam."""
    from bench.viterbi import ViterbiGraph
    from kaldi_uq.engine.base import DecodeConfig
    from kaldi_uq.io.fst import read_fst_arrays
    from kaldi_uq.io.kaldi_model import read_transitions

    made = system(setting)
    acwt, scores = DecodeConfig().acwt, made.loglikes
    tid_to_pdf = read_transitions(made.model_dir / "final.mdl").tid_to_pdf
    graph = ViterbiGraph(read_fst_arrays(made.model_dir / "graph/HCLG.fst"), tid_to_pdf)
    symbols = _symbols(made)

    def work() -> Facts:
        found = {utt: graph.search(acwt * values)[1] for utt, values in scores.items()}
        words = [(utt, tuple(symbols[int(word)] for word in found[utt])) for utt in sorted(found)]
        return {"units": len(scores), "result": result(words)}

    return work


def decode_kaldi(setting: Setting) -> Work:
    """latgen-faster-mapped: a process that reads model, graph and scores, as whoever uses it has to run it."""
    from kaldi_uq.engine.base import DecodeConfig
    from kaldi_uq.engine.config import BEST_PATH_BEAM

    made, config = system(setting), DecodeConfig()
    folder = Path(tempfile.mkdtemp(dir=setting.work))
    options = [f"--beam={config.beam:g}", f"--max-active={config.max_active}", f"--acoustic-scale={config.acwt:.9g}"]
    options += [f"--lattice-beam={BEST_PATH_BEAM:g}", "--allow-partial=true"]
    options += [f"--word-symbol-table={made.model_dir / 'graph/words.txt'}"]
    sources = [made.model_dir / "final.mdl", made.model_dir / "graph/HCLG.fst", f"ark:{made.loglikes_path}"]
    outputs = ["ark:/dev/null", f"ark,t:{folder / 'words'}", "ark:/dev/null"]
    symbols = _symbols(made)
    count = len(made.loglikes)

    def decode(watched: bool = False) -> float:
        return _kaldi("latgen-faster-mapped", *options, *sources, *outputs, watched=watched)

    peak_mb = decode(watched=True)

    def work() -> Facts:
        decode()
        lines = sorted(line.split() for line in (folder / "words").read_text().splitlines())
        words = [(line[0], tuple(symbols[int(word)] for word in line[1:])) for line in lines]
        return {"units": count, "result": result(words), "peak_mb": peak_mb}

    return work


# alignment


def align_ours(setting: Setting) -> Work:
    """A new aligner each time, which compiles the graphs of the texts."""
    from kaldi_uq.engine.base import DecodeConfig
    from kaldi_uq.engine.embedded.engine import EmbeddedEngine

    made = system(setting)
    texts = made.transcripts
    scores = {utt: values for utt, values in made.loglikes.items() if utt in texts}
    lang, engine = made.lang, EmbeddedEngine()

    def work() -> Facts:
        found = engine.aligner(made.model_dir, lang, DecodeConfig()).align(scores.items(), texts)
        return {"units": len(scores), "result": result([(utt, found[utt].tolist()) for utt in sorted(found)])}

    return work


def align_numpy(setting: Setting) -> Work:
    """The same graphs, compiled before, without a beam."""
    from bench.viterbi import ViterbiGraph
    from kaldi_uq.engine.base import DecodeConfig
    from kaldi_uq.engine.embedded import wheels
    from kaldi_uq.io.fst import read_fst_arrays
    from kaldi_uq.io.kaldi_model import read_transitions

    made, config = system(setting), DecodeConfig()
    texts, lang, acwt = made.transcripts, made.lang, config.acwt
    scores = {utt: values for utt, values in made.loglikes.items() if utt in texts}
    tid_to_pdf = read_transitions(made.model_dir / "final.mdl").tid_to_pdf
    compiler = wheels.compiler(
        *wheels.load_model(made.model_dir), lang, config.transition_scale, config.self_loop_scale
    )
    graphs = {}
    path = Path(tempfile.mkdtemp(dir=setting.work)) / "graph.fst"
    for utt in scores:
        wheels.write_fst(wheels.compile_graph(compiler, texts[utt], lang), path)
        graphs[utt] = ViterbiGraph(read_fst_arrays(path), tid_to_pdf)

    def work() -> Facts:
        found = {utt: graphs[utt].search(acwt * values)[0] for utt, values in scores.items()}
        return {"units": len(scores), "result": result([(utt, found[utt].tolist()) for utt in sorted(found)])}

    return work


def align_kaldi(setting: Setting) -> Work:
    """compile-train-graphs and align-compiled-mapped, one after the other."""
    from kaldi_uq.engine.base import DecodeConfig
    from kaldi_uq.engine.binaries.commands import align_options, graph_arguments, lexicon_files
    from kaldi_uq.io.ark import read_archive

    made, config = system(setting), DecodeConfig()
    folder, lang, count = Path(tempfile.mkdtemp(dir=setting.work)), made.lang, len(made.transcripts)
    model, tree = str(made.model_dir / "final.mdl"), str(made.model_dir / "tree")
    text = f"ark,t:{made.path / 'text.int'}"
    scales = (config.acwt, config.transition_scale, config.self_loop_scale)
    options = align_options(scales, config.align_beam, config.retry_beam)

    def align(watched: bool = False) -> float:
        compile_graphs = graph_arguments(lexicon_files(lang), model, tree, text, folder / "graphs")
        scores, out = f"ark,s,cs:{made.loglikes_path}", f"ark:{folder / 'ali'}"
        arguments = [*options, model, f"ark:{folder / 'graphs'}", scores, out]
        return max(
            _kaldi("compile-train-graphs", *compile_graphs, watched=watched),
            _kaldi("align-compiled-mapped", *arguments, watched=watched),
        )

    peak_mb = align(watched=True)

    def work() -> Facts:
        align()
        found = {utt: values.tolist() for utt, values in read_archive(folder / "ali", "int vector")}
        return {"units": count, "result": result(sorted(found.items())), "peak_mb": peak_mb}

    return work


# the search in batches


def decode_batched(setting: Setting) -> Work:
    """All utterances at once where their scores are, without a beam, as an attack asks for the words of candidates."""
    import torch

    from kaldi_uq.engine.base import DecodeConfig
    from kaldi_uq.engine.batched import BatchDecoder
    from kaldi_uq.io.kaldi_model import read_transitions
    from kaldi_uq.recogniser.heard import FrameScores

    made, device = system(setting), torch.device(setting.device)
    table, scores = read_transitions(made.model_dir / "final.mdl"), FrameScores.of(made.loglikes, device)
    decoder = BatchDecoder.open(made.model_dir / "graph", table, DecodeConfig().acwt, device)
    assert decoder is not None

    def work() -> Facts:
        found = dict(zip(scores.utts, decoder.decode(scores.values, scores.lengths), strict=True))
        return {"units": len(found), "result": result([(utt, found[utt]) for utt in sorted(found)])}

    return work


def align_one_by_one(setting: Setting) -> Work:
    """One aligner, which keeps the graphs of the texts from the run that warms up."""
    from kaldi_uq.engine.base import DecodeConfig
    from kaldi_uq.engine.embedded.engine import EmbeddedEngine

    made = system(setting)
    scores = {utt: values for utt, values in made.loglikes.items() if utt in made.transcripts}
    aligner = EmbeddedEngine().aligner(made.model_dir, made.lang, DecodeConfig())

    def work() -> Facts:
        return {"units": len(aligner.align(scores.items(), made.transcripts))}

    return work


def align_batched(setting: Setting) -> Work:
    """The same in batches."""
    import torch

    from kaldi_uq.engine.base import DecodeConfig
    from kaldi_uq.engine.batched import BatchAligner
    from kaldi_uq.engine.embedded.engine import EmbeddedEngine
    from kaldi_uq.io.kaldi_model import read_transitions
    from kaldi_uq.recogniser.heard import FrameScores

    made, device, config = system(setting), torch.device(setting.device), DecodeConfig()
    texts, table = made.transcripts, read_transitions(made.model_dir / "final.mdl")
    scores = FrameScores.of({utt: values for utt, values in made.loglikes.items() if utt in texts}, device)
    aligner = BatchAligner(EmbeddedEngine().aligner(made.model_dir, made.lang, config), table, config.acwt, device)
    wanted = [(row, texts[utt]) for row, utt in enumerate(scores.utts)]

    def work() -> Facts:
        found = aligner.align(scores.values, scores.lengths, wanted)
        assert found is not None
        return {"units": len(found)}

    return work


# training


def mono_ours(setting: Setting) -> Work:
    """On the features as they lie on disk, into a directory."""
    from kaldi_uq.engine.base import MonoConfig
    from kaldi_uq.engine.embedded.engine import EmbeddedEngine
    from kaldi_uq.io.datadir import DataDir
    from kaldi_uq.io.feats_dir import gmm_features

    made = system(setting)
    os.chdir(made.recipe)
    lang, out = made.lang, Path(tempfile.mkdtemp(dir=setting.work))
    config = MonoConfig(num_iters=NUM_ITERS, totgauss=TOTGAUSS)

    def work() -> Facts:
        data = DataDir.read(Path("data/train"))
        EmbeddedEngine().train_mono(dict(gmm_features(data)), lang.transcripts(data), lang, out, config)
        return {"utterances": len(data.utts)}

    return work


def mono_kaldi(setting: Setting) -> Work:
    """steps/train_mono.sh with two jobs."""
    made = system(setting)
    place = Path(tempfile.mkdtemp(dir=setting.work))
    scripts = Path(os.environ["KALDI_ROOT"]) / "egs/wsj/s5"
    for name in ("steps", "utils"):
        (place / name).symlink_to(scripts / name)
    (place / "data").symlink_to(made.recipe / "data")
    (place / "path.sh").write_text(f"export PATH={_kaldi_path()}:$PWD/utils\nexport LC_ALL=C\n")
    options = ("--nj", "2", "--cmd", "run.pl", "--num-iters", str(NUM_ITERS), "--totgauss", str(TOTGAUSS))

    command = ["steps/train_mono.sh", *options, "data/train", "data/lang", "exp/mono"]
    peak_mb = _kaldi(*command, watched=True, cwd=place)

    def work() -> Facts:
        _kaldi(*command, cwd=place)
        return {"peak_mb": peak_mb}

    return work


def _kaldi_path() -> str:
    root = Path(os.environ["KALDI_ROOT"])
    places = [root / "src" / name for name in ("bin", "featbin", "fstbin", "gmmbin", "latbin")]
    return os.pathsep.join([*map(str, places), str(root / "tools/openfst/bin"), os.environ["PATH"]])


def _kaldi(*command: object, watched: bool = False, cwd: Path | None = None) -> float:
    """Run one of Kaldi's programs or scripts.

    Args:
        command: its words.
        watched: start it from a small process that tells its memory: the kernel counts what a process is before it
            becomes another program, too, and this one is large.
        cwd: the directory to run it in.

    Returns:
        the most memory of a process, MiB, if it is watched; else 0.
    """
    words = [*((sys.executable, "-c", WATCH) if watched else ()), *map(str, command)]
    env = {**os.environ, "PATH": _kaldi_path()}
    done = subprocess.run(words, cwd=cwd, env=env, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) / 1024 if watched else 0.0


def _symbols(made: System) -> dict[int, str]:
    from kaldi_uq.io.lang import read_symbols

    return {index: word for word, index in read_symbols(made.model_dir / "graph/words.txt").items()}


WORDS = ("system",)
KALDI = ("system", "kaldi")

ROWS = (
    Row(
        "decode",
        "decoding of network output, seconds an utterance",
        (
            Case("embedded engine", decode_ours, "kaldi-hmm-gmm", WORDS),
            Case("latgen-faster-mapped", decode_kaldi, needs=KALDI, aim=">= 1"),
            Case("NumPy, no beam", decode_numpy, "numpy", WORDS),
        ),
    ),
    Row(
        "align",
        "forced alignment of network output, seconds an utterance",
        (
            Case("embedded engine", align_ours, "kaldi-hmm-gmm", WORDS),
            Case("align-compiled-mapped", align_kaldi, needs=KALDI),
            Case("NumPy, no beam", align_numpy, "numpy", WORDS),
        ),
    ),
    Row(
        "decode-batch",
        "decoding of all utterances together, seconds an utterance",
        (
            Case("search in batches", decode_batched, "torch", WORDS),
            Case("embedded engine, one by one", decode_ours, "kaldi-hmm-gmm", WORDS),
        ),
        on_gpu=True,
    ),
    Row(
        "align-batch",
        "forced alignment of all utterances together, seconds an utterance",
        (
            Case("search in batches", align_batched, "torch", WORDS),
            Case("embedded engine, one by one", align_one_by_one, "kaldi-hmm-gmm", WORDS),
        ),
        on_gpu=True,
    ),
    Row(
        "mono",
        "monophone training, 20 iterations",
        (
            Case("embedded engine", mono_ours, "kaldi-hmm-gmm", WORDS),
            Case("steps/train_mono.sh, two jobs", mono_kaldi, needs=KALDI, aim=">= 3"),
        ),
    ),
)
