"""A whole recogniser in a second: three words of tones, whole-word HMMs, monophone training, a decoding graph."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kaldi_uq.engine.base import DecodeConfig, MonoConfig, SystemBuilder
from kaldi_uq.engine.embedded.engine import EmbeddedEngine
from kaldi_uq.feats.config import FrontEndConfig, MfccConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.io.ark import read_alignments
from kaldi_uq.io.datadir import write_data_dir, write_table
from kaldi_uq.io.files import write_text
from kaldi_uq.io.kaldi_model import TransitionTable, read_transitions
from kaldi_uq.io.lang import Lang
from kaldi_uq.io.wav import to_int16, write_wav
from kaldi_uq.language.prepare import loop_grammar, prepare_lang
from kaldi_uq.nnet.config import ModelConfig, model_class
from kaldi_uq.recogniser.hybrid import MODEL_FILE, HybridModel
from kaldi_uq.recogniser.recogniser import Recogniser
from kaldi_uq.training.config import RobustConfig, TrainConfig
from kaldi_uq.training.parallel import ONE, Workers
from kaldi_uq.training.trainer import Trainer, TrainingInputs

RATE = 8000
STATES = {"sil": 1, "one": 3, "three": 4, "two": 2}
TONES = {"one": 400.0, "three": 1300.0, "two": 2500.0}  # Hz at the beginning of the word; it rises by half
FRONT_END = FrontEndConfig(
    mfcc=MfccConfig(sample_frequency=RATE, use_energy=False, num_mel_bins=15, num_ceps=7),
    delta_order=1,
    left_context=1,
    right_context=1,
)
GRAPH_SCALES = {"transition_scale": 1.0, "self_loop_scale": 0.1}


def write_dict(folder: Path, states: dict[str, int] | None = None) -> Path:
    """A dictionary directory in which every word is a phone."""
    states = STATES if states is None else states
    words = [word for word in states if word != "sil"]
    write_text(folder / "lexicon.txt", "<SIL> sil\n" + "".join(f"{word} {word}\n" for word in words))
    write_text(folder / "silence_phones.txt", "sil\n")
    write_text(folder / "optional_silence.txt", "sil\n")
    write_text(folder / "nonsilence_phones.txt", "".join(f"{word}\n" for word in words))
    write_text(folder / "num_states.txt", "".join(f"{phone} {count}\n" for phone, count in states.items()))
    return folder


def make_lang(folder: Path, states: dict[str, int] | None = None, engine: SystemBuilder | None = None) -> Lang:
    """A language directory with a loop of the words as its grammar."""
    engine = engine or EmbeddedEngine()
    prepare_lang(write_dict(folder / "dict", states), "<SIL>", folder / "lang", engine)
    lang = Lang.read(folder / "lang")
    words = [word for word in (states or STATES) if word != "sil"]
    engine.compile_fst(loop_grammar(words, lang.words), lang.path / "G.fst", sort="ilabel")
    return lang


def make_waves(num_utts: int, seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Utterances of one to three words with silence around them, on the 16-bit grid."""
    rng = np.random.default_rng(seed)
    waves, text = {}, {}
    for number in range(num_utts):
        words = [str(w) for w in rng.choice(sorted(TONES), int(rng.integers(1, 4)))]
        parts = [np.zeros(int(rng.integers(600, 900)))]
        for word in words:
            size = int(rng.integers(900, 1300))
            time = np.arange(size) / RATE
            phase = 2 * np.pi * TONES[word] * time * (1 + 0.25 * time * RATE / size)
            parts += [0.3 * np.sin(phase), np.zeros(int(rng.integers(300, 600)))]
        wave = np.concatenate(parts)
        wave += 0.003 * rng.standard_normal(len(wave))
        waves[f"utt{number:02d}"] = (np.rint(wave * 32768) / 32768).astype(np.float32)
        text[f"utt{number:02d}"] = words
    return waves, text


def write_set(folder: Path, waves: dict[str, np.ndarray], text: dict[str, list[str]]) -> Path:
    """A data directory with a file for each utterance, each of a speaker of its own."""
    paths = {utt: folder / "wav" / f"{utt}.wav" for utt in waves}
    for utt, wav in waves.items():
        write_wav(paths[utt], to_int16(wav), RATE)
    write_data_dir(
        folder,
        wav_scp={utt: str(path) for utt, path in paths.items()},
        text={utt: " ".join(words) for utt, words in text.items()},
        utt2spk={utt: utt for utt in waves},
        utt2dur={utt: len(wav) / RATE for utt, wav in waves.items()},
    )
    return folder


def write_segments(folder: Path, waves: dict[str, np.ndarray], text: dict[str, list[str]]) -> Path:
    """A data directory whose utterances are segments of one recording, which is the output of a command."""
    recording = folder / "recording.wav"
    write_wav(recording, to_int16(np.concatenate(list(waves.values()))), RATE)
    ends = np.cumsum([len(wave) for wave in waves.values()])
    times = zip((ends - [len(wave) for wave in waves.values()]) / RATE, ends / RATE, strict=True)
    write_table(folder / "wav.scp", {"session": f"tail -c +1 {shlex.quote(str(recording))} |"})
    write_table(
        folder / "segments",
        {utt: f"session {start:.6f} {end:.6f}" for utt, (start, end) in zip(waves, times, strict=True)},
    )
    write_table(folder / "utt2spk", {utt: utt for utt in waves})
    write_table(folder / "spk2utt", {utt: utt for utt in waves})
    write_table(folder / "text", {utt: " ".join(words) for utt, words in text.items()})
    return folder


def features(waves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """(T, D) features of each utterance, one by one."""
    front_end = FrontEnd(FRONT_END)
    with torch.no_grad():
        return {
            utt: front_end.features(torch.from_numpy(w)[None], torch.tensor([len(w)]))[0][0].numpy()
            for utt, w in waves.items()
        }


@dataclass
class TinySystem:
    """Directories and data of the recogniser."""

    lang: Lang
    mono: Path
    graph: Path
    waves: dict[str, np.ndarray]
    text: dict[str, list[str]]
    engine: SystemBuilder = field(default_factory=EmbeddedEngine)

    @property
    def table(self) -> TransitionTable:
        return read_transitions(self.mono / "final.mdl")

    @property
    def alignments(self) -> dict[str, np.ndarray]:
        return read_alignments(self.mono)

    def word_ids(self, *words: str) -> list[int]:
        return self.lang.word_ids(words, where="test")

    def network(self, kind: str = "dnn") -> ModelConfig:
        """A small network that fits the front end and the HMM."""
        own = {
            "ensemble": {"num_members": 2},
            "dropout": {"num_samples": 3, "dropout": 0.2},
            "bnn": {"num_samples": 3},
        }
        config: type[ModelConfig] = model_class(kind).config_class
        sizes = {"input_dim": FrontEnd(FRONT_END).output_dim, "num_pdfs": self.table.num_pdfs, "hidden_dims": (16,)}
        return config(**sizes, **own.get(kind, {}))

    def trainer(
        self,
        out: Path,
        model: HybridModel,
        config: TrainConfig,
        *,
        robust: RobustConfig | None = None,
        key: str = "",
        workers: Workers = ONE,
        **changes: Any,
    ) -> Trainer:
        """A training of this model on the alignments of the monophone system."""
        inputs: dict[str, Any] = {
            "waves": self.waves,
            "text": self.text,
            "alis": self.alignments,
            "ali_shift_s": 0.01,
            "tid_to_pdf": self.table.tid_to_pdf,
            "ali_dir": self.mono,
            "lang": self.lang,
        }
        out.mkdir(parents=True, exist_ok=True)
        given = TrainingInputs(**{**inputs, **changes})
        options: dict[str, Any] = {"robust": robust, "key": key, "workers": workers}
        return Trainer(out, model, given, self.engine, config=config, decode=DecodeConfig(), **options)

    def train(self, kind: str = "dnn", seed: int = 0) -> HybridModel:
        """A network that knows the words: half a second of training on the alignments."""
        model = HybridModel(FRONT_END, self.network(kind), seed=seed)
        every = torch.from_numpy(np.concatenate(list(features(self.waves).values())))
        model.front_end.norm.set_stats(every.mean(0), every.std(0))
        inputs, pdfs = [], []
        with torch.no_grad():
            for utt, wav in self.waves.items():
                x, _ = model.front_end(torch.from_numpy(wav)[None], torch.tensor([len(wav)]))
                inputs.append(x[0])
                pdfs.append(torch.from_numpy(self.table.tid_to_pdf[self.alignments[utt]]).long())
        x, y = torch.cat(inputs), torch.cat(pdfs)
        model.set_prior(np.bincount(y.numpy(), minlength=self.table.num_pdfs))
        optimiser = torch.optim.Adam(model.network.parameters(), lr=0.02)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(60):
            optimiser.zero_grad()
            model.network.training_loss(x, y, num_frames_total=len(y), generator=generator).backward()
            optimiser.step()
        return model.eval()

    def write_model(self, model: HybridModel, out: Path) -> Path:
        """A model directory as a recipe leaves it, with a graph."""
        model.save(out / MODEL_FILE)
        for name in ("final.mdl", "tree"):
            shutil.copy(self.mono / name, out)
        shutil.copytree(self.graph, out / "graph")
        return out

    def recogniser(self, model: HybridModel, **options: Any) -> Recogniser:
        """A recogniser around a model, with the lexicon and the graph of the system."""
        return Recogniser(model, self.engine, self.mono, graph_dir=self.graph, lang_dir=self.lang.path, **options)


MONO = MonoConfig(num_iters=6, max_iter_inc=4, totgauss=20, realign_iters=(1, 2, 3, 4, 5))


def train_mono(
    folder: Path,
    lang: Lang,
    waves: dict[str, np.ndarray],
    text: dict[str, list[str]],
    engine: SystemBuilder | None = None,
) -> Path:
    """Train the monophone system into ``folder``."""
    transcripts = {utt: lang.word_ids(words, where="test") for utt, words in text.items()}
    (engine or EmbeddedEngine()).train_mono(features(waves), transcripts, lang, folder, MONO)
    return folder


def make_system(folder: Path, num_utts: int = 16, engine: SystemBuilder | None = None) -> TinySystem:
    """Everything, from the dictionary to the graph, below ``folder``."""
    engine = engine or EmbeddedEngine()
    lang = make_lang(folder, engine=engine)
    waves, text = make_waves(num_utts)
    mono = train_mono(folder / "mono", lang, waves, text, engine)
    system = TinySystem(lang, mono, mono / "graph", waves, text, engine)
    system.engine.make_graph(lang, mono, system.graph, **GRAPH_SCALES)
    return system
