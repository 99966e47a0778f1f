#!/usr/bin/env python3
"""Make the files beside this one again, with real Kaldi.

    KALDI_ROOT=/opt/kaldi tests/golden_b2/make.py <recipe-dir>

<recipe-dir> holds data/lang and exp/tri1 (with graph): a triphone system that Kaldi's own steps/train_deltas.sh made of
the digit data (recipes/tidigits/run.sh --corpus fsdd --lexicon phones --stop-stage 0) with utils/prepare_lang.sh
--position-dependent-phones true, 200 leaves and 1000 Gaussians; G.fst is a loop of the ten digits.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from kaldi_uq.io.ark import MatrixWriter  # noqa: E402
from kaldi_uq.io.files import write_text  # noqa: E402
from kaldi_uq.io.kaldi_model import read_transitions  # noqa: E402
from kaldi_uq.io.lang import Lang  # noqa: E402
from kaldi_uq.io.wav import write_wav  # noqa: E402
from tests.golden_input import RATE, SEGMENTS, TEXTS, loglikes, wave  # noqa: E402

KALDI = Path(os.environ["KALDI_ROOT"]) / "src"
HIRES = ["--sample-frequency=8000", "--use-energy=false", "--num-mel-bins=40", "--num-ceps=40", "--low-freq=40"]
HIRES += ["--high-freq=-200", "--dither=0"]
FBANK = ["--sample-frequency=8000", "--num-mel-bins=24", "--use-energy=true", "--htk-compat=true", "--dither=0"]


def kaldi(program: str, *words: object) -> None:
    found = next(KALDI.glob(f"*bin/{program}"))
    subprocess.run([found, *map(str, words)], check=True)


def features(work: Path) -> None:
    write_wav(work / "wave.wav", wave(), RATE)
    write_text(work / "wav.scp", f"utt {work / 'wave.wav'}\n")
    kaldi("compute-mfcc-feats", *HIRES, f"scp:{work / 'wav.scp'}", f"ark:{HERE / 'mfcc_hires.ark'}")
    kaldi("compute-fbank-feats", *FBANK, f"scp:{work / 'wav.scp'}", f"ark:{HERE / 'fbank.ark'}")
    write_text(HERE / "mfcc_hires.conf", "".join(f"{word}\n" for word in HIRES))
    write_text(HERE / "fbank.conf", "".join(f"{word}\n" for word in FBANK))


def segments(work: Path) -> None:
    """Per segment its first sample and its length: the samples of the recordings count up."""
    import numpy as np
    from scipy.io import wavfile

    lines, scp = [], []
    for number, (start, end, size) in enumerate(SEGMENTS):
        write_wav(work / f"r{number}.wav", np.arange(size).astype(np.int16), RATE)
        scp.append(f"r{number} {work / f'r{number}.wav'}\n")
        lines.append(f"s{number} r{number} {start} {end}\n")
    write_text(work / "reco.scp", "".join(scp))
    write_text(work / "segments", "".join(lines))
    kaldi(
        "extract-segments", f"scp:{work / 'reco.scp'}", work / "segments", f"ark,scp:{work / 'x.ark'},{work / 'x.scp'}"
    )
    table = []
    for line in (work / "x.scp").read_text().splitlines():
        key, place = line.split()
        name, _, offset = place.rpartition(":")
        (work / "one.wav").write_bytes(Path(name).read_bytes()[int(offset) :])
        _, samples = wavfile.read(work / "one.wav")
        table.append(f"{key} {samples[0]} {len(samples)}\n")
    write_text(HERE / "segments.txt", "".join(table))


def triphones(recipe: Path, work: Path) -> None:
    lang, tri, out = recipe / "data/lang", recipe / "exp/tri1", HERE / "tri"
    for name in ("words.txt", "phones.txt", "topo", "L.fst", "L_disambig.fst", "G.fst", "oov.txt", "oov.int"):
        copy(lang / name, out / "lang" / name)
    for name in ("disambig.int", "silence.int", "align_lexicon.int"):
        copy(lang / "phones" / name, out / "lang/phones" / name)
    copy(tri / "tree", out / "tree")
    copy(tri / "graph/HCLG.fst", out / "graph/HCLG.fst")
    copy(tri / "graph/words.txt", out / "graph/words.txt")
    (out / "text").mkdir(exist_ok=True)
    kaldi("copy-tree", "--binary=false", tri / "tree", out / "text/tree")
    kaldi("copy-transition-model", tri / "final.mdl", out / "final.mdl")
    kaldi("gmm-copy", "--binary=false", tri / "final.mdl", work / "text.mdl")
    transitions, end, _ = (work / "text.mdl").read_text().partition("</TransitionModel>")
    write_text(out / "text/final.mdl", f"{transitions}{end} \n")
    num_pdfs = read_transitions(out / "final.mdl").num_pdfs
    with MatrixWriter(work / "loglikes.ark", work / "loglikes.scp") as writer:
        for utt in TEXTS:
            writer.write(utt, loglikes(utt, num_pdfs))
    ids = Lang.read(lang)
    texts = [f"{utt} {' '.join(map(str, ids.word_ids(text.split(), where=utt)))}\n" for utt, text in TEXTS.items()]
    write_text(work / "text.int", "".join(texts))
    scales = ["--transition-scale=1.0", "--self-loop-scale=0.1"]
    disambig = f"--read-disambig-syms={lang / 'phones/disambig.int'}"
    kaldi("compile-train-graphs", disambig, tri / "tree", tri / "final.mdl", lang / "L.fst",
          f"ark:{work / 'text.int'}", f"ark:{work / 'graphs'}")  # fmt: skip
    for job, form in ((1, "ark"), (2, "ark,t")):  # the same alignments, binary and text
        out_ali = f"{form}:|gzip -nc >{out / f'ali.{job}.gz'}"
        kaldi("align-compiled-mapped", *scales, "--acoustic-scale=0.1", "--beam=200", tri / "final.mdl",
              f"ark:{work / 'graphs'}", f"scp:{work / 'loglikes.scp'}", out_ali)  # fmt: skip
    kaldi("latgen-faster-mapped", "--acoustic-scale=0.1", "--beam=13", "--max-active=7000", "--lattice-beam=6",
          tri / "final.mdl", tri / "graph/HCLG.fst", f"scp:{work / 'loglikes.scp'}", "ark:/dev/null",
          f"ark,t:{out / 'words.int'}", f"ark,t:{out / 'decoded_ali.txt'}")  # fmt: skip


def copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        features(Path(folder))
        segments(Path(folder))
        triphones(Path(sys.argv[1]), Path(folder))
