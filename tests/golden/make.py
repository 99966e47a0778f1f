#!/usr/bin/env python3
"""Make the golden files of this directory again, with a real Kaldi:  KALDI_ROOT=<dir> tests/golden/make.py

All is made by Kaldi's own programs from wav.ark, text and the language directory of tests/tiny.py, which are written
here too: a monophone system of whole-word models, with its graph, alignments and the best paths of lattices.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from scipy.io import wavfile

GOLDEN = Path(__file__).resolve().parent
sys.path.insert(0, str(GOLDEN.parents[1]))

from kaldi_uq.engine.base import (  # noqa: E402
    DecodeConfig,
    Engine,
    EngineOptions,
)
from kaldi_uq.io.ark import MatrixWriter, read_archive  # noqa: E402
from kaldi_uq.io.files import write_text  # noqa: E402
from kaldi_uq.io.wav import to_int16  # noqa: E402
from tests import tiny  # noqa: E402
from tests.kaldi import Kaldi  # noqa: E402

CONF = "--sample-frequency=8000\n--use-energy=false\n--num-mel-bins=15\n--num-ceps=7\n--dither=0\n--frame-shift=10\n"
DECODE = DecodeConfig(acwt=0.3)
NUM_TRAIN, NUM_TEST = 12, 5


def write_waves() -> None:
    """wav.ark and text: utterances train-* and test-*."""
    texts = []
    with open(GOLDEN / "wav.ark", "wb") as stream:
        for part, count, seed in (("test", NUM_TEST, 9), ("train", NUM_TRAIN, 0)):
            waves, text = tiny.make_waves(count, seed=seed)
            for utt, wave in waves.items():
                memory = io.BytesIO()
                wavfile.write(memory, tiny.RATE, to_int16(wave))
                stream.write(f"{part}-{utt} ".encode() + memory.getvalue())
                texts.append(f"{part}-{utt} {' '.join(text[utt])}\n")
    write_text(GOLDEN / "text", "".join(texts))
    write_text(GOLDEN / "mfcc.conf", CONF)


def features(kaldi: Kaldi, work: Path) -> dict[str, np.ndarray]:
    """feats.ark, cmvn.ark of the two parts as speakers, and what apply-cmvn and add-deltas make of them."""
    utts = [line.split()[0] for line in (GOLDEN / "text").read_text().splitlines()]
    write_text(work / "utt2spk", "".join(f"{utt} {utt.split('-')[0]}\n" for utt in utts))
    groups = {spk: [utt for utt in utts if utt.startswith(spk)] for spk in ("test", "train")}
    write_text(work / "spk2utt", "".join(f"{spk} {' '.join(names)}\n" for spk, names in groups.items()))
    feats, cmvn = GOLDEN / "feats.ark", GOLDEN / "cmvn.ark"
    kaldi.run("compute-mfcc-feats", f"--config={GOLDEN / 'mfcc.conf'}", f"ark:{GOLDEN / 'wav.ark'}", f"ark:{feats}")
    kaldi.run("compute-cmvn-stats", f"--spk2utt=ark:{work / 'spk2utt'}", f"ark:{feats}", f"ark:{cmvn}")
    kaldi.shell(
        f"apply-cmvn --utt2spk=ark:{work}/utt2spk ark:{cmvn} ark:{feats} ark:- | add-deltas ark:- ark:{work}/deltas.ark"
    )
    found = dict(read_archive(work / "deltas.ark"))
    with MatrixWriter(GOLDEN / "deltas.ark", work / "deltas.scp") as writer:  # two are enough
        for utt in ("test-utt00", "train-utt00"):
            writer.write(utt, found[utt])
    return found


def mono_system(kaldi: Kaldi, engine: Engine, feats: dict[str, np.ndarray], work: Path) -> None:
    """mono/: tree, model and alignments, and what Kaldi's programs say of them."""
    lang = tiny.make_lang(work, engine=engine)
    texts = dict(line.split(maxsplit=1) for line in (GOLDEN / "text").read_text().splitlines())
    transcripts = {utt: lang.word_ids(text.split(), where="text") for utt, text in texts.items()}
    train = {utt: matrix for utt, matrix in feats.items() if utt.startswith("train")}
    engine.train_mono(train, transcripts, lang, work / "mono", tiny.MONO)
    mono = GOLDEN / "mono"
    shutil.rmtree(mono, ignore_errors=True)
    mono.mkdir()
    for name in ("final.mdl", "tree", "ali.1.gz", "num_jobs"):
        shutil.copyfile(work / "mono" / name, mono / name)
    model, phones = mono / "final.mdl", lang.path / "phones.txt"
    alignments = f"ark:gunzip -c {mono / 'ali.1.gz'}|"
    kaldi.run("gmm-copy", "--binary=false", model, mono / "final.mdl.txt")
    kaldi.run("copy-tree", "--binary=false", mono / "tree", mono / "tree.txt")
    write_text(mono / "am-info", kaldi.run("am-info", model))
    write_text(mono / "show-transitions", kaldi.run("show-transitions", phones, model))
    write_text(mono / "show-alignments", kaldi.run("show-alignments", phones, model, alignments))
    write_text(mono / "ali-to-pdf", kaldi.run("ali-to-pdf", model, alignments, "ark,t:-"))
    kaldi.run("train-transitions", model, alignments, mono / "train-transitions.mdl")
    test = {utt: matrix for utt, matrix in feats.items() if utt.startswith("test")}
    with MatrixWriter(work / "test.ark", work / "test.scp") as writer:
        for utt, matrix in test.items():
            writer.write(utt, matrix)
    likes = mono / "loglikes.ark"
    kaldi.run("gmm-compute-likes", model, f"ark:{work / 'test.ark'}", f"ark:{likes}")

    engine.make_graph(lang, work / "mono", work / "graph", **tiny.GRAPH_SCALES)
    shutil.copyfile(work / "graph/HCLG.fst", mono / "HCLG.fst")
    shutil.copyfile(work / "graph/words.txt", mono / "words.txt")
    kaldi.run(
        "latgen-faster-mapped",
        f"--acoustic-scale={DECODE.acwt}",
        f"--beam={DECODE.beam}",
        f"--max-active={DECODE.max_active}",
        "--lattice-beam=2",
        model,
        mono / "HCLG.fst",
        f"ark:{likes}",
        f"ark:{work / 'lat'}",
        f"ark,t:{mono / 'words'}",
        f"ark,t:{mono / 'decoded-ali'}",
    )
    kaldi.shell(
        f"lattice-1best --acoustic-scale={DECODE.acwt} ark:{work}/lat ark:- | "
        f"nbest-to-linear ark:- ark:/dev/null ark:/dev/null ark,t:{mono}/graph-cost ark,t:{mono}/acoustic-cost"
    )
    kaldi.shell(
        f"utils/sym2int.pl -f 2- {lang.path}/words.txt {GOLDEN}/text | grep ^test >{work}/tra; "
        f"compile-train-graphs --read-disambig-syms={lang.path}/phones/disambig.int {mono}/tree {model} "
        f"{lang.path}/L.fst ark:{work}/tra ark:{work}/fsts; "
        f"align-compiled-mapped --acoustic-scale={DECODE.acwt} --transition-scale=1 --self-loop-scale=0.1 "
        f"--beam={DECODE.align_beam} --retry-beam=0 {model} ark:{work}/fsts ark:{likes} ark,t:{mono}/aligned",
        cwd=kaldi.recipe,
    )


def main() -> None:
    if not os.environ.get("KALDI_ROOT"):
        sys.exit(f"{sys.argv[0]}: error: KALDI_ROOT is not set; export KALDI_ROOT=<root of a built Kaldi>")
    kaldi = Kaldi(Path(os.environ["KALDI_ROOT"]))
    engine = kaldi.engine(EngineOptions(nj=1))
    with tempfile.TemporaryDirectory(prefix="golden") as folder:
        write_waves()
        mono_system(kaldi, engine, features(kaldi, Path(folder)), Path(folder))


if __name__ == "__main__":
    main()
