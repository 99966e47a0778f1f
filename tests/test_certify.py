"""Certificates: no change within eps leaves a bound, at any layer, and no attack of ours succeeds where one holds."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import kaldi_uq as uq
from kaldi_uq.certificate.cells import Cells
from kaldi_uq.certificate.certify import Certifier
from kaldi_uq.certificate.network import Rectified, first_layers, mean_lead
from kaldi_uq.certificate.paths import _Search
from kaldi_uq.cli.main import main
from kaldi_uq.errors import DataError
from kaldi_uq.feats.config import FbankConfig, FrontEndConfig, MfccConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.io.fst import ARC, FstArrays
from kaldi_uq.recogniser.recogniser import Recogniser
from tests import tiny
from tests.tiny import TinySystem

EPS = (1e-5, 3e-4, 1e-2)
FBANK = FbankConfig(sample_frequency=8000.0, num_mel_bins=15, use_energy=True)
FBANKS = {
    "energy": FBANK,
    "windowed energy, hamming": FbankConfig(**{**FBANK.to_dict(), "raw_energy": False, "window_type": "hamming"}),
    "no pre-emphasis, ends mirrored": FbankConfig(
        sample_frequency=8000.0, num_mel_bins=8, preemphasis_coefficient=0.0, remove_dc_offset=False, snip_edges=False
    ),
}
LEVELS = {"as it is": (0.0, 0.0), "floor": (0.0, 0.01), "level": (0.05, 0.0), "level, floor": (0.05, 0.03)}


def bank(config: FbankConfig, level: float = 0.0, noise_floor: float = 0.0) -> FrontEnd:
    return FrontEnd(FrontEndConfig(kind="fbank", fbank=config, level=level, noise_floor=noise_floor)).double()


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def speech() -> Tensor:
    """Loud and quiet frames, and a beginning of digital zeros."""
    wave = torch.from_numpy(tiny.make_waves(1, seed=5)[0]["utt00"]).double()
    wave[:400] = 0
    return wave


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> TinySystem:
    return tiny.make_system(tmp_path_factory.mktemp("certify"))


SYSTEMS: dict[str, dict[str, Any]] = {
    "utterance mean, two layers": {"cmvn": "utterance", "left_context": 3},
    "no context": {"delta_order": 0, "left_context": 0, "right_context": 0},
    "level, floor": {"level": 0.05, "noise_floor": 0.02},
    "level, ends mirrored": {"level": 0.1, "mfcc": {**tiny.FRONT_END.mfcc.to_dict(), "snip_edges": False}},
}


@pytest.fixture(scope="module", params=["dnn", "ensemble", *SYSTEMS])
def certifier(request: pytest.FixtureRequest, system: TinySystem) -> Certifier:
    if request.param in ("dnn", "ensemble"):
        return Certifier(system.recogniser(system.train(request.param)))
    recogniser = system.recogniser(system.train("dnn"))
    config = FrontEndConfig.from_dict({**tiny.FRONT_END.to_dict(), **SYSTEMS[request.param]})
    size = {"input_dim": FrontEnd(config).output_dim, "hidden_dims": (12, 9), "num_pdfs": system.table.num_pdfs}
    recogniser.model = type(recogniser.model)(config, type(system.network()).from_dict({"kind": "dnn", **size}), seed=3)
    return Certifier(recogniser)


@pytest.mark.long
@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS.keys())
@pytest.mark.parametrize("config", FBANKS.values(), ids=FBANKS.keys())
@pytest.mark.parametrize("eps", EPS)
def test_log_energies_never_leave_their_bounds(config: FbankConfig, levels: tuple[float, float], eps: float) -> None:
    front_end = bank(config, *levels)
    cells, wave = Cells(front_end), speech()
    frames = cells.frames(wave)
    bounds = cells.bounds(wave, eps)
    assert (bounds.low <= bounds.high).all() and (bounds.radius >= 0).all()
    logs = features(front_end, wave) @ cells.compose.t()
    assert logs.shape == bounds.low.shape
    closest = torch.full((), torch.inf, dtype=torch.float64)
    for change in changes(cells, wave, eps):
        logs = features(front_end, wave + change) @ cells.compose.t()  # the matrix permutes
        moved = cells.frames(wave + change) - frames
        centre = bounds.centre + torch.einsum("tml,tl->tm", bounds.linear, moved)
        assert (logs >= bounds.low - 1e-9).all() and (logs <= bounds.high + 1e-9).all()
        # The best that the unknowns of the power can be for all cells at once: of a grid, with a margin of its steps.
        rest = logs - centre - (bounds.power @ change) * bounds.shared[..., 0]
        grid = torch.linspace(-1, 1, 21, dtype=torch.float64)
        pairs = torch.cartesian_prod(grid * bounds.power_radius, grid)
        apart = (rest.unsqueeze(-1) - bounds.shared @ pairs.t()).abs() - bounds.radius.unsqueeze(-1)
        margin = 0.05 * (bounds.shared[..., 0].abs() * bounds.power_radius + bounds.shared[..., 1])
        assert (apart - margin.unsqueeze(-1)).amax((0, 1)).min() <= 1e-9
        closest = torch.minimum(closest, torch.minimum(logs - bounds.low, bounds.high - logs).amin())
    assert eps > 1e-3 or closest < 0.1  # the bounds are of use


def test_the_change_of_the_level_is_common_to_all_cells() -> None:
    """A cell far above the floor follows the level, one far below it does not: the parts of log P cancel there."""
    wave, eps = speech(), 3e-4
    bounds = Cells(bank(FBANK, 0.05, 1e-6)).bounds(wave, eps)
    loud = bounds.shared[..., 1] > 0
    slope = 1 / (wave.var(correction=0) + 2.0**-30)
    assert loud.any() and torch.allclose(bounds.shared[..., 0][loud], -slope, rtol=0.1)
    bounds = Cells(bank(FBANK, 0.05, 1.0)).bounds(wave, eps)
    assert bounds.shared[..., 0].abs().max() < 0.1 * slope


def features(front_end: FrontEnd, wave: Tensor) -> Tensor:
    return front_end.cepstra_of(wave.unsqueeze(0), torch.tensor([len(wave)]))[0][0]


def changes(cells: Cells, wave: Tensor, eps: float) -> list[Tensor]:
    """Random ones, the wave itself taken away as far as possible, and the steepest ways up and down of some cells."""
    found = [eps * noise(len(wave), seed=seed).sign() for seed in range(4)] + [-wave.clamp(-eps, eps)]
    frames = cells.frames(wave)
    start = (len(frames) // 2) * cells.shift
    for form in cells.forms[::3]:
        direction = (2 * form @ frames[len(frames) // 2]).sign() * eps
        for way in (1, -1):
            change = torch.zeros_like(wave)
            piece = change[start : start + len(direction)]
            piece += way * direction[: len(piece)]
            found.append(change)
    return found


def test_bounds_of_cells_are_what_they_are_at_0_and_grow_with_eps() -> None:
    for levels in LEVELS.values():
        front_end = bank(FBANK, *levels)
        cells, wave = Cells(front_end), speech()
        logs = features(front_end, wave) @ cells.compose.t()
        last = cells.bounds(wave, 0.0)
        assert torch.allclose(last.low, logs, atol=1e-9) and torch.allclose(last.high, logs, atol=1e-9)
        for eps in EPS:
            bounds = cells.bounds(wave, eps)
            assert (bounds.low <= last.low).all() and (bounds.high >= last.high).all()
            last = bounds
        assert (last.low >= torch.maximum(cells.offsets, cells.floors).log()).all()


def test_the_peak_of_a_form_bounds_every_corner_of_the_box() -> None:
    config = MfccConfig(sample_frequency=8000.0, frame_length=1.5, frame_shift=1.0, num_mel_bins=3, num_ceps=3)
    cells = Cells(FrontEnd(FrontEndConfig(mfcc=config)).double())
    size = cells.forms.shape[-1]
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=size)), dtype=torch.float64)
    values = torch.einsum("cl,mlk,ck->cm", corners, cells.forms, corners)
    assert (cells.peaks >= values.amax(0)).all()
    assert (cells.peaks <= 1.6 * values.amax(0)).all()  # pi / 2 is the worst that the best bound of this sort can be
    frame, eps = noise(size), 0.2
    roots = [((torch.einsum("cl,mlk,ck->cm", x, cells.forms, x)).sqrt()) for x in (frame[None], frame + eps * corners)]
    assert ((roots[1] - roots[0]).abs() <= eps * cells.peaks.sqrt()).all()


def wave_of(system: TinySystem, number: int = 0) -> np.ndarray:
    return list(system.waves.values())[number]


def leads(certifier: Certifier, wave: Tensor, classes: Tensor) -> Tensor:
    log_post = certifier.recogniser.mean_log_post(wave.unsqueeze(0), torch.tensor([len(wave)]), ["x"])[0]
    return log_post - log_post.gather(1, classes.unsqueeze(1))


def test_bounds_at_eps_0_are_the_forward_pass(system: TinySystem, certifier: Certifier) -> None:
    wave = torch.from_numpy(wave_of(system)).double()
    classes = torch.arange(certifier.recogniser.num_frames(len(wave))) % system.table.num_pdfs
    found = certifier.scores.lead_bounds(wave, classes, 0.0)
    assert torch.allclose(found, leads(certifier, wave, classes), atol=1e-8)


@pytest.mark.long
@pytest.mark.parametrize("eps", [1e-4, 3e-3])
def test_leads_never_leave_their_bounds(system: TinySystem, certifier: Certifier, eps: float) -> None:
    """Random changes, and those that gradients find for single frames and classes and for all at once."""
    wave = torch.from_numpy(wave_of(system)).double()
    path = certifier.reference(wave.numpy())
    assert path is not None
    classes = torch.from_numpy(path.pdfs)
    bounds = certifier.scores.lead_bounds(wave, classes, eps)
    number = torch.arange(len(classes))
    closest = torch.full((), -torch.inf, dtype=torch.float64)
    for seed in range(6):
        other = torch.randint(system.table.num_pdfs, (len(classes),), generator=torch.Generator().manual_seed(seed))
        chosen = number[7 * seed + 3 :][:1] if seed < 3 else number
        change = (eps * noise(len(wave), seed=seed).sign()).requires_grad_()
        for _ in range(8):
            found = leads(certifier, wave + change, classes)
            assert (found <= bounds + 1e-9).all()
            closest = torch.maximum(closest, (found - bounds).masked_fill(bounds == 0, -torch.inf).amax())
            (gradient,) = torch.autograd.grad(found[chosen, other[chosen]].sum(), change)
            change = (change + eps / 2 * gradient.sign()).clamp(-eps, eps).detach().requires_grad_()
    if eps == 1e-4 and len(certifier.scores.members) == 1:
        assert closest > -0.3  # the bounds are of use: a change comes near one of them


def test_sums_of_every_layer_never_leave_their_bounds(system: TinySystem, certifier: Certifier) -> None:
    wave, eps = torch.from_numpy(wave_of(system)).double(), 1e-3
    scores = certifier.scores
    bounds = scores.cells.bounds(wave, eps)
    for layers in scores.members:
        for rows, first in first_layers(scores.front_end, scores.cells, bounds, layers[0], eps):
            network = Rectified(first, layers)
            for change in changes(scores.cells, wave, eps):
                inputs, _ = scores.front_end((wave + change).unsqueeze(0), torch.tensor([len(wave)]))
                hidden = inputs[0, rows]
                for (weight, bias), (low, high) in zip(layers, network.bounds, strict=False):
                    sums = hidden @ weight.t() + bias
                    assert (sums >= low - 1e-9).all() and (sums <= high + 1e-9).all()
                    hidden = sums.relu()


def test_the_first_layer_moves_as_far_as_its_unknowns_let_it(system: TinySystem, certifier: Certifier) -> None:
    """Against gradients of the front end's own steps with respect to each unknown."""
    wave, eps = torch.from_numpy(wave_of(system)).double(), 1e-3
    scores = certifier.scores
    cells, front_end, (weight, _) = scores.cells, scores.front_end, scores.members[0][0]
    bounds = cells.bounds(wave, eps)
    power = cells.place(bounds.power)
    samples, own = torch.zeros_like(power).requires_grad_(), torch.zeros_like(bounds.radius).requires_grad_()
    common = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    frames = samples.unfold(0, cells.forms.shape[-1], cells.shift)[: len(own)]
    shared = bounds.shared @ torch.stack([power @ samples + bounds.power_radius * common[0], common[1]])
    logs = torch.einsum("tml,tl->tm", bounds.linear, frames) + shared + bounds.radius * own
    feats, lengths = (logs @ cells.compose).unsqueeze(0), torch.tensor([len(own)])
    feats = feats - feats.mean(1, keepdim=True) if front_end.config.cmvn == "utterance" else feats
    sums = front_end.splice(front_end.deltas(feats, lengths) / front_end.norm.std, lengths)[0] @ weight.t()
    layers = first_layers(front_end, cells, bounds, scores.members[0][0], eps)
    reach = torch.cat([first.reach(first.weights.flatten(2)) for _, first in layers])
    for frame in (0, len(own) // 2, len(own) - 1):
        for unit in range(3):
            gradients = torch.autograd.grad(sums[frame, unit], (samples, own, common), retain_graph=True)
            far = sum(scale * g.abs().sum() for scale, g in zip((eps, 1.0, 1.0), gradients, strict=True))
            assert torch.allclose(reach[frame, unit], torch.as_tensor(far), rtol=1e-9)


def test_the_lead_of_a_mean_is_bounded() -> None:
    low, classes = 3 * noise(3, 5, 4), torch.tensor([0, 3, 1, 2, 0])
    high = low + noise(3, 5, 4, seed=1).abs()
    for values in (low, high):
        values.scatter_(2, classes.view(1, -1, 1).expand(3, -1, 1), 0.0)
    bound = mean_lead(high, low, classes)
    for seed in range(300):
        share = torch.rand(high.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        share = share.round() if seed % 2 else share
        mean = (low + share * (high - low)).log_softmax(-1).logsumexp(0)
        assert (mean - mean.gather(1, classes.unsqueeze(1)) <= bound + 1e-9).all()


def test_the_search_finds_the_best_of_all_paths() -> None:
    """Against the enumeration of every path of a small graph, with arcs that take no frame."""
    arcs = [  # source, input, output, cost, destination
        (0, 1, 7, 0.2, 1), (0, 2, 8, 0.1, 1), (0, 0, 0, 0.3, 1), (1, 3, 0, 0.4, 1), (1, 2, 7, 0.5, 0),
        (1, 0, 8, 0.1, 2), (1, 1, 0, 0.2, 2), (2, 3, 0, 0.7, 2), (2, 1, 7, 0.6, 0),
    ]  # fmt: skip
    table = np.array([(i, o, c, d) for _, i, o, c, d in arcs], ARC)
    offsets = np.searchsorted([a[0] for a in arcs], range(4)).astype(np.int64)
    fst = FstArrays(0, np.array([np.inf, 0.5, 0.1], np.float32), offsets, table)
    pdfs, scores = np.array([0, 2, 0, 1]), noise(5, 3).numpy()
    best: dict[tuple[int, ...], float] = {}

    def follow(state: int, frame: int, words: tuple[int, ...], score: float) -> None:
        if frame == len(scores) and np.isfinite(fst.finals[state]):
            best[words] = max(best.get(words, -np.inf), score - float(fst.finals[state]))
        for source, label, word, cost, to in arcs:
            if source == state and (label == 0 or frame < len(scores)):
                gain = scores[frame, pdfs[label]] if label else 0.0
                follow(to, frame + (label > 0), (*words, word) if word else words, score - cost + gain)

    follow(0, 0, (), 0.0)
    for words in [*list(best)[:40], (8, 8, 8, 8, 8, 8, 8)]:
        search = _Search(fst, pdfs, words)
        ends = (search.forward(scores, keep=False)[-1] + search.finals).reshape(len(words) + 2, -1).max(1)
        others = max(score for other, score in best.items() if other != words)
        assert ends[-2] == pytest.approx(best.get(words, -np.inf), abs=1e-5)
        assert np.delete(ends, -2).max() == pytest.approx(others, abs=1e-5)


def test_the_best_path_is_the_decoders(system: TinySystem, certifier: Certifier) -> None:
    for utt, wave in list(system.waves.items())[:6]:
        path = certifier.reference(wave)
        assert path is not None
        scores = certifier._loglikes(wave)
        assert certifier.recogniser.decode([(utt, scores.astype(np.float32))])[utt] == path.words
        scaled = scores * certifier.recogniser.decode_config.acwt
        assert certifier.paths.of_words(scaled, path.words) == pytest.approx(path.score)
        assert certifier.paths.of_others(scaled, path.words) < path.score
        assert certifier.paths.of_others(scaled, ["one"] * 9) == pytest.approx(path.score)


def test_a_target_of_unknown_words_is_refused(system: TinySystem, certifier: Certifier) -> None:
    with pytest.raises(DataError, match="no word 'tow'"):
        certifier.certify(wave_of(system), ["one", "tow"], [1e-4])


GRID = (1e-5, 3e-5, 1e-4, 2e-4, 4e-4, 8e-4)


@pytest.mark.long
def test_no_attack_succeeds_within_a_certificate(system: TinySystem) -> None:
    recogniser = system.recogniser(system.train("dnn"))
    waves = dict(list(system.waves.items())[:6])
    targets = {utt: "two" if list(system.text[utt]) != ["two"] else "one" for utt in waves}
    found = uq.certify(recogniser, waves, GRID, targets)
    heard = recogniser.hear(waves)
    assert max(one.eps_target for one in found.values()) >= 1e-4  # not an empty claim
    assert sum(one.eps_any > 0 for one in found.values()) >= 3
    for utt, one in found.items():
        assert one.words == heard[utt].words
        assert one.eps_any <= one.eps_target
        values = list(one.leads.values())
        assert values == sorted(values, reverse=True)  # a larger eps proves less
    for name, goal in (
        ("eps_target", uq.Say(targets)),
        ("eps_any", uq.Untargeted({u: list(heard[u].words or ()) for u in waves})),
    ):
        for eps in {getattr(one, name) for one in found.values()} - {0.0}:
            those = {utt: waves[utt] for utt, one in found.items() if getattr(one, name) == eps}
            attack = uq.attacks.PGD(eps=eps, num_steps=25)(recogniser, those, goal)
            again = recogniser.hear(attack.waves)
            for utt in those:
                if name == "eps_any":
                    assert again[utt].words == heard[utt].words
                else:
                    assert " ".join(again[utt].words or ()) != targets[utt]
    strong = uq.attacks.PGD(eps=0.1, num_steps=60)(recogniser, waves, uq.Say(targets))
    fooled = [utt for utt, one in recogniser.hear(strong.waves).items() if " ".join(one.words or ()) == targets[utt]]
    assert fooled  # the attack works, and nothing is certified where it does
    large = uq.certify(recogniser, {utt: waves[utt] for utt in fooled}, [0.1], targets)
    assert all(one.eps_target == one.eps_any == 0 for one in large.values())


@pytest.mark.long
@pytest.mark.parametrize("kind", ["dropout", "bnn"])
def test_random_networks_are_refused(system: TinySystem, kind: str) -> None:
    with pytest.raises(ValueError, match=f"no certificate for a network of kind '{kind}', its draws are random"):
        uq.certify(system.recogniser(system.train(kind)), system.waves, [1e-4])


@pytest.mark.parametrize(
    ("changes_", "problem"),
    [({"cmvn": "speaker"}, "cmvn speaker"), ({"cmvn": "utterance", "norm_vars": True}, "norm_vars"),
     ({"kind": "torchaudio"}, "loudest sample"), ({"fmllr": True}, "fMLLR"), ({"ivector_dim": 5}, "i-vectors"),
     ({"lda_dim": 3, "delta_order": 0}, "final.mat"), ({"frame_subsampling_factor": 3}, "frame_subsampling_factor")],
)  # fmt: skip
def test_front_ends_without_a_certificate_are_refused(changes_: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=f"no certificate: .*{problem}"):
        Cells(FrontEnd(FrontEndConfig.from_dict({**tiny.FRONT_END.to_dict(), **changes_})).double())


@pytest.mark.parametrize(("step", "value"), [("offsets", torch.tensor(10.0)), ("level", 0.1)])
def test_a_step_of_the_front_end_without_bounds_is_found(system: TinySystem, step: str, value: Any) -> None:
    certifier = Certifier(system.recogniser(system.train("dnn")))
    setattr(certifier.scores.cells, step, value)
    with pytest.raises(ValueError, match=r"no certificate: features differ by .* a step that has no bounds"):
        certifier.certify(wave_of(system), None, [1e-4])


@pytest.mark.long
def test_command_writes_what_the_function_finds(
    system: TinySystem, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    waves = dict(list(system.waves.items())[:4])
    data = tiny.write_set(tmp_path / "data", waves, {utt: system.text[utt] for utt in waves})
    model = system.write_model(system.train("dnn"), tmp_path / "dnn")
    words = ["nnet-certify", str(model), str(data), str(tmp_path / "out"), "--eps", "1e-3,2e-5"]
    words += ["--lang-dir", str(system.lang.path), "--results", str(tmp_path / "results.json")]
    assert main(words) == 0
    lines = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    recogniser = Recogniser.load(model, lang_dir=system.lang.path)
    targets = uq.Say(spoken=system.text).choose(recogniser, waves, 0)
    expected = uq.certify(recogniser, waves, [2e-5, 1e-3], targets)
    assert [(o["utt"], o["eps_target"], o["eps_any"]) for o in lines] == [
        (utt, one.eps_target, one.eps_any) for utt, one in expected.items()
    ]
    rows = json.loads((tmp_path / "results.json").read_text())["certified"]
    assert [(row["model"], row["eps"]) for row in rows] == [("dnn", 2e-5), ("dnn", 1e-3)]
    assert rows[0]["against_target"] == np.mean([one.eps_target >= 2e-5 for one in expected.values()])
    assert "against any other text" in capsys.readouterr().out
    assert main([*words[:4], "--eps", "0,x"]) == 1
    assert "expected numbers in (0, 1]" in capsys.readouterr().err
