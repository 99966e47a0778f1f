"""One line for what is easily done wrong in a notebook: arguments of another kind, networks of another sort."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kaldi_uq as uq
from kaldi_uq.detector.judge import _warn_of_kind
from kaldi_uq.io.wav import on_grid
from kaldi_uq.recogniser.ctc import CtcRecogniser
from tests import tones
from tests.conftest import REPO
from tests.tiny import RATE, make_waves
from tests.tones import TOKENS, Tones

WAVES = {utt: on_grid(wave) for utt, wave in make_waves(2, seed=5)[0].items()}
SAMPLES = WAVES["utt00"]


@pytest.fixture(scope="module")
def recogniser() -> CtcRecogniser:
    return tones.recogniser()


@pytest.fixture(scope="module")
def detectors(recogniser: CtcRecogniser) -> dict[str, Any]:
    benign = recogniser.hear(make_waves(24, seed=8)[0]).values()
    return uq.fit_detectors(uq.statistics_table(benign), fpr=0.1)


@pytest.mark.parametrize(
    "waves, kind, message",
    [
        (SAMPLES, TypeError, 'expected names with samples, such as {"a": samples}, got ndarray'),
        ([SAMPLES], TypeError, 'expected names with samples, such as {"a": samples}, got list'),
        ("some.wav", TypeError, "got a path: read it first, recogniser.read_wavs"),
        (Path("some.wav"), TypeError, "got a path: read it first, recogniser.read_wavs"),
        ({"a": "some.wav"}, uq.KaldiUqError, "a: a path, expected samples; read it first"),
        ({"a": Path("some.wav")}, uq.KaldiUqError, "a: a path, expected samples; read it first"),
        ({"a": (SAMPLES, RATE)}, uq.KaldiUqError, "a: samples and their rate, expected samples: take the first"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_audio_that_is_no_mapping_of_samples(
    recogniser: CtcRecogniser, detectors: dict[str, Any], waves: Any, kind: type[Exception], message: str
) -> None:
    for call in (
        lambda: recogniser.hear(waves),
        lambda: uq.judge(recogniser, detectors["all-joint"], waves),
        lambda: uq.attacks.PGD(num_steps=1)(recogniser, waves, uq.Say()),
    ):
        with pytest.raises(kind) as raised:
            call()
        assert message in str(raised.value) and "\n" not in str(raised.value)


def test_goals_detectors_and_recognisers_in_another_place(recogniser: CtcRecogniser, detectors: dict[str, Any]) -> None:
    attack, joint = uq.attacks.PGD(num_steps=1), detectors["all-joint"]
    calls: dict[str, Callable[[], Any]] = {
        r"the goal must be Say\(\{name: text\}\) or Untargeted\(\), got dict": lambda: attack(
            recogniser, WAVES, {"utt00": "one"}
        ),
        "or Untargeted.., got str": lambda: attack(recogniser, WAVES, "one"),
        "expected a recogniser, then audio and a goal, got dict first": lambda: attack(WAVES, recogniser, uq.Say()),
        "targets must say whose, such as {'a': 'one two'}, got str 'one two'": lambda: uq.Say("one two"),
        "spoken must say whose.* got list": lambda: uq.Untargeted(["one"]),
        "expected a recogniser, then a detector and audio, got JointDetector first": lambda: uq.judge(
            joint, recogniser, WAVES
        ),
        "expected a detector between recogniser and audio, got CtcRecogniser": lambda: uq.judge(
            recogniser, recogniser, WAVES
        ),
        "expected one detector, got a mapping: take one of .*q95_": lambda: uq.judge(recogniser, detectors, WAVES),
        r"detectors must be a list: Adaptive\(\[detector\]\); got one JointDetector": lambda: uq.attacks.Adaptive(
            joint
        ),
        "detectors must be a list, got a mapping: take some of ": lambda: uq.attacks.Adaptive(detectors),
        "tokens must be a list of names, got one string; of single characters: list..-ab": lambda: CtcRecogniser(
            tones.network(), "-abc", RATE
        ),
        r"tokens must be names, strings, got 1 \(int\) at index 1": lambda: CtcRecogniser(
            tones.network(), ["<blank>", 1, 2, 3], RATE
        ),
        r"expected a network, got the class Tones: call it": lambda: CtcRecogniser(Tones, TOKENS, RATE),
        "num_frames must be a function from samples to frames, got int": lambda: tones.recogniser(num_frames=49),
    }
    for message, call in calls.items():
        with pytest.raises(TypeError, match=message):
            call()


def test_a_text_is_no_goal_of_an_untargeted_attack(recogniser: CtcRecogniser) -> None:
    with pytest.raises(ValueError, match=r"the attack is untargeted, but the goal is a text: take Untargeted\(\)"):
        uq.attacks.preset("untargeted", num_steps=1)(recogniser, WAVES, uq.Say(dict.fromkeys(WAVES, "one")))
    assert uq.attacks.preset("untargeted", num_steps=1)(recogniser, WAVES, uq.Untargeted()).waves.keys() == WAVES.keys()


@pytest.mark.long
def test_what_refuses_a_ctc_network_is_what_its_page_names(recogniser: CtcRecogniser) -> None:
    page = (REPO / "docs/ctc.md").read_text()
    refused = ("logit-match", "speech-start", "strongest")
    for name in set(uq.attacks.presets()) - {"adaptive", "orthogonal", "selective"}:  # which need detectors
        goal = uq.Untargeted() if name == "untargeted" else uq.Say()
        says_why = pytest.raises(ValueError, match="does not say when a word begins and ends")
        with says_why if name in refused else contextlib.nullcontext():
            uq.attacks.preset(name).prepare(recogniser, WAVES, goal)
    assert all(f"`{name}`" in page for name in refused)
    with pytest.raises(ValueError, match="no certificate for a CtcRecogniser: certify a hybrid Recogniser"):
        uq.certify(recogniser, WAVES, [1e-5])
    assert "`uq.certify` and `nnet-certify`" in page


@pytest.mark.parametrize("name", ["<blank>", "<blk>"])
def test_blank_that_is_called_so_is_the_blank(name: str) -> None:
    tokens = ("one", "two", name, "three")
    with pytest.raises(
        ValueError, match=f"blank is 0, the token 'one', but token 2 is called {name}: say blank='{name}'"
    ):
        CtcRecogniser(tones.network(), tokens, RATE)
    for blank in (2, name):
        assert CtcRecogniser(tones.network(), tokens, RATE, blank=blank).ctc_blank == 2


def test_padding_that_may_be_the_blank_is_said(caplog: pytest.LogCaptureFixture) -> None:
    assert CtcRecogniser(tones.network(), ("-", "<pad>", "a", "b"), RATE).ctc_blank == 0
    assert "blank is 0, the token '-'; if it is <pad>, token 1, as often, say blank='<pad>'" in caplog.text
    caplog.clear()
    CtcRecogniser(tones.network(), ("-", "<pad>", "a", "b"), RATE, blank="<pad>")
    CtcRecogniser(tones.network(), ("<blank>", "<pad>", "a", "b"), RATE)
    assert not caplog.text


class Changed(Tones):
    """A trained network with a change to what it takes, and one to what it gives."""

    def __init__(self, take: Callable[[Tensor], Tensor], give: Callable[[Tensor], Tensor], scale: float = 1.0) -> None:
        super().__init__()
        self.load_state_dict(tones.trained())
        self.last.weight.data *= scale
        self.take, self.give = take, give

    def forward(self, wav: Tensor) -> Tensor:
        return self.give(super().forward(self.take(wav)))


def same(x: Tensor) -> Tensor:
    return x


@pytest.mark.long
@pytest.mark.parametrize(
    "wrap", [same, uq.mc_dropout, lambda net: uq.ensemble([net, Changed(net.take, net.give, 0.5)])]
)
def test_probabilities_are_refused_and_their_logarithm_is_not(wrap: Callable[[nn.Module], nn.Module]) -> None:
    with pytest.raises(ValueError, match="the module gives probabilities, expected logits or log-probabilities"):
        CtcRecogniser(wrap(Changed(same, lambda logits: logits.softmax(-1) + 0.0)), TOKENS, RATE)
    kept = CtcRecogniser(wrap(Changed(same, lambda logits: 1.001 * logits.log_softmax(-1))), TOKENS, RATE)
    assert kept.hear(WAVES).keys() == WAVES.keys()
    assert not [layer for layer in kept.model.modules() if layer._forward_hooks]


@pytest.mark.parametrize(
    "take, message",
    [
        (lambda wav: wav.transpose(1, 2), "IndexError: Dimension out of range"),
        (lambda wav: wav[:, :, None], "Error: "),
    ],
)
def test_module_that_takes_something_else_says_what_it_was_given(
    take: Callable[[Tensor], Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=r"^the module was called") as raised:
        CtcRecogniser(Changed(take, same), TOKENS, RATE)
    said = str(raised.value)
    assert said.startswith("the module was called with (1, 8000) float32 and raised: ") and message in said
    assert said.endswith("; it must take waveforms (B, N)") and "\n" not in said and raised.value.__cause__


@pytest.mark.parametrize(
    "net",
    [
        lambda: Changed(lambda wav: wav.detach(), same),
        lambda: Changed(same, lambda logits: logits.detach()),
        lambda: Changed(lambda wav: torch.from_numpy(wav.numpy()), same),
    ],
    ids=["audio", "output", "numpy"],
)
def test_module_without_a_gradient_is_heard_and_said_where_it_is_attacked(net: Callable[[], nn.Module]) -> None:
    recogniser = CtcRecogniser(net(), TOKENS, RATE)
    assert recogniser.hear(WAVES).keys() == WAVES.keys()
    goal = uq.Say(dict.fromkeys(WAVES, "one"))
    for loss in ("ctc", "cross_entropy"):
        with pytest.raises(ValueError, match="has no gradient with respect to the audio: detach"):
            uq.attacks.PGD(num_steps=1, loss=loss)(recogniser, WAVES, goal)
    assert uq.attacks.BlackBox.nes(num_steps=1)(recogniser, WAVES, goal).waves.keys() == WAVES.keys()


def test_detector_of_another_kind_of_model_is_said_once(
    recogniser: CtcRecogniser, detectors: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    _warn_of_kind.cache_clear()
    caplog.set_level(logging.WARNING)
    random = CtcRecogniser(uq.mc_dropout(tones.network(), num_samples=4), TOKENS, RATE)
    uq.judge(recogniser, detectors["all-joint"], WAVES)
    uq.judge(random, detectors["max_predictive_entropy"], WAVES)
    assert not caplog.text
    for _ in range(2):
        uq.judge(random, detectors["all-joint"], WAVES)
    assert caplog.text.count("it looks fitted on another kind of model; fit one on this model") == 1


def test_representations_say_class_and_settings_in_one_line(
    recogniser: CtcRecogniser, detectors: dict[str, Any]
) -> None:
    adaptive = uq.attacks.Adaptive([detectors["all-joint"]], eps=0.05)
    shown = {
        repr(recogniser): "CtcRecogniser(Tones, 4 tokens, 8000 Hz, on cpu)",
        repr(uq.attacks.PGD(eps=0.01)): "PGD(eps=0.01)",
        repr(uq.attacks.PGD(num_steps=9, loss="ctc")): "PGD(eps=0.02, loss='ctc', num_steps=9)",
        repr(adaptive): f"Adaptive([{len(detectors['all-joint'].statistics)} statistics], way='penalty', eps=0.05)",
        repr(uq.Say()): "Say(random targets)",
        repr(
            uq.Say({"a": "one two", "b": ["x"]}, spoken={"a": "k"})
        ): "Say({'a': 'one two', and 1 more}, spoken={'a': 'k'})",
        repr(uq.Untargeted()): "Untargeted()",
    }
    assert list(shown) == list(shown.values())
    assert repr(uq.Recogniser.load(uq.models.DIGITS)).endswith("models/digits', dnn, 16000 Hz, on cpu)")


def test_dir_shows_what_is_public() -> None:
    assert dir(uq) == sorted(uq.__all__) and dir(uq.attacks) == sorted(uq.attacks.__all__)
    assert {"PGD", "Adaptive"} <= set(dir(uq.attacks)) and "annotations" not in dir(uq.attacks)
