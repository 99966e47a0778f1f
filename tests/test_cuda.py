"""On a GPU, where there is one: the same as on the CPU, but for rounding, and an end where the memory is not enough."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kaldi_uq.attacks.goal import Say
from kaldi_uq.attacks.pgd import PGD
from kaldi_uq.engine.batched import BatchDecoder
from kaldi_uq.errors import DataError
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.io.waves import pad
from kaldi_uq.nnet.sequence import SequenceModel
from kaldi_uq.recogniser import replay
from kaldi_uq.recogniser.heard import FrameScores
from kaldi_uq.recogniser.hybrid import HybridModel, use_device
from kaldi_uq.recogniser.memory import in_halves
from kaldi_uq.recogniser.recogniser import Recogniser
from kaldi_uq.training import recorded
from kaldi_uq.training.config import RobustConfig
from kaldi_uq.training.trainer import Trainer
from tests.test_train import train_in_pieces
from tests.test_train_robust import CONFIG, FLOORED, recurrent
from tests.test_viterbi import CPU, WIDE, graph_dir, random_graph, random_scores
from tests.tiny import FRONT_END, TinySystem, make_system, make_waves

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.long,
]

GPU = torch.device("cuda")


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return make_system(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(scope="module")
def pair(system: TinySystem) -> tuple[Recogniser, Recogniser]:
    """One recogniser, on the CPU and on the GPU."""
    trained = system.train()
    return system.recogniser(trained), system.recogniser(copy.deepcopy(trained).to(GPU))


@pytest.fixture
def little_memory() -> Iterator[None]:
    """About 300 MB for this process."""
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 3e8) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.parametrize("config", [FRONT_END, FLOORED, FrontEndConfig()], ids=["own", "floored", "default"])
def test_front_end_and_its_gradient(config: FrontEndConfig) -> None:
    waves, _ = make_waves(7)
    batch = pad(waves, tuple(waves))
    sizes = torch.from_numpy(batch.num_samples)

    def of(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        front_end = FrontEnd(config).to(device)
        wav = torch.from_numpy(batch.wav).to(device).requires_grad_(True)
        packed = front_end.packed(wav, sizes)[0]
        weights = torch.cos(torch.arange(packed.numel())).view(packed.shape).to(device)
        (gradient,) = torch.autograd.grad((packed * weights).sum(), wav)
        return packed.detach().cpu(), gradient.cpu()

    (cpu, cpu_gradient), (gpu, gpu_gradient) = of(CPU), of(GPU)
    torch.testing.assert_close(gpu, cpu, rtol=1e-3, atol=1e-2)
    assert torch.nn.functional.cosine_similarity(gpu_gradient.flatten(), cpu_gradient.flatten(), 0) > 0.999


@pytest.mark.parametrize("seed", range(10))
def test_search_in_batches(system: TinySystem, tmp_path: Path, seed: int) -> None:
    table = system.table
    folder = graph_dir(tmp_path / "graph", random_graph(seed, len(table.tid_to_pdf) - 1))
    scores, _ = random_scores(table.num_pdfs, seed=seed)
    on_cpu, on_gpu = (BatchDecoder.open(folder, table, WIDE.acwt, device) for device in (CPU, GPU))
    assert on_cpu is not None and on_gpu is not None
    assert on_gpu.decode(scores.values.to(GPU), scores.lengths) == on_cpu.decode(scores.values, scores.lengths)


def test_alignment_in_batches(pair: tuple[Recogniser, Recogniser], system: TinySystem) -> None:
    scores, _ = random_scores(system.table.num_pdfs)
    texts = {utt: [["one"], ["two", "three"]] for utt in list(scores.utts)[2:]}
    moved = FrameScores(scores.utts, scores.values.to(GPU), scores.lengths)
    expected, found = pair[0].align_batch(scores, texts), pair[1].align_batch(moved, texts)
    assert expected.keys() == found.keys()
    for utt, paths in expected.items():
        for one, other in zip(paths, found[utt], strict=True):
            assert (one is None) == (other is None)
            assert one is None or other is None or np.array_equal(one, other)


def test_attack_reaches_what_it_reaches_on_the_cpu(pair: tuple[Recogniser, Recogniser], system: TinySystem) -> None:
    waves = dict(list(system.waves.items())[:6])
    goal = Say({utt: "two" for utt in waves}, spoken={utt: " ".join(system.text[utt]) for utt in waves})
    heard = []
    for who in pair:
        made = PGD(eps=0.1, num_steps=40)(who, waves, goal)
        heard.append({utt: one.words for utt, one in who.hear(made.waves).items()})
        assert all(np.abs(made.waves[utt] - waves[utt]).max() <= 0.1 for utt in waves)
    same = sum(heard[0][utt] == heard[1][utt] for utt in waves)
    assert same >= 5, heard


@pytest.mark.parametrize(
    ("kind", "draws"),
    [("dnn", "fresh"), ("ensemble", "fresh"), ("dropout", "fresh"), ("bnn", "fresh"), ("dropout", "fixed")],
)
def test_steps_that_are_replayed_are_those_that_are_computed(
    system: TinySystem, monkeypatch: pytest.MonkeyPatch, kind: str, draws: str
) -> None:
    model = system.train("dnn") if kind == "dnn" else HybridModel(FRONT_END, system.network(kind))
    who = system.recogniser(model.to(GPU))
    waves = dict(list(system.waves.items())[:6])
    goal = Say({utt: "two" for utt in waves}, spoken=system.text)
    made = []
    for warm_up in (replay.WARM_UP, 1000):
        monkeypatch.setattr(replay, "WARM_UP", warm_up)
        starts = 2 if draws == "fresh" else 1
        attack = PGD(eps=0.05, num_steps=20, num_starts=starts, realign_every=7, eot_samples=3, eot_draws=draws)
        made.append(attack(who, waves, goal).waves)
    for utt in waves:
        np.testing.assert_array_equal(made[0][utt], made[1][utt])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is one GPU")
def test_second_gpu_attacks_as_the_first(system: TinySystem) -> None:
    model = HybridModel(FRONT_END, system.network("dropout"))
    waves = dict(list(system.waves.items())[:6])
    goal = Say({utt: "two" for utt in waves}, spoken=system.text)
    made = []
    try:
        for name in ("cuda:0", "cuda:1"):
            who = system.recogniser(copy.deepcopy(model).to(use_device(name)))
            made.append(PGD(eps=0.05, num_steps=20, realign_every=7, eot_samples=3)(who, waves, goal).waves)
    finally:
        torch.cuda.set_device(0)
    for utt in waves:
        np.testing.assert_array_equal(made[0][utt], made[1][utt])


@pytest.mark.parametrize("kind", ["dnn", "ensemble", "dropout", "bnn"])
def test_training_that_is_replayed_is_the_one_that_is_computed(
    system: TinySystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    config = dataclasses.replace(CONFIG, num_epochs=3, num_viterbi_epochs=1, batch_size=100)
    for name, warm_up in (("replayed", recorded.WARM_UP), ("computed", 10**9)):
        monkeypatch.setattr(recorded, "WARM_UP", warm_up)
        model = HybridModel(FRONT_END, system.network(kind)).to(GPU)
        system.trainer(tmp_path / name, model, config).run()
    for name in ("history.json", "final.safetensors"):
        assert (tmp_path / "replayed" / name).read_bytes() == (tmp_path / "computed" / name).read_bytes(), name


def test_replayed_training_resumes_to_the_same_bits(
    system: TinySystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(CONFIG, num_epochs=3, num_viterbi_epochs=0, batch_size=100)

    def make(out: str) -> Trainer:
        return system.trainer(tmp_path / out, HybridModel(FRONT_END, system.network("dropout")).to(GPU), config)

    make("whole").run()
    train_in_pieces(lambda: make("pieces"), monkeypatch)
    one, other = ((tmp_path / out / "final.safetensors").read_bytes() for out in ("whole", "pieces"))
    assert one == other


def test_gradient_of_a_pass_is_not_that_of_another() -> None:
    function = replay.Replay(lambda wav: wav.square().sum(1))
    passes = [torch.full((2, 3), float(k), device=GPU, requires_grad=True) for k in range(4)]
    for wav in passes[:3]:
        (slope,) = torch.autograd.grad(function(wav).sum(), wav)
        assert torch.equal(slope, 2 * wav)
    loss = function(passes[2]).sum()
    function(passes[3])
    with pytest.raises(RuntimeError, match="before the next pass"):
        loss.backward()  # type: ignore[no-untyped-call]


def test_recurrent_network_has_a_gradient_in_evaluation_mode(system: TinySystem) -> None:
    model = HybridModel.from_factory(
        FrontEndConfig(**{**FRONT_END.__dict__, "left_context": 0, "right_context": 0}),
        recurrent,
        system.table.num_pdfs,
    ).to(GPU)
    network = model.network
    assert isinstance(network, SequenceModel) and any(isinstance(part, nn.GRU) for part in network.modules())
    who = system.recogniser(model)
    waves = dict(list(system.waves.items())[:3])
    made = PGD(eps=0.05, num_steps=4, eot_samples=2)(who, waves, Say(spoken=system.text))
    assert any(np.abs(made.waves[utt] - waves[utt]).max() > 0 for utt in waves)


@pytest.mark.parametrize("kind", ["dnn", "dropout"])
def test_adversarial_training(system: TinySystem, tmp_path: Path, kind: str) -> None:
    for out in ("a", "b"):
        model = HybridModel(FLOORED, system.network(kind)).to(GPU)
        system.trainer(tmp_path / out, model, CONFIG, robust=RobustConfig(robust_eps=0.01, robust_steps=2)).run()
    one, other = ((tmp_path / out / "final.safetensors").read_bytes() for out in ("a", "b"))
    assert one == other


def test_out_of_memory_takes_halves(little_memory: None, caplog: pytest.LogCaptureFixture) -> None:
    waves, _ = make_waves(8)

    def run(batch: object) -> list[int]:
        count = len(batch.utts)  # type: ignore[attr-defined]
        values = torch.zeros(count, 25_000_000, device=GPU)  # 100 MB each
        return [int(row) for row in values.sum(1)]

    assert in_halves(run, pad(waves, tuple(waves))) == [0] * 8
    assert "out of memory with 8 utterances" in caplog.text

    def greedy(batch: object) -> list[int]:
        return [int(torch.zeros(1_000_000_000, device=GPU).sum())]

    with pytest.raises(DataError, match="out of memory with its"):
        in_halves(greedy, pad(waves, tuple(waves)))
