"""CtcRecogniser: searches against brute force, batches, wrappers, attacks, and every command with --recogniser.

One file: the commands are asked about the recogniser whose parts the tests before them check.
"""

from __future__ import annotations

import copy
import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kaldi_uq.attacks.adaptive import Adaptive
from kaldi_uq.attacks.checks.one_run import check
from kaldi_uq.attacks.goal import Say, Untargeted
from kaldi_uq.attacks.pgd import PGD
from kaldi_uq.cli.main import main
from kaldi_uq.detector import GaussianDetector
from kaldi_uq.errors import AlignmentError, DataError, MissingDependencyError
from kaldi_uq.io.datadir import write_table
from kaldi_uq.io.wav import on_grid, read_wav, to_int16, write_wav
from kaldi_uq.nnet import ensemble, mc_dropout, vmg
from kaldi_uq.recogniser.ctc import CtcRecogniser
from kaldi_uq.recogniser.ctc_search import beam_search, best_path, frames_needed, greedy
from tests import tones
from tests.recipe import make_recipe
from tests.tiny import RATE, make_waves
from tests.tones import TOKENS, Tones


def collapsed(path: tuple[int, ...], blank: int) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token != blank)


def log_posteriors(num_frames: int, num_classes: int, seed: int) -> np.ndarray:
    logits = torch.randn(num_frames, num_classes, generator=torch.Generator().manual_seed(seed)) * 2
    return logits.log_softmax(1).numpy()


def probabilities(log_post: np.ndarray, blank: int) -> dict[tuple[int, ...], list[tuple[float, tuple[int, ...]]]]:
    """Every text, with the log-probability of each of its paths."""
    texts: dict[tuple[int, ...], list[tuple[float, tuple[int, ...]]]] = {}
    for path in itertools.product(range(log_post.shape[1]), repeat=len(log_post)):
        score = float(log_post[range(len(path)), path].astype(np.float64).sum())
        texts.setdefault(collapsed(path, blank), []).append((score, path))
    return texts


def total(paths: list[tuple[float, tuple[int, ...]]]) -> float:
    return float(np.logaddexp.reduce([score for score, _ in paths]))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("blank", [0, 2])
class TestSearch:
    def test_greedy_is_the_best_of_all_paths(self, seed: int, blank: int) -> None:
        log_post = log_posteriors(6, 3, seed)
        best = max(path for paths in probabilities(log_post, blank).values() for path in paths)[1]
        assert greedy(log_post, blank) == collapsed(best, blank)

    def test_wide_beam_is_the_best_of_all_texts(self, seed: int, blank: int) -> None:
        log_post = log_posteriors(6, 3, seed)
        texts = probabilities(log_post, blank)
        assert beam_search(log_post, blank, 200) == max(texts, key=lambda text: total(texts[text]))

    def test_aligned_path_is_the_best_of_the_text(self, seed: int, blank: int) -> None:
        log_post = log_posteriors(6, 3, seed)
        for text, paths in probabilities(log_post, blank).items():
            found = best_path(log_post, text, blank)
            if text:
                assert found is not None and found.dtype == np.int64
                assert tuple(found.tolist()) == max(paths)[1]

    def test_text_without_a_path_is_one_that_needs_more_frames(self, seed: int, blank: int) -> None:
        log_post = log_posteriors(4, 3, seed)
        texts = probabilities(log_post, blank)
        tokens = [token for token in range(3) if token != blank]
        for text in itertools.product(tokens, repeat=3):
            assert (text in texts) == (frames_needed(text) <= 4) == (best_path(log_post, text, blank) is not None)


def test_beam_adds_up_paths_that_the_best_path_does_not() -> None:
    log_post = np.log([[0.6, 0.4], [0.6, 0.4]]).astype(np.float32)  # nothing: 0.36, one token: 0.64
    assert greedy(log_post, 0) == ()
    assert beam_search(log_post, 0, 2) == (1,)


class TestText:
    LETTERS = ("-", "|", "a", "b", "<unk>")

    @staticmethod
    def of(tokens: tuple[str, ...], **options: Any) -> CtcRecogniser:
        return CtcRecogniser(Tones(len(tokens)), tokens, RATE, num_frames=tones.num_frames, min_samples=160, **options)

    @staticmethod
    def path(tokens: tuple[str, ...], text: str) -> np.ndarray:
        return np.log(np.eye(len(tokens), dtype=np.float32)[[tokens.index(token) for token in text]] + 1e-6)

    @pytest.mark.parametrize("beam", [0, 4])
    def test_characters_are_words_between_separators(self, beam: int) -> None:
        recogniser = self.of(self.LETTERS, beam=beam)
        scores = self.path(self.LETTERS, "|ab-b||-|aa|")
        assert recogniser.decode([("u", scores)]) == {"u": ("abb", "a")}
        assert recogniser.ctc_tokens(["abb", "a"]) == [2, 3, 3, 1, 2]
        assert recogniser.decode([("u", scores[:1])]) == {"u": ()}

    def test_blank_is_named_or_numbered(self) -> None:
        tokens = ("yes", "no", "<pad>", "<unk>")
        scores = self.path(tokens, ["yes", "yes", "<pad>", "yes", "no", "<unk>"])
        for blank in (2, "<pad>"):
            assert self.of(tokens, blank=blank).decode([("u", scores)]) == {"u": ("yes", "yes", "no")}

    def test_aligned_target_is_heard_again(self) -> None:
        recogniser = self.of(self.LETTERS)
        paths = recogniser.align(
            {u: log_posteriors(9, 5, 0) for u in "xy"}, {"x": ["abba", "b"], "y": ["aab", "bb", "ab"]}
        )
        assert list(paths) == ["x"]  # y needs two frames more than there are
        assert collapsed(tuple(paths["x"].tolist()), 0) == tuple(recogniser.ctc_tokens(["abba", "b"]))

    def test_targets_that_cannot_be_are_named(self) -> None:
        recogniser = self.of(self.LETTERS)
        with pytest.raises(DataError, match=r"f: utterance 'u': 'c' in 'abc' is no character .* writes: a b$"):
            recogniser.check_target("u", ["abc"], 99, "f")
        with pytest.raises(DataError, match=r"'<unk>' is no word that the recogniser writes: yes no$"):
            self.of(("<b>", "yes", "no", "<unk>")).check_target("u", ["<unk>"], 99, "f")
        with pytest.raises(DataError, match="f: the target of utterance 'u' is empty"):
            recogniser.check_target("u", [], 99, "f")
        with pytest.raises(AlignmentError, match=r"f: target 'abb a' of utterance 'u' needs at least 6 .* has 5"):
            recogniser.check_target("u", ["abb", "a"], 5, "f")
        recogniser.check_target("u", ["abb", "a"], 6, "f")

    def test_random_targets_are_of_the_words_and_fit(self) -> None:
        recogniser = self.of(self.LETTERS, words=["ab", "abba"])
        targets = [recogniser.random_target(f"u{n}", ["ab"], 12, seed=0) for n in range(30)]
        assert {word for target in targets for word in target} == {"ab", "abba"}
        assert len({tuple(target) for target in targets}) > 3 and ["ab"] not in targets
        for target in targets:
            recogniser.check_target("u", target, 12, "f")
        whole = self.of(("<b>", "yes", "no", "<unk>"))
        assert {w for n in range(30) for w in whole.random_target(f"{n}", [], 12, seed=0)} == {"yes", "no"}

    def test_random_targets_of_characters_need_words(self) -> None:
        with pytest.raises(ValueError, match="tokens are characters: say words=, or give targets"):
            self.of(self.LETTERS).random_target("u", [], 99, seed=0)
        with pytest.raises(DataError, match="'c' in 'ac' is no character"):
            self.of(self.LETTERS, words=["ac"])

    @pytest.mark.parametrize(
        "tokens, options, message",
        [
            (("a", "b", "a"), {}, "token 'a' is there twice"),
            (("a", "b"), {"blank": "-"}, "blank '-' is no token; there are a b"),
            (("a", "b"), {"blank": 2}, "blank must be the index of one of 2 tokens, got 2"),
            (("a", "b"), {"beam": -1}, "beam must be >= 0"),
            (("a", "b"), {"num_draws": 5}, "5 draws: the module is not random"),
        ],
    )
    def test_mistakes_are_named(self, tokens: tuple[str, ...], options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            self.of(tokens, **options)


class TestModule:
    @pytest.mark.long
    def test_words_and_statistics_do_not_depend_on_the_batch(self) -> None:
        waves, text = make_waves(16, seed=5)
        for options in ({}, {"num_frames": None}, {"beam": 8}):
            recogniser = tones.recogniser(**options)
            heard = recogniser.hear(waves)
            assert {utt: list(one.words) for utt, one in heard.items()} == text
            for utt in list(waves)[:4]:
                alone = recogniser.hear({utt: waves[utt]})[utt]
                assert alone.statistics == pytest.approx(heard[utt].statistics, abs=1e-5)
                assert len(alone.frames["predictive_entropy"]) == tones.num_frames(len(waves[utt]))

    def test_int16_and_float_are_the_same_audio(self) -> None:
        waves = {utt: on_grid(wave) for utt, wave in make_waves(2)[0].items()}
        recogniser = tones.recogniser()
        floats, integers = (recogniser.hear(w) for w in (waves, {u: to_int16(w) for u, w in waves.items()}))
        assert [one.statistics for one in floats.values()] == [one.statistics for one in integers.values()]

    def test_shortest_audio_and_distance_of_frames_are_found(self) -> None:
        for count in (tones.num_frames, None):
            recogniser = tones.recogniser(num_frames=count)
            assert (recogniser.min_samples, recogniser.frame_shift_s) == (160, 0.01)
            with pytest.raises(DataError, match=r"a: 159 samples .* the shortest that can be judged is 160"):
                recogniser.hear({"a": np.zeros(159, np.float32)})
            assert len(recogniser.hear({"a": np.zeros(160, np.float32)})["a"].frames["predictive_entropy"]) == 1

    @pytest.mark.long
    @pytest.mark.parametrize("wrap", [lambda net: net, mc_dropout], ids=["plain", "random"])
    def test_module_that_hears_padding_is_refused_in_padded_batches_only(self, wrap: Callable[..., nn.Module]) -> None:
        waves = make_waves(6, seed=5)[0]
        centred = wrap(tones.network(centred=True))
        recogniser = CtcRecogniser(centred, TOKENS, RATE, num_frames=tones.num_frames)
        with pytest.raises(ValueError, match=r"padding changes what the module hears: .* leave num_frames out"):
            recogniser.hear(waves)
        assert recogniser.hear({"a": waves["utt00"], "b": waves["utt00"]}).keys() == {"a", "b"}
        assert CtcRecogniser(centred, TOKENS, RATE).hear(waves).keys() == waves.keys()
        deaf = CtcRecogniser(wrap(tones.network()), TOKENS, RATE, num_frames=tones.num_frames)
        assert deaf.hear(waves).keys() == waves.keys()

    def test_wrong_number_of_frames_is_named(self) -> None:
        with pytest.raises(ValueError, match="num_frames says 100 frames for 8000 samples, the module gives 99"):
            tones.recogniser(num_frames=lambda num_samples: num_samples // 80)

    @pytest.mark.parametrize(
        "give, message",
        [
            (lambda x: x.mean(1), "the module must give logits (1, 'T', 'C'), got (1, 4)"),
            (lambda x: (x, None), "the module must give one tensor of logits, got tuple"),
            (lambda x: x[:, :, :3], "4 tokens, but the module gives 3 classes"),
            (lambda x: x * torch.nan, "the module gives numbers that are not finite for 8000 samples of noise"),
            (lambda x: x[:, :1], "8000 and 40000 samples give 1 and 1 frames: CTC needs more"),
        ],
    )
    def test_module_of_another_sort_is_named(self, give: Callable[[Tensor], Any], message: str) -> None:
        class Other(Tones):
            def forward(self, wav: Tensor) -> Any:
                return give(super().forward(wav))

        with pytest.raises(ValueError, match=re.escape(message)):
            CtcRecogniser(Other(), TOKENS, RATE)

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda: mc_dropout(tones.network(), num_samples=4),
            lambda: ensemble(Tones, 3),
            lambda: vmg(tones.network(), init_log_var=-3.0, num_samples=4),
        ],
        ids=["dropout", "ensemble", "vmg"],
    )
    def test_wrapped_module_disagrees_with_itself_and_is_heard_again_the_same(
        self, wrap: Callable[[], nn.Module]
    ) -> None:
        waves = make_waves(3, seed=5)[0]
        recogniser = CtcRecogniser(wrap(), TOKENS, RATE)
        heard, again = (recogniser.hear(waves, seed=2) for _ in range(2))
        for utt in waves:
            assert heard[utt].statistics["max_mutual_information"] > 1e-4
            assert heard[utt].statistics == again[utt].statistics
        assert tones.recogniser().hear(waves)[utt].statistics.get("max_mutual_information", 0.0) == 0.0
        assert recogniser.recommended_statistic == recogniser.model.recommended_statistic

    def test_key_is_of_weights_and_tokens(self) -> None:
        keys = {tones.recogniser().model_key for _ in range(2)}
        plain = ("-", *TOKENS[1:])
        keys |= {CtcRecogniser(tones.network(), plain, RATE, blank=blank).model_key for blank in (0, 1)}
        keys.add(CtcRecogniser(tones.network(), TOKENS[::-1], RATE, blank=3).model_key)
        keys.add(CtcRecogniser(Tones(), TOKENS, RATE).model_key)
        assert len(keys) == 5


class Normed(Tones):
    """With batch normalisation, which a pass in training mode changes."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__(dropout=0.3)
        self.norm = nn.BatchNorm1d(16)
        self.load_state_dict(tones.trained(), strict=False)
        self.last.weight.data *= scale

    def forward(self, wav: Tensor) -> Tensor:
        frames = nn.functional.pad(wav, (2 * 80, 2 * 80)).unfold(1, 160, 80)
        energies = (100 * torch.fft.rfft(frames * self.window).abs().square()).log1p() / 4
        hidden = self.drop(self.norm(self.first(energies.transpose(1, 2)).relu()))
        logits: Tensor = self.last(hidden.transpose(1, 2))
        return logits


class TestOneModuleOfSeveralRecognisers:
    WAVES = make_waves(2, seed=5)[0]
    WRAPS: dict[str, Callable[[nn.Module], nn.Module]] = {
        "plain": lambda net: net,
        "rare": lambda net: mc_dropout(net, p=0.05, num_samples=4),
        "often": lambda net: mc_dropout(net, p=0.6, num_samples=4),
        "members": lambda net: ensemble([net, Normed(0.5)]),
        "bayesian": lambda net: vmg(net, num_samples=2),
    }

    def entropies(self, recogniser: CtcRecogniser) -> list[float]:
        return [one.statistics["mean_predictive_entropy"] for one in recogniser.hear(self.WAVES).values()]

    @pytest.mark.long
    @pytest.mark.parametrize("first, second", [*itertools.permutations(WRAPS, 2)])
    def test_wrappers_do_not_feel_each_other(self, first: str, second: str) -> None:
        torch.manual_seed(0)
        net = Normed().train()
        state = copy.deepcopy(net.state_dict())
        one = CtcRecogniser(self.WRAPS[first](net), TOKENS, RATE)
        before = self.entropies(one)
        other = CtcRecogniser(self.WRAPS[second](net), TOKENS, RATE)
        assert self.entropies(one) == before != self.entropies(other)
        assert self.entropies(one) == before
        assert net.drop.p == 0.3 and all(layer.training for layer in net.modules())
        assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())

    @pytest.mark.parametrize("wrap", WRAPS)
    def test_training_mode_neither_changes_what_is_heard_nor_is_changed(self, wrap: str) -> None:
        net = Normed().eval()
        model = self.WRAPS[wrap](net)
        recogniser = CtcRecogniser(model, TOKENS, RATE)
        before = self.entropies(recogniser)
        model.train()
        net.train()
        state = copy.deepcopy(model.state_dict())
        assert self.entropies(recogniser) == before
        waves = {utt: on_grid(wave) for utt, wave in self.WAVES.items()}
        PGD(eps=0.01, num_steps=2, loss="ctc")(recogniser, waves, Say(dict.fromkeys(waves, "one")))
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert all(layer.training for layer in [*model.modules(), *net.modules()])

    def test_further_training_is_heard_and_gives_another_key(self) -> None:
        net = Normed()
        recogniser = CtcRecogniser(net, TOKENS, RATE)
        assert recogniser.model.module is net
        before, key = self.entropies(recogniser), recogniser.model_key
        assert recogniser.model_key == key
        with torch.no_grad():
            net.last.weight.mul_(0.5)
        assert self.entropies(recogniser) != before and recogniser.model_key != key
        net.last.weight.data = 2 * net.last.weight.data
        assert self.entropies(recogniser) == before and recogniser.model_key == key


class TestAttacks:
    WAVES = {utt: on_grid(wave) for utt, wave in make_waves(4, seed=5)[0].items()}
    TARGETS = dict(zip(WAVES, ("one", "three two", "two two", "one three"), strict=True))

    @pytest.mark.long
    @pytest.mark.parametrize("loss", ["ctc", "cross_entropy"])
    @pytest.mark.parametrize("padded", [True, False])
    def test_pgd_reaches_its_target_and_passes_the_checks(self, loss: str, padded: bool) -> None:
        recogniser = tones.recogniser(**({} if padded else {"num_frames": None}))
        adversarial = PGD(eps=0.05, num_steps=60, loss=loss)(recogniser, self.WAVES, Say(self.TARGETS))
        heard = recogniser.hear(adversarial.waves)
        assert {utt: " ".join(one.words or ()) for utt, one in heard.items()} == self.TARGETS
        assert all(check["passed"] for check in check(recogniser, adversarial).values())

    def test_only_attacks_need_torchaudio(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torchaudio.functional", None)  # as where it is not installed
        recogniser = tones.recogniser()
        assert recogniser.hear(self.WAVES).keys() == self.WAVES.keys()
        with pytest.raises(MissingDependencyError, match=r"align its target with torchaudio .*uq\[torchaudio\]"):
            PGD(eps=0.05, num_steps=1)(recogniser, self.WAVES, Say(self.TARGETS))

    def test_attack_that_was_written_is_read_as_it_was(self, tmp_path: Path) -> None:
        recogniser = tones.recogniser()
        adversarial = PGD(eps=0.05, num_steps=3, loss="ctc")(recogniser, self.WAVES, Say(self.TARGETS))
        for samples in adversarial.waves.values():
            write_wav(tmp_path / "x.wav", samples, RATE)
            assert np.array_equal(read_wav(tmp_path / "x.wav")[0], samples)

    @pytest.mark.long
    def test_random_target_is_reached_through_the_mean_of_a_random_network(self) -> None:
        recogniser = CtcRecogniser(mc_dropout(tones.network(), num_samples=10), TOKENS, RATE)
        waves = {utt: self.WAVES[utt] for utt in list(self.WAVES)[:2]}
        adversarial = PGD(eps=0.1, num_steps=60, eot_samples=3, loss="ctc")(recogniser, waves, Say())
        heard = recogniser.hear(adversarial.waves, seed=7)
        assert [list(one.words or ()) for one in heard.values()] == [
            record["target"] for record in adversarial.records.values()
        ]

    def test_untargeted_attack_is_heard_as_something_else(self) -> None:
        recogniser = tones.recogniser()
        adversarial = PGD(eps=0.05, num_steps=40, loss="ctc")(recogniser, self.WAVES, Untargeted())
        before, after = recogniser.hear(self.WAVES), recogniser.hear(adversarial.waves)
        assert all(before[utt].words != after[utt].words for utt in self.WAVES)

    @pytest.mark.long
    @pytest.mark.parametrize("loss", ["ctc", "cross_entropy", "margin"])
    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_network_of_another_precision_is_attacked(self, dtype: torch.dtype, loss: str) -> None:
        class Cast(Tones):
            def forward(self, wav: Tensor) -> Tensor:
                return super().forward(wav).to(dtype)

        network = Cast()
        network.load_state_dict(tones.trained())
        network = network.double() if dtype == torch.float64 else network
        recogniser = CtcRecogniser(network, TOKENS, RATE)
        adversarial = PGD(eps=0.05, num_steps=40, loss=loss)(recogniser, self.WAVES, Say(self.TARGETS))
        assert {wave.dtype for wave in adversarial.waves.values()} == {np.dtype(np.float32)}
        heard = recogniser.hear(adversarial.waves)
        assert {utt: " ".join(one.words or ()) for utt, one in heard.items()} == self.TARGETS

    @pytest.mark.long
    def test_adaptive_attack_says_whether_the_detector_passes_it(self) -> None:
        recogniser = tones.recogniser()
        benign = [one.statistics for one in recogniser.hear(make_waves(24, seed=8)[0]).values()]
        name = "q95_predictive_entropy"
        table = {name: [one[name] for one in benign]}
        detector = GaussianDetector(statistic=name)
        detector.fit(table)
        detector.calibrate(0.05, table)
        options = {"eps": 0.05, "num_steps": 30, "loss": "ctc"}
        flagged = []
        for attack in (PGD(**options), Adaptive([detector], **options)):
            adversarial = attack(recogniser, self.WAVES, Say(self.TARGETS))
            heard = recogniser.hear(adversarial.waves).values()
            flagged.append(detector.is_attack({name: [one.statistics[name] for one in heard]}).tolist())
        assert [record["passes"] for record in adversarial.records.values()] == [not flag for flag in flagged[1]]
        assert sum(flagged[0]) >= 3 > 1 >= sum(flagged[1])


def write_set(folder: Path, count: int, seed: int) -> None:
    """A data directory of tones, with ``wav`` in it."""
    waves, text = make_waves(count, seed=seed)
    for utt, wave in waves.items():
        write_wav(folder / f"wav/{utt}.wav", to_int16(wave), RATE)
    write_table(folder / "wav.scp", {utt: str(folder / f"wav/{utt}.wav") for utt in waves})
    write_table(folder / "text", {utt: " ".join(words) for utt, words in text.items()})
    write_table(folder / "utt2spk", {utt: utt for utt in waves})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``net.py``, ``exp/ctc`` with weights, and ``data/fit``, ``data/test`` and ``data/attack``."""
    root = tmp_path_factory.mktemp("end to end")
    (root / "exp/ctc").mkdir(parents=True)
    torch.save(tones.trained(), root / "exp/ctc/net.pt")
    # weights as users store them; weights_only reads tensors and runs nothing
    (root / "net.py").write_text(
        "import torch\n"
        "from kaldi_uq.nnet import mc_dropout\n"
        "from kaldi_uq.recogniser.ctc import CtcRecogniser\n"
        "from tests.tones import RATE, TOKENS, Tones, num_frames\n\n\n"
        "def load(model_dir):\n"
        "    net = Tones()\n"
        "    net.load_state_dict(torch.load(model_dir / 'net.pt', weights_only=True))\n"
        "    return CtcRecogniser(mc_dropout(net, p=0.05, num_samples=8), TOKENS, RATE, num_frames=num_frames)\n"
    )
    for seed, (name, count) in enumerate({"fit": 24, "test": 8, "attack": 4}.items()):
        write_set(root / "data" / name, count, seed)
    return root


@pytest.mark.long
def test_every_command_takes_the_recogniser(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    own = ["--recogniser", "net.py:load"]

    def call(*words: object, status: int = 0) -> str:
        assert main([str(word) for word in words]) == status, capsys.readouterr().err
        return capsys.readouterr().out

    for name in ("fit", "test"):
        results = ["--results", "exp/results.json"] if name == "test" else []
        out = call("nnet-decode", *own, *results, f"data/{name}", "exp/ctc", "-", f"exp/ctc/score_{name}")
        assert out.startswith("%WER 0.00 ")
    wavs = sorted(map(str, place.glob("data/fit/wav/*.wav")))
    assert "detectors, thresholds for a false-positive rate of 0.1" in call(
        "fit-detector", *own, "--fpr", "0.1", "exp/ctc", *wavs
    )
    benign = place / "data/test/wav/utt00.wav"
    (verdict,) = map(json.loads, call("detect", *own, "--json", "exp/ctc", benign).splitlines())
    spoken = make_waves(8, seed=1)[1]["utt00"]
    assert verdict["hypothesis"] == " ".join(spoken) and "mean_akld" in verdict["statistic"].split(",")
    assert isinstance(verdict["suspicious_frames"], list)

    steps = ["--eps", "0.05", "--num-steps", "40", "--eot-samples", "2", "--loss", "ctc"]
    attack = ["attack", *own, *steps, "--model-dir", "exp/ctc", "--out", "out.wav", benign]
    (record,) = map(json.loads, call(*attack, "--json", "--target-text", "two three").splitlines())
    assert record["target_success"] and record["verdict"] in ("attack", "benign")
    assert np.abs(read_wav(place / "out.wav")[0] - read_wav(benign)[0]).max() <= 0.05
    assert main([str(word) for word in (*attack, "--force", "--target-text", "four")]) == 1
    assert "'four' is no word that the recogniser writes: one three two" in capsys.readouterr().err

    nnet_attack = ["nnet-attack", *own, *steps, "--lang-dir", "-", "--results", "exp/results.json"]
    for name, more in {"pgd": [], "adaptive-max_akld": ["--statistics", "max_akld", "--fpr", "0.1"]}.items():
        out_dir = f"exp/ctc/attack_{name}_eps0.05"
        more = [*more, *(["--num-rounds", "2", "--round-steps", "10"] if more else []), "--attack", name]
        out = call(*nnet_attack, *more, "data/attack", "exp/ctc", "-", out_dir)
        assert ("evasion" in out) == (name != "pgd")
        lines = [json.loads(line) for line in (place / out_dir / "results.jsonl").read_text().splitlines()]
        assert len(lines) == 4 and sum(line["target_success"] for line in lines) >= 3
        assert all(("passes" in line) == (name != "pgd") for line in lines)
        scores = ["--fit", "exp/ctc/score_fit/results.jsonl", "--benign", "exp/ctc/score_test/results.jsonl"]
        scores += ["--attacked", f"{out_dir}/results.jsonl", "--results", "exp/results.json"]
        named = ["--model", "ctc", "--attack", name, "--eps", "0.05", "--fpr", "0.1"]
        call("nnet-detect", *scores, *named, "--detector-dir", "exp/ctc/detector")
    call("check-attacks", *own, "--num-rescores", "1", "exp")
    assert "rescoring_agrees" in json.loads((place / "exp/results.json").read_text())["checks"]["ctc"]
    call("report", "exp", "exp/report")
    assert "ctc" in next((place / "exp/report").glob("*.html")).read_text()


def test_options_that_a_ctc_recogniser_cannot_follow_are_named_in_one_line(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    words = ["nnet-attack", "--recogniser", "net.py:load", "--lang-dir", "-", "data/attack", "exp/ctc", "-", "exp/x"]
    assert main([*words, "--random-targets", "grammar"]) == 1
    assert "are words strung together, not grammar" in capsys.readouterr().err


@pytest.mark.long
def test_recipe_trains_attacks_detects_and_reports(script_env: dict[str, str], tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path / "my recipes", script_env, "end_to_end")
    for seed, (name, count) in enumerate({"train": 32, "fit": 8, "test": 8, "attack": 3}.items()):
        write_set(tmp_path / "data" / name, count, seed)
    small = [
        "--net-opts",
        "--num-epochs 30 --batch-s 4",
        "--attack-opts",
        "--num-steps 20 --num-rounds 2 --round-steps 5",
    ]
    recipe.run_sh("--data", tmp_path / "data", "--num-attack", "0", "--eps", "0.05", *small)
    found = recipe.results()
    assert found["clean"]["dropout"]["accuracy"] > 0.9  # an untrained network hears nothing
    assert {row["attack"]: row["num_utts"] for row in found["attacks"]} == {
        "pgd": 3,
        "adaptive-max_predictive_entropy": 3,
    }
    assert all(row["checks"]["gradient_correct"]["passed"] for row in found["attacks"])
    assert {row["attack"] for row in found["detection"]} == {row["attack"] for row in found["attacks"]}
    assert (recipe.path / "exp/report/report.html").is_file()
