#!/usr/bin/env python3
"""Make the files beside this one again, with a real Kaldi:  KALDI_ROOT=<dir> tests/golden_sat/make.py

A speaker-adaptive system that Kaldi's own scripts train as its recipes do: utils/prepare_lang.sh with its defaults
(phones by their place in the word), monophones, LDA+MLLT, SAT; alignments and a decoding with fMLLR.  The speech is
that of tests/tiny.py, the speakers differ in level and noise.  Kept are a few utterances of the many that train.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).resolve().parent
sys.path.insert(0, str(GOLDEN.parents[1]))

from kaldi_uq.io.datadir import write_data_dir  # noqa: E402
from kaldi_uq.io.files import write_text  # noqa: E402
from kaldi_uq.io.wav import to_int16, write_wav  # noqa: E402
from tests import tiny  # noqa: E402
from tests.kaldi import Kaldi  # noqa: E402

CONF = "--sample-frequency=8000\n--use-energy=false\n--num-mel-bins=15\n--num-ceps=7\n--dither=0\n"
LEXICON = "!SIL SIL\n<UNK> SPN\none A B\nthree B C\nthree B D\ntwo D\n"
SPEAKERS = {"s": (1.0, 0.0), "t": (0.4, 0.01)}  # gain, root mean square of further noise
NUM_TRAIN, NUM_TEST = 80, 40  # of each speaker: fMLLR asks for 500 frames that are not silence
KEEP = {"train": 3, "test": 1}  # of each speaker
LANG_FILES = ("words.txt", "phones.txt", "topo", "L.fst", "L_disambig.fst", "G.fst", "oov.txt", "oov.int")
PHONE_FILES = ("disambig.int", "silence.int", "align_lexicon.int", "word_boundary.txt")
OPTIONS = ("cmvn_opts", "splice_opts", "final.mat", "full.mat", "final.mdl", "final.alimdl", "tree")


def write_data(work: Path) -> None:
    """data/train and data/test, and text and utt2spk of the kept utterances here."""
    for part, count, seed in (("train", NUM_TRAIN, 0), ("test", NUM_TEST, 50)):
        waves, texts, utt2spk, kept = {}, {}, {}, []
        for number, (spk, (gain, noise)) in enumerate(SPEAKERS.items()):
            rng = np.random.default_rng(seed + number)
            found, text = tiny.make_waves(count, seed=seed + 10 + number)
            for index, (utt, wave) in enumerate(found.items()):
                name = f"{spk}-{part}-{utt}"
                waves[name] = to_int16((gain * wave + noise * rng.standard_normal(len(wave))).astype(np.float32))
                texts[name], utt2spk[name] = " ".join(text[utt]), spk
                if index < KEEP[part]:
                    kept.append(name)
        folder = work / "data" / part
        for utt, wave in waves.items():
            write_wav(folder / "wav" / f"{utt}.wav", wave, tiny.RATE)
        paths = {utt: str(folder / "wav" / f"{utt}.wav") for utt in waves}
        utt2dur = {utt: len(wave) / tiny.RATE for utt, wave in waves.items()}
        write_data_dir(folder, wav_scp=paths, text=texts, utt2spk=utt2spk, utt2dur=utt2dur)
        here = GOLDEN / part
        write_text(here / "text", "".join(f"{utt} {texts[utt]}\n" for utt in kept))
        write_text(here / "utt2spk", "".join(f"{utt} {utt2spk[utt]}\n" for utt in kept))


def write_dict(work: Path) -> None:
    folder = work / "dict"
    write_text(folder / "lexicon.txt", LEXICON)
    write_text(folder / "silence_phones.txt", "SIL\nSPN\n")
    write_text(folder / "nonsilence_phones.txt", "A\nB\nC\nD\n")
    write_text(folder / "optional_silence.txt", "SIL\n")
    write_text(folder / "extra_questions.txt", "SIL SPN\n")
    write_text(work / "G.txt", "".join(f"0 0 {word} {word} 1.4\n" for word in ("one", "three", "two")) + "0 1.4\n")
    write_text(work / "conf/mfcc.conf", CONF)


def train(kaldi: Kaldi, work: Path) -> None:
    """What the run.sh of a recipe does."""
    for name in ("steps", "utils"):
        (work / name).symlink_to(kaldi.recipe / name)
    tools = kaldi.root / "tools/openfst/bin"
    write_text(work / "path.sh", f"export PATH={kaldi.env['PATH']}:{tools} LC_ALL=C\n")
    for line in (
        "utils/prepare_lang.sh dict '<UNK>' local data/lang",
        "fstcompile --isymbols=data/lang/words.txt --osymbols=data/lang/words.txt G.txt | "
        "fstarcsort --sort_type=ilabel >data/lang/G.fst",
        *(
            f"steps/make_mfcc.sh --compress false --nj 1 --cmd run.pl data/{part} && "
            f"steps/compute_cmvn_stats.sh data/{part}"
            for part in ("train", "test")
        ),
        "steps/train_mono.sh --nj 1 --cmd run.pl --num-iters 12 --totgauss 40 data/train data/lang exp/mono",
        "steps/align_si.sh --nj 1 --cmd run.pl data/train data/lang exp/mono exp/mono_ali",
        "steps/train_lda_mllt.sh --cmd run.pl --num-iters 8 --mllt-iters '2 4' --dim 16 --randprune 0 "
        "--splice-opts '--left-context=2 --right-context=2' 24 48 data/train data/lang exp/mono_ali exp/tri2b",
        "steps/align_si.sh --nj 1 --cmd run.pl data/train data/lang exp/tri2b exp/tri2b_ali",
        "steps/train_sat.sh --cmd run.pl --num-iters 8 --fmllr-iters '2 4' 24 48 data/train data/lang "
        "exp/tri2b_ali exp/tri3b",
        "steps/align_fmllr.sh --nj 1 --cmd run.pl data/train data/lang exp/tri3b exp/tri3b_ali",
        "utils/mkgraph.sh data/lang exp/tri3b exp/tri3b/graph",
        "steps/decode_fmllr.sh --skip-scoring true --nj 1 --cmd run.pl exp/tri3b/graph data/test exp/tri3b/decode",
    ):
        kaldi.shell(f". ./path.sh; {line}", cwd=work)


def keep(kaldi: Kaldi, work: Path) -> None:
    """The alignment directory, the decoding and what Kaldi's programs make of the kept utterances."""
    for name in LANG_FILES:
        copy(work / "data/lang" / name, GOLDEN / "lang" / name)
    for name in PHONE_FILES:
        copy(work / "data/lang/phones" / name, GOLDEN / "lang/phones" / name)
    copy(work / "conf/mfcc.conf", GOLDEN / "mfcc.conf")
    for name in ("HCLG.fst", "words.txt"):
        copy(work / "exp/tri3b/graph" / name, GOLDEN / "graph" / name)
    for name in OPTIONS:
        copy(work / "exp/tri3b_ali" / name, GOLDEN / "tri3b_ali" / name)
    for part, folder, own in (("train", "exp/tri3b_ali", "tri3b_ali"), ("test", "exp/tri3b/decode", "decode_test")):
        here, there, data = GOLDEN / part, work / folder, work / "data" / part
        copy(there / "trans.1", GOLDEN / own / "trans.1")
        write_text(GOLDEN / own / "num_jobs", "1\n")
        for table in ("wav.scp", "feats.scp"):
            kaldi.shell(f"utils/filter_scp.pl {here}/utt2spk {data}/{table} >{work}/{table}", cwd=work)
        kaldi.run(
            "wav-copy", f"scp:{work}/wav.scp", "ark,scp:wav.ark,wav.scp", cwd=here
        )  # the paths in it are relative
        kaldi.run("copy-matrix", f"scp:{data}/cmvn.scp", "ark,scp:cmvn.ark,cmvn.scp", cwd=here)
        kaldi.shell(
            f"apply-cmvn --utt2spk=ark:{data}/utt2spk scp:{data}/cmvn.scp scp:{work}/feats.scp ark:- | "
            f"splice-feats --left-context=2 --right-context=2 ark:- ark:- | "
            f"transform-feats {work}/exp/tri3b/final.mat ark:- ark:- | "
            f"transform-feats --utt2spk=ark:{data}/utt2spk ark:{there}/trans.1 ark:- ark:{here}/feats.ark",
            cwd=work,
        )
    kaldi.shell(
        f"copy-int-vector 'ark:gunzip -c {work}/exp/tri3b_ali/ali.1.gz|' ark,t:- | "
        f"utils/filter_scp.pl {GOLDEN}/train/utt2spk | copy-int-vector ark,t:- 'ark:|gzip -nc "
        f">{GOLDEN}/tri3b_ali/ali.1.gz'",
        cwd=work,
    )
    kaldi.shell(
        f"gmm-latgen-faster --acoustic-scale=0.1 --beam=13 --max-active=7000 --lattice-beam=6 "
        f"{GOLDEN}/tri3b_ali/final.mdl {GOLDEN}/graph/HCLG.fst ark:{GOLDEN}/test/feats.ark ark:/dev/null "
        f"ark,t:{GOLDEN}/decode_test/words ark,t:{GOLDEN}/decode_test/ali"
    )


def copy(source: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, destination)


def main() -> None:
    if not os.environ.get("KALDI_ROOT"):
        sys.exit(f"{sys.argv[0]}: error: KALDI_ROOT is not set; export KALDI_ROOT=<root of a built Kaldi>")
    kaldi = Kaldi(Path(os.environ["KALDI_ROOT"]))
    with tempfile.TemporaryDirectory(prefix="golden") as folder:  # no blanks: Kaldi's scripts take none
        work = Path(folder)
        write_data(work)
        write_dict(work)
        train(kaldi, work)
        keep(kaldi, work)


if __name__ == "__main__":
    main()
