"""Every reader of a file, with good files of each form that it takes.

One file: it is the list of the readers; one that is added goes beside the others.
"""

from __future__ import annotations

import base64
import gzip
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kaldi_uq.attacks.consistency import SEARCH_FILE, SearchConfig, model_search
from kaldi_uq.attacks.directory import _finished, read_checks, read_lines
from kaldi_uq.cli.recipe_stage import Stage
from kaldi_uq.config import read_option_file
from kaldi_uq.detector.base import OneClassDetector
from kaldi_uq.detector.fit import fit_detectors
from kaldi_uq.detector.normal import FrameQuantiles, load_frame_quantiles, save_frame_quantiles
from kaldi_uq.detector.store import load_detector, save_detector
from kaldi_uq.engine.base import DecodeConfig
from kaldi_uq.engine.embedded import wheels
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.engine.embedded.tree_build import read_roots
from kaldi_uq.engine.embedded.tree_questions import read_phone_sets
from kaldi_uq.engine.files import graph_files
from kaldi_uq.errors import DataError
from kaldi_uq.feats.conf import read_fbank_conf, read_mfcc_conf
from kaldi_uq.feats.recipe_opts import read_recipe_opts
from kaldi_uq.io.ark import MatrixWriter, read_alignments, read_archive, read_matrix, write_alignments
from kaldi_uq.io.arpa import read_arpa
from kaldi_uq.io.datadir import DataDir, read_table
from kaldi_uq.io.digests import DIGESTS_FILE, check_digest
from kaldi_uq.io.feats_dir import gmm_features
from kaldi_uq.io.files import DoneStamp
from kaldi_uq.io.fix import fix_data_dir
from kaldi_uq.io.fst import read_fst_arrays, vector_bytes
from kaldi_uq.io.kaldi_model import read_gmm_model, read_topology, read_transitions, write_model
from kaldi_uq.io.lang import Lang, read_symbols
from kaldi_uq.io.lattice import compact_bytes, read_lattices
from kaldi_uq.io.names import wave_files
from kaldi_uq.io.ogg import page_checksum
from kaldi_uq.io.recording import open_recording
from kaldi_uq.io.validate import validate_data_dir
from kaldi_uq.io.wav import read_channels, read_wav, write_wav
from kaldi_uq.io.waves import read_waves
from kaldi_uq.language.prepare import Dictionary
from kaldi_uq.language.targets import read_pronunciations
from kaldi_uq.lattice.paths import best_paths
from kaldi_uq.nnet.config import DnnConfig
from kaldi_uq.recogniser.hybrid import MODEL_FILE, HybridModel, kind_of
from kaldi_uq.results.table import Results
from kaldi_uq.results.utterances import read_attacked, read_benign
from kaldi_uq.results.word_errors import ErrorRate
from kaldi_uq.training.checkpoint import CHECKPOINT
from kaldi_uq.training.config import TrainConfig
from kaldi_uq.training.dataset import TrainingSet
from kaldi_uq.training.trainer import Trainer, TrainingInputs
from tests.audio_files import encode, speech, without_count, write
from tests.lattices import random_lattice
from tests.test_ark import COMPRESSED
from tests.test_sphere import SAMPLES, write_sphere
from tests.test_wav import pcm, riff
from tests.tiny import FRONT_END, write_dict

GOLDEN = Path(__file__).resolve().parents[1] / "golden_b2"
RATE = 8000
ARPA = b"""\\data\\
ngram 1=4
ngram 2=3

\\1-grams:
-1.0 <s> -0.3
-0.7 </s>
-0.5 one -0.2
-0.6 two -0.1

\\2-grams:
-0.2 <s> one
-0.3 one two
-0.1 two </s>

\\end\\
"""

GMM = b"""<TransitionModel> <Topology> <TopologyEntry> <ForPhones> 1 </ForPhones>
<State> 0 <PdfClass> 0 <Transition> 0 0.75 <Transition> 1 0.25 </State> <State> 1 </State>
</TopologyEntry> </Topology> <Triples> 1
1 0 0
</Triples> <LogProbs>
 [ 0 -0.2876821 -1.386294 ]
</LogProbs> </TransitionModel>
<DIMENSION> 2 <NUMPDFS> 1 <DiagGMM>
<GCONSTS>  [ -2.5 -3 ]
<WEIGHTS>  [ 0.75 0.25 ]
<MEANS_INVVARS>  [
  1 2
  3 4 ]
<INV_VARS>  [
  0.5 1
  2 4 ]
</DiagGMM>
"""

TREE = b"ContextDependency 3 1 ToPdf SE 1 [ 1 2 ]\n{ CE 0 TE -1 2 ( CE 1 CE 2 )\n} EndContextDependency "


@dataclass
class Reader:
    """A reader and what it reads.

    Attributes:
        name: name, one word.
        path: the file that is damaged; what stands beside it is whole.
        samples: contents of good files.
        read: reads it.
        about: what every message has to name; default: the file.
        also: exceptions that are documented, beside those of the package.
        pack: what is done to the contents behind the damage, such as packing them.
    """

    name: str
    path: Path
    samples: Sequence[bytes]
    read: Callable[[], Any]
    about: Path | None = None
    also: tuple[type[Exception], ...] = ()
    pack: Callable[[bytes], bytes] = field(default=bytes)

    def __post_init__(self) -> None:
        self.about = self.about or self.path
        self.path.parent.mkdir(parents=True, exist_ok=True)


def make_readers(folder: Path) -> list[Reader]:
    """All readers, with their files below ``folder``, a directory of each."""
    groups = (_audio, _archives, _tables, _language, _graphs, _lattices, _models, _options, _detectors, _results)
    return [reader for group in groups for reader in group(folder)]


def _gz(data: bytes) -> bytes:
    return gzip.compress(data, 1, mtime=0)


def _audio(folder: Path) -> Iterator[Reader]:
    ramp = np.linspace(-20000, 20000, 300).astype(np.int16)
    write_wav(folder / "16.wav", ramp, RATE)
    floats = (ramp / np.float32(32768)).astype("<f4").tobytes()
    extensible = pcm(code=0xFFFE) + bytes.fromhex("1600 1000 04000000 0100 0000 0000 1000 8000 00aa00389b71")
    note = b"LIST" + (5).to_bytes(4, "little") + b"hello\0"
    samples = [
        (folder / "16.wav").read_bytes(), riff(pcm(bits=24), bytes(300)), riff(pcm(bits=8), bytes(range(200))),
        riff(pcm(bits=32, code=3), floats), riff(extensible, ramp.tobytes()), riff(pcm(channels=2), ramp.tobytes()),
        riff(pcm(), ramp.tobytes(), extra=note), riff(pcm(), ramp.tobytes(), length=0xFFFFFFFF),
    ]  # fmt: skip
    path = folder / "wav/x.wav"
    yield Reader("wav", path, samples, lambda: read_channels(path))

    def recording() -> None:
        """What is left in its file is what is read, and nothing is that the reader refuses."""
        kept = open_recording(long, 10)[:]
        try:
            whole, _ = read_wav(long)
        except DataError as error:
            raise AssertionError(f"the reader refuses it: {error}") from None
        assert np.array_equal(kept, whole)

    long = folder / "wav/long.wav"
    heard = [samples[place] for place in (0, 2, 3, 4, 6, 7)]  # neither silent nor of two channels
    yield Reader("recording", long, heard, recording)
    sphere = [
        write_sphere(folder / "s.sph", SAMPLES.tobytes(), count=len(SAMPLES), order=order, **more).read_bytes()
        for order, more in (("01", {}), ("10", {"sample_max": 32767}))
    ]
    sph = folder / "sphere/x.sph"
    yield Reader("sphere", sph, sphere, lambda: read_wav(sph))
    yield from _encoded_audio(folder)


def _encoded_audio(folder: Path) -> Iterator[Reader]:
    """What libsndfile decodes; of Ogg also with right checksums, so that the damage comes to the decoder."""
    few, both = speech(3000), speech(1200, channels=2)
    mp3, id3 = encode(few, "mp3"), b"ID3\4\0\0\0\0\0\2xy"
    samples = {
        "flac": [
            encode(few, "flac"),
            encode(both, "flac24"),
            encode(few, "flac8"),
            id3 + encode(few, "flac"),
        ],
        "vorbis": [encode(few, "vorbis"), encode(both, "vorbis")],
        "opus": [encode(few, "opus"), encode(both, "opus", 48000)],
        "mp3": [mp3, encode(both, "mp3", 44100), without_count(mp3), mp3 + b"TAG" + bytes(125)],
    }
    for name, files in samples.items():
        path = folder / name / "x"
        yield Reader(name, path, files, lambda path=path: read_channels(path))
        if name in ("vorbis", "opus"):
            right = folder / f"{name}-right/x"
            yield Reader(f"{name}-right", right, files, lambda path=right: read_channels(path), pack=_right_pages)
    bare = folder / "flac-undigested/x"
    yield Reader("flac-undigested", bare, samples["flac"][:3], lambda: read_channels(bare), pack=_without_digest)
    pipe = folder / "pipe/wav.scp"
    write(folder / "pipe/x.flac", few, "flac")
    commands = [f"flac -c -d -s {folder}/pipe/x.flac |", f"sox {folder}/pipe/x.flac -t wav - remix 1 |"]
    lines = [f"a {command}\n".encode() for command in commands]

    def read_table_of_pipes() -> None:
        for value in read_table(pipe).values():
            read_channels(value, where=str(pipe))

    yield Reader("pipe", pipe, lines, read_table_of_pipes)


def _right_pages(data: bytes) -> bytes:
    """An Ogg file with a right checksum in each of its pages that are still there."""
    pages = data.split(b"OggS")
    for number, rest in enumerate(pages[1:], 1):
        page = b"OggS" + rest
        if len(page) > 27:
            page = page[:22] + page_checksum(page) + page[26:]
        pages[number] = page[4:]
    return b"OggS".join(pages)


def _without_digest(data: bytes) -> bytes:
    """A FLAC file that says no digest of its samples, and so cannot be refused for that."""
    return data[:26] + bytes(16) + data[42:]


def _archives(folder: Path) -> Iterator[Reader]:
    matrix = np.arange(12, dtype=np.float64).reshape(4, 3) / 7
    written = []
    for name, values, compressed in (("f", matrix.astype("f4"), False), ("d", matrix, False), ("c", matrix, True)):
        with MatrixWriter(folder / f"{name}.ark", folder / f"{name}.scp", compressed=compressed) as writer:
            writer.write("utt1", values)
            writer.write("utt2", values[:2])
        written.append((folder / f"{name}.ark").read_bytes())
    rows = "\n  ".join(" ".join(f"{value:.4f}" for value in row) for row in matrix)
    written += [f"utt1  [\n  {rows} ]\nutt2  [ ]\n".encode()]
    written += [b"utt1 " + base64.b64decode(text) + b"utt2 " + base64.b64decode(text) for text in COMPRESSED.values()]
    ark = folder / "ark/x.ark"
    yield Reader("archive", ark, written, lambda: list(read_archive(ark)))
    single = folder / "matrix/x.ark"
    yield Reader("matrix", single, [data[5:] for data in written], lambda: read_matrix(f"{single}[0:1]"))
    alignments = {"utt1": np.arange(1, 9, dtype=np.int32), "utt2": np.array([], np.int32)}
    write_alignments(folder / "ali.1.gz", alignments)
    vectors = [gzip.decompress((folder / "ali.1.gz").read_bytes()), b"utt1 1 2 3 \nutt2 4 5\n"]
    plain = folder / "vectors/x.ark"
    yield Reader("int-vectors", plain, vectors, lambda: list(read_archive(plain, "int vector")))
    ali = folder / "ali/ali.1.gz"
    yield Reader("alignments", ali, vectors, lambda: read_alignments(ali.parent), pack=_gz)
    packed = folder / "ali-gz/ali.1.gz"
    yield Reader("alignments-gz", packed, [_gz(data) for data in vectors], lambda: read_alignments(packed.parent))


def _data_dir(path: Path) -> dict[str, bytes]:
    """A data directory with segments; its tables."""
    ramp = np.linspace(-20000, 20000, 4 * RATE).astype(np.int16)
    for reco in ("call1", "call2"):
        write_wav(path / f"{reco}.wav", ramp, RATE)
    with MatrixWriter(path / "f.ark", path / "feats.scp") as writer:
        for utt in ("a-1", "a-2", "b-1"):
            writer.write(utt, np.ones((5, 3), np.float32))
    with MatrixWriter(path / "c.ark", path / "cmvn.scp") as writer:
        for spk in ("a", "b"):
            writer.write(spk, np.ones((2, 4)))
    tables = {
        "wav.scp": f"call1 {path}/call1.wav\ncall2 {path}/call2.wav\n",
        "utt2spk": "a-1 a\na-2 a\nb-1 b\n",
        "spk2utt": "a a-1 a-2\nb b-1\n",
        "text": "a-1 one two\na-2 three\nb-1 one\n",
        "segments": "a-1 call1 0.5 1.25\na-2 call1 1.25 3.0\nb-1 call2 0 -1\n",
        "spk2gender": "a m\nb f\n",
        "utt2dur": "a-1 0.75\na-2 1.75\nb-1 4.0\n",
        "reco2dur": "call1 4.0\ncall2 4.0\n",
        "feats.scp": (path / "feats.scp").read_text(),
        "cmvn.scp": (path / "cmvn.scp").read_text(),
    }
    for name, text in tables.items():
        (path / name).write_text(text)
    return {name: text.encode() for name, text in tables.items()}


def _tables(folder: Path) -> Iterator[Reader]:
    path = folder / "data"
    tables = _data_dir(path)

    def read_all() -> None:
        data = DataDir.read(path)
        read_waves(data, sample_rate=RATE, min_samples=1)

    yield Reader("table", folder / "table/text", [tables["text"]], lambda: read_table(folder / "table/text"))

    def read_features() -> None:
        for _ in gmm_features(DataDir.read(path, need=("feats.scp", "cmvn.scp", "utt2spk"))):
            pass

    copy = folder / "fixed"

    def fix() -> None:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(path, copy)
        fix_data_dir(copy, report=str)

    for name in ("wav.scp", "segments", "utt2spk", "text"):
        yield Reader(f"read-{name}", path / name, [tables[name]], read_all, about=path)
    for name in ("feats.scp", "cmvn.scp", "utt2spk"):
        sample = tables[name].replace(b"\n", b"[0:1]\n") if name == "feats.scp" else tables[name]
        yield Reader(f"features-{name}", path / name, [tables[name], sample], read_features, about=path)
    for name in ("utt2spk", "segments", "text", "feats.scp"):
        yield Reader(f"fix-{name}", path / name, [tables[name]], fix, about=copy)
    for name in tables:
        yield Reader(f"validate-{name}", path / name, [tables[name]], lambda: validate_data_dir(path), about=path)


def _language(folder: Path) -> Iterator[Reader]:
    dictionary = write_dict(folder / "dict")
    lexicon = b"<SIL> 1.0 sil\none 0.7 one\none 0.3 three two\nthree 1.0 three\ntwo 1.0 two\n"
    (folder / "dictp").mkdir()
    for file in dictionary.iterdir():
        if file.name != "lexicon.txt":
            shutil.copy(file, folder / "dictp")
    (folder / "dictp/lexiconp.txt").write_bytes(lexicon)
    for place in (dictionary, folder / "dictp"):
        for file in sorted(place.iterdir()):
            name = f"{place.name}-{file.name}"
            yield Reader(name, file, [file.read_bytes()], lambda place=place: Dictionary.read(place), about=place)
    for name in ("words.txt", "phones.txt"):
        path = folder / "symbols" / name
        sample = (GOLDEN / "tri/lang" / name).read_bytes()
        yield Reader(name, path, [sample], lambda path=path: read_symbols(path))
    lang = folder / "lang"
    shutil.copytree(GOLDEN / "tri/lang", lang)
    for name in ("oov.txt", "oov.int", "phones/disambig.int", "phones/align_lexicon.int"):
        if name == "oov.int":
            (lang / "oov.txt").unlink()
        sample = (GOLDEN / "tri/lang" / name).read_bytes()
        yield Reader(f"lang-{name}", lang / name, [sample], lambda: read_pronunciations(Lang.read(lang)), about=lang)
    arpa = folder / "arpa/lm.arpa"
    yield Reader("arpa", arpa, [ARPA], lambda: read_arpa(arpa))
    packed = folder / "arpa/lm.gz"
    yield Reader("arpa-gz", packed, [_gz(ARPA)], lambda: read_arpa(packed))
    roots, sets = folder / "phones/roots.int", folder / "phones/sets.int"
    yield Reader("roots", roots, [b"shared split 1 2 3\nnot-shared not-split 4\n"], lambda: read_roots(roots))
    yield Reader("sets", sets, [b"1 2 3\n4\n5 6\n"], lambda: read_phone_sets(sets))


def _graphs(folder: Path) -> Iterator[Reader]:
    tri = folder / "graph/tri"
    shutil.copytree(GOLDEN / "tri", tri)
    const = (GOLDEN / "tri/graph/HCLG.fst").read_bytes()
    lexicon = (GOLDEN / "tri/lang/L.fst").read_bytes()
    vector = [lexicon, *(vector_bytes(read_fst_arrays(tri / name)) for name in ("lang/L.fst", "lang/G.fst"))]
    fst = folder / "fst/L.fst"
    yield Reader("fst-vector", fst, vector, lambda: wheels.read_fst(fst))
    other = folder / "fst/C.fst"
    yield Reader("fst-const", other, [const, (GOLDEN / "tri/lang/G.fst").read_bytes()], lambda: read_fst_arrays(other))
    pdfs = read_transitions(tri / "final.mdl").tid_to_pdf

    def graph() -> None:
        wheels._load_graph.cache_clear()  # which looks at times; files are written faster than clocks tick
        graph_files(tri / "graph")
        wheels.load_graph(tri / "graph", pdfs)

    hclg, words = tri / "graph/HCLG.fst", tri / "graph/words.txt"
    yield Reader("graph", hclg, [const, vector_bytes(read_fst_arrays(hclg))], graph, about=tri)
    yield Reader("graph-words", words, [words.read_bytes()], graph, about=tri)


def _lattices(folder: Path) -> Iterator[Reader]:
    def read(path: Path) -> None:
        for _, lattice in read_lattices(path):
            best_paths(lattice, [(1.0, 0.1, 0.5)])
            compact_bytes(lattice)

    compact = [f"utt{i} ".encode() + compact_bytes(random_lattice(np.random.default_rng(i))) for i in range(4)]
    plain = b"a \n0 1 4 3 1.5,-2.25\n0 1 5 0\n1 0.25,1\n\n"
    text = b"a \n0\t1\t3\t1.5,-2.25,4_4_5\n0\t1\t2\t0.5,8,\n1\t0.25,1,6\n\nb \n0 1 2\n1\n\n"
    binary, packed = folder / "lattices/lat", folder / "lattices/lat.1.gz"
    yield Reader("lattices", binary, [*compact, b"".join(compact), plain, text], lambda: read(binary))
    yield Reader("lattices-gz", packed, [b"".join(compact), text], lambda: read(packed), pack=_gz)


def _models(folder: Path) -> Iterator[Reader]:
    tri = folder / "models/tri"
    shutil.copytree(GOLDEN / "tri", tri)
    write_model(folder / "models/b/final.mdl", read_transitions(tri / "final.mdl"))
    forms = [(tri / "final.mdl").read_bytes(), (folder / "models/b/final.mdl").read_bytes()]
    gmms = [GMM, (GOLDEN.parent / "golden/mono/final.mdl").read_bytes()]
    trees = [(tri / name).read_bytes() for name in ("tree", "text/tree")]

    def load() -> None:
        wheels._load_model.cache_clear()
        wheels.load_model(tri)

    mdl, topo, tree = folder / "mdl/final.mdl", folder / "topo/topo", folder / "tree/tree"
    topologies = [(GOLDEN / "tri/lang/topo").read_bytes()]
    yield Reader("final.mdl", mdl, gmms, lambda: read_gmm_model(mdl))
    yield Reader("topo", topo, topologies, lambda: read_topology(topo))
    yield Reader("tree", tree, trees, lambda: wheels.read_tree(tree))
    written = folder / "tree-text/tree"
    yield Reader("tree-text", written, [trees[1], TREE], lambda: wheels.read_tree(written))
    yield Reader("model-mdl", tri / "final.mdl", forms, load, about=tri)
    yield Reader("model-tree", tri / "tree", trees, load, about=tri)
    yield from _networks(folder)
    digests = folder / "digests" / DIGESTS_FILE
    sample = b"0" * 64 + b"  other.mdl\n" + b"1" * 64 + b"  tree\n"
    digests.parent.mkdir()
    (digests.parent / "final.mdl").write_bytes(b"")
    yield Reader("digests", digests, [sample], lambda: check_digest(digests.parent / "final.mdl"))


def _networks(folder: Path) -> Iterator[Reader]:
    model = HybridModel(FRONT_END, DnnConfig(input_dim=42, num_pdfs=5, hidden_dims=(4,)))
    model.save(folder / "net" / MODEL_FILE)
    sample = (folder / "net" / MODEL_FILE).read_bytes()
    for name, read in (("load", HybridModel.load), ("weights", model.load_weights), ("kind", kind_of)):
        path = folder / f"net-{name}" / MODEL_FILE
        where = path.parent if name == "kind" else path
        yield Reader(f"safetensors-{name}", path, [sample], lambda read=read, where=where: read(where))
    out = folder / "checkpoint"
    out.mkdir()
    lang = Lang.read(GOLDEN / "tri/lang")
    inputs = TrainingInputs({}, {}, {}, 0.01, np.zeros(1, np.int64), GOLDEN / "tri", lang)
    trainer = Trainer(out, model, inputs, EmbeddedEngine(), config=TrainConfig(average=0.9), decode=DecodeConfig())
    data = TrainingSet(["u"], torch.zeros(6, 14), np.array([0, 6]), torch.zeros(6, dtype=torch.int64))

    def optimiser() -> torch.optim.Optimizer:
        return torch.optim.Adam(model.network.parameters(), fused=True)

    used = optimiser()
    for parameter in model.network.parameters():
        parameter.grad = torch.ones_like(parameter)
    used.step()
    trainer.history = [{"epoch": 0, "loss": 1.5}]
    trainer._checkpoint(used, data, 1)
    checkpoint = (out / CHECKPOINT).read_bytes()
    yield Reader("checkpoint", out / CHECKPOINT, [checkpoint], lambda: trainer._resume(optimiser(), data))


def _options(folder: Path) -> Iterator[Reader]:
    mfcc, fbank, options = (folder / "conf" / name for name in ("mfcc.conf", "fbank.conf", "train.conf"))
    conf = b"# features\n--sample-frequency=8000 # Hz\n--use-energy=false\n--num-mel-bins=23\n--dither=0\n"
    yield Reader("mfcc-conf", mfcc, [conf, (GOLDEN / "mfcc_hires.conf").read_bytes()], lambda: read_mfcc_conf(mfcc))
    yield Reader("fbank-conf", fbank, [(GOLDEN / "fbank.conf").read_bytes()], lambda: read_fbank_conf(fbank))
    known = {"num_epochs": int, "learning_rate": float, "hidden_dims": tuple[int, ...], "model": str, "fixed": bool}
    sample = b"# x\n--num-epochs=10\n--learning-rate=1e-3 # Adam\n--hidden-dims=10,20\n--model=dnn\n--fixed=true\n"
    yield Reader("option-file", options, [sample], lambda: read_option_file(options, known))
    opts = folder / "opts"
    for name, text in (
        ("cmvn_opts", b"--norm-means=true --norm-vars=true\n"),
        ("delta_opts", b"--delta-window=3 --delta-order=2\n"),
    ):
        yield Reader(name, opts / name, [text], lambda: read_recipe_opts(opts), about=opts)


def _detectors(folder: Path) -> Iterator[Reader]:
    rng = np.random.default_rng(0)
    names = ("max_predictive_entropy", "mean_mutual_information")
    benign = {name: rng.normal(2.0, 0.5, 60) for name in names}
    found: dict[str, OneClassDetector] = fit_detectors(benign)
    samples = []
    for name, detector in found.items():
        save_detector(detector, folder / "fitted" / f"{name}.json")
        samples.append((folder / "fitted" / f"{name}.json").read_bytes())
    path, frames = folder / "detector/all-joint.json", folder / "detector/frames.json"
    yield Reader("detector", path, samples, lambda: load_detector(path))
    values = tuple(np.linspace(0.1, 3.0, 3).tolist())
    save_frame_quantiles(FrameQuantiles("0" * 64, 100, (0.1, 0.5, 0.9), dict.fromkeys(names, values)), frames)
    yield Reader("frame-quantiles", frames, [frames.read_bytes()], lambda: load_frame_quantiles(frames))
    search = folder / "search" / SEARCH_FILE
    settings = json.dumps(SearchConfig().to_dict()).encode()
    yield Reader("search", search, [settings], lambda: model_search(search.parent))


def _results(folder: Path) -> Iterator[Reader]:
    counts = ErrorRate(substitutions=1, num_words=3, num_utts=1).counts()
    statistics = {"max_predictive_entropy": 1.5, "mean_mutual_information": 0.25}
    benign = [
        {"utt": utt, "text": "one two", "hypothesis": "one", "errors": counts, "statistics": statistics} for utt in "ab"
    ]
    errors = {"target_errors": counts, "original_errors": counts}
    attacked = [
        {"utt": utt, "target": "two", "original": "one", "hypothesis": "two", "target_success": True, **errors,
         "snr_db": 31.5, "statistics": statistics, "eps": 0.02, "eps_used": 0.02, "passes": False, "steps": 100}
        for utt in "ab"
    ]  # fmt: skip
    for name, lines, read in (("benign", benign, read_benign), ("attacked", attacked, read_attacked)):
        path = folder / name / "results.jsonl"
        sample = "".join(json.dumps(line) + "\n" for line in lines).encode()
        yield Reader(name, path, [sample], lambda read=read, path=path: read(path))
    lines_dir = folder / "lines"
    yield Reader("lines", lines_dir / "results.jsonl", [sample], lambda: read_lines(lines_dir))
    checks = {"gradient": {"passed": True, "value": 1.0, "limit": 0.5, "remedy": "none"}}
    content = {"environment": {"torch": "2"}, "timing_s": {"stage0": 1.5}, "clean": {"dnn": {"accuracy": 0.9}}}
    row = {
        "model": "dnn", "attack": "pgd", "eps": 0.02, "num_utts": 6, "target_accuracy": 0.5, "original_accuracy": 0.25,
        "snr_db_mean": 30.5, "checks": checks,
    }  # fmt: skip
    table = json.dumps({**content, "attacks": [row]}).encode()
    plain, packed = folder / "table-json/results.json", folder / "table-gz/results.json"
    yield Reader("results", plain, [table], lambda: Results(plain).pack())
    gz = packed.with_name("results.json.gz")
    yield Reader("results-gz", gz, [_gz(table)], lambda: Results(packed), about=packed)
    yield Reader("checks", folder / "checks/checks.json", [json.dumps(checks).encode()],
                 lambda: read_checks(folder / "checks"))  # fmt: skip
    part = folder / "attack/parts/0.json"
    write_wav(folder / "attack/wav/a.wav", np.zeros(10, np.int16), RATE)
    state = json.dumps({"key": "k", "records": {"a": {"target": ["one"], "steps": 3}}}).encode()
    yield Reader("part", part, [state], lambda: _finished(part, "k", wave_files(part.parents[1], ["a"])))
    (folder / "run").mkdir()
    stage = Stage(folder / "run", 0, ["tiny"])
    stage.begin()
    stage.end()
    key = stage._key()
    stage._key = lambda: key  # type: ignore[method-assign]  # reads all code
    yield Reader("stage", stage._stamp, [stage._stamp.read_bytes()], stage.is_done)
    stamp = DoneStamp(folder / "stamp", "fit", options={"fpr": 0.01})
    stamp.write()
    yield Reader("stamp", stamp.path, [stamp.path.read_bytes()], stamp.is_current)
