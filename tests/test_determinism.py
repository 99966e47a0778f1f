"""What is the same to the last bit, and what within rounding, whatever the threads and the batches.

The numbers stand in recipes/tidigits/README.md.  That the number of jobs changes nothing is tested in test_recipe.py,
and that an utterance is heard alone as among others in test_recogniser.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from kaldi_uq.attacks.goal import Say
from kaldi_uq.attacks.pgd import PGD
from kaldi_uq.recogniser import scorer
from kaldi_uq.recogniser.recogniser import Recogniser
from tests import tiny
from tests.tiny import TinySystem

pytestmark = pytest.mark.long

ROUNDING = 1e-5  # of uncertainties of frames, nats, and of weights


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("system"), 12)


@pytest.fixture(params=["dnn", "ensemble", "dropout", "bnn"])
def recogniser(system: TinySystem, request: pytest.FixtureRequest) -> Recogniser:
    return system.recogniser(system.train(request.param))


@pytest.fixture
def two_threads() -> Iterator[Any]:
    """Call it to compute with two threads from then on."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield lambda: torch.set_num_threads(2)
    torch.set_num_threads(before)


def few(system: TinySystem) -> dict[str, np.ndarray]:
    return dict(itertools.islice(system.waves.items(), 5))


def frames_and_words(who: Recogniser, system: TinySystem) -> tuple[np.ndarray, list[Any]]:
    heard = who.hear(few(system))
    frames = [np.concatenate(list(one.frames.values())) for one in heard.values()]
    return np.concatenate(frames), [one.words for one in heard.values()]


def attacked(who: Recogniser, system: TinySystem) -> np.ndarray:
    targets = {utt: ["two"] if system.text[utt] != ["two"] else ["one"] for utt in few(system)}
    made = PGD(eps=0.02, num_steps=5)(who, few(system), Say(targets))
    return np.concatenate(list(made.waves.values()))


def weights(system: TinySystem, kind: str) -> np.ndarray:
    return torch.cat([p.detach().flatten() for p in system.train(kind).parameters()]).numpy()


def test_a_second_time_is_the_same_to_the_last_bit(system: TinySystem, recogniser: Recogniser) -> None:
    (frames, words), (again, words_again) = (frames_and_words(recogniser, system) for _ in range(2))
    assert np.array_equal(frames, again) and words == words_again
    assert np.array_equal(attacked(recogniser, system), attacked(recogniser, system))


@pytest.mark.parametrize("kind", ["dnn", "bnn"])
def test_training(system: TinySystem, kind: str, two_threads: Any) -> None:
    once = weights(system, kind)
    assert np.array_equal(once, weights(system, kind))
    two_threads()
    np.testing.assert_allclose(weights(system, kind), once, rtol=0, atol=ROUNDING)


def test_threads(system: TinySystem, recogniser: Recogniser, two_threads: Any) -> None:
    (frames, words), wav = frames_and_words(recogniser, system), attacked(recogniser, system)
    two_threads()
    found, words_found = frames_and_words(recogniser, system)
    np.testing.assert_allclose(found, frames, rtol=0, atol=ROUNDING)
    assert words_found == words
    assert np.mean(attacked(recogniser, system) == wav) > 0.99


@pytest.mark.parametrize("samples", [1, 1 << 13])
def test_batches(system: TinySystem, recogniser: Recogniser, monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
    (frames, words), wav = frames_and_words(recogniser, system), attacked(recogniser, system)
    monkeypatch.setattr(scorer, "CPU_BATCH_SAMPLES", samples)
    found, words_found = frames_and_words(recogniser, system)
    assert words_found == words
    if recogniser.is_random:  # each batch has draws of its own
        assert not np.allclose(found, frames, rtol=0, atol=ROUNDING)
    else:
        np.testing.assert_allclose(found, frames, rtol=0, atol=ROUNDING)
        assert np.mean(attacked(recogniser, system) == wav) > 0.99
