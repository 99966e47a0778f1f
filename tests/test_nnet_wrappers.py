"""A user's own network behind the interface of the acoustic models."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kaldi_uq.nnet import AcousticModel, deterministic, ensemble, mc_dropout, vmg
from kaldi_uq.nnet.vmg_conv import VmgConv1d
from kaldi_uq.nnet.vmg_linear import VmgLinear
from kaldi_uq.uncertainty import measures_from_draws


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Tdnn(nn.Module):
    """Two dilated convolutions over time, batch normalisation, dropout, a linear output."""

    def __init__(self, p: float | None = 0.3) -> None:
        super().__init__()
        self.first = nn.Conv1d(6, 12, 3, padding=1)
        self.norm = nn.BatchNorm1d(12)
        self.second = nn.Conv1d(12, 12, 3, padding=2, dilation=2)
        self.dropout = nn.Identity() if p is None else nn.Dropout(p)
        self.output = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.first(x.transpose(1, 2)).relu())
        hidden = self.dropout(self.second(hidden).relu())
        logits: Tensor = self.output(hidden.transpose(1, 2))
        return logits


def tdnn(p: float | None = 0.3) -> Tdnn:
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    module = Tdnn(p)
    torch.random.set_rng_state(state)
    return module


WRAPPERS: dict[str, Callable[[], AcousticModel]] = {
    "deterministic": lambda: deterministic(tdnn(), num_pdfs=5),
    "dropout": lambda: mc_dropout(tdnn(), num_samples=6, num_pdfs=5),
    "ensemble": lambda: ensemble(Tdnn, 3, 1, num_pdfs=5),
    "vmg": lambda: vmg(tdnn(), num_samples=4, init_log_var=-4.0, num_pdfs=5),
}
DRAWS = {"deterministic": 1, "dropout": 6, "ensemble": 3, "vmg": 4}


def features(seed: int = 1) -> Tensor:
    return torch.randn(2, 9, 6, generator=seeded(seed))


@pytest.mark.parametrize("name", WRAPPERS)
class TestEveryWrapper:
    def test_has_the_interface_of_an_acoustic_model(self, name: str) -> None:
        model = WRAPPERS[name]().eval()
        assert not model.frame_wise
        assert model.is_random == (name in ("dropout", "vmg"))
        with torch.no_grad():
            log_post = model.log_post(features(), generator=seeded(2))
            assert log_post.shape == (DRAWS[name], 2, 9, 5)
            torch.testing.assert_close(log_post.logsumexp(-1), torch.zeros(DRAWS[name], 2, 9), rtol=0, atol=1e-6)
            for chunk in (1, 2, 5):
                parts = torch.cat(list(model.iter_log_post(features(), generator=seeded(2), chunk=chunk)))
                assert torch.equal(parts, log_post)
            mean = log_post.exp().mean(0).log()
            torch.testing.assert_close(model(features(), generator=seeded(2)), mean, rtol=0, atol=1e-5)

    def test_a_generator_decides_and_the_global_one_is_left_alone(self, name: str) -> None:
        model = WRAPPERS[name]().eval()
        before = torch.random.get_rng_state()
        first, second, other = (model.log_post(features(), generator=seeded(s)) for s in (2, 2, 3))
        assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.equal(first, second)
        assert torch.equal(first, other) != model.is_random

    def test_trains_with_a_mask_and_padding_has_no_influence_on_the_loss(self, name: str) -> None:
        model = WRAPPERS[name]().eval()  # batch normalisation would look at padded frames in training mode
        pdfs = torch.randint(5, (2, 9), generator=seeded())
        mask = torch.ones(2, 9, dtype=torch.bool)
        mask[1, 5:] = False
        losses = []
        for label in (0, 4):
            pdfs[1, 5:] = label
            loss = model.training_loss(features(), pdfs, mask=mask, num_frames_total=10**6, generator=seeded(2))
            losses.append(loss)
        torch.testing.assert_close(losses[0], losses[1])
        losses[0].backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name

    def test_gradient_reaches_the_features(self, name: str) -> None:
        model = WRAPPERS[name]().eval()
        x = features().requires_grad_()
        measures = measures_from_draws(model.iter_log_post(x, generator=seeded(2)))
        (gradient,) = torch.autograd.grad(sum(value.sum() for value in measures.values()), x)
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0

    def test_loss_falls_in_training(self, name: str) -> None:
        model = WRAPPERS[name]().train()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        pdfs = torch.randint(5, (2, 9), generator=seeded())
        losses = []
        for step in range(30):
            optimizer.zero_grad()
            loss = model.training_loss(features(), pdfs, num_frames_total=10**6, generator=seeded(step))
            loss.backward()
            model.clip_gradients(5.0)
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.7 * losses[0]

    def test_logits_of_a_wrong_shape_are_named(self, name: str) -> None:
        model = WRAPPERS[name]()
        parts = [model.module] if hasattr(model, "module") else [member.module for member in model.members]
        for part in parts:
            part.second = nn.Conv1d(12, 12, 3)  # no padding: two frames fewer
        with pytest.raises(ValueError, match=r"must give logits \(2, 9, 5\), got \(2, 7, 5\)"):
            model.log_post(features())


class TestMcDropout:
    def test_dropout_stays_on_at_test_and_nothing_else_does(self) -> None:
        module = tdnn()
        model = mc_dropout(module).train().eval()
        modes = []
        module.output.register_forward_hook(lambda *_: modes.append((module.dropout.training, module.norm.training)))
        assert model.log_post(features(), num_samples=8, generator=seeded()).var(0).max() > 1e-3
        assert modes == [(True, False)] * 8 and not module.dropout.training

    def test_p_is_of_the_wrapper_and_not_of_the_module(self) -> None:
        module = tdnn(0.1).eval()
        few, many, own = mc_dropout(module, p=0.05), mc_dropout(module, p=0.9), mc_dropout(module)
        assert (module.dropout.p, module.dropout.training, many.training) == (0.1, False, False)

        def spread(model: AcousticModel) -> float:
            return model.log_post(features(), num_samples=20, generator=seeded()).var(0).mean().item()

        before = [spread(model) for model in (few, own, many)]
        assert before == sorted(before) and before[2] > 2 * before[0] > 0
        assert [spread(model) for model in (few, own, many)] == before
        assert (module.dropout.p, module.dropout.training) == (0.1, False)
        assert mc_dropout(tdnn(0.0), p=0.4).eval().log_post(features(), num_samples=4).var(0).max() > 1e-3

    def test_modes_are_put_back_where_the_module_fails(self) -> None:
        class Fails(Tdnn):
            def forward(self, x: Tensor) -> Tensor:
                assert self.dropout.p == 0.7 and self.dropout.training and not self.training
                raise RuntimeError("no")

        module = Fails().train()
        model = mc_dropout(module, p=0.7)
        model.training = False
        with pytest.raises(RuntimeError, match=r"^no$"):
            model.log_post(features())
        assert all(layer.training for layer in module.modules()) and module.dropout.p == 0.3

    def test_training_the_wrapper_trains_the_module(self) -> None:
        module = tdnn()
        model = mc_dropout(module).train()
        assert [*map(id, model.parameters())] == [*map(id, module.parameters())]
        before = module.norm.running_mean.clone()
        model.training_loss(features(), torch.zeros(2, 9, dtype=torch.long), num_frames_total=9).backward()
        assert module.first.weight.grad is not None and not torch.equal(module.norm.running_mean, before)

    def test_frames_use_masks_of_the_right_rate(self) -> None:
        class Mask(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.drop = nn.Dropout(0.25)

            def forward(self, x: Tensor) -> Tensor:
                kept: Tensor = self.drop(torch.ones_like(x))
                return kept

        log_post = mc_dropout(Mask().eval()).log_post(torch.zeros(4, 250, 50), num_samples=2, generator=seeded())
        kept = (log_post == log_post.amax(-1, keepdim=True)).double().mean()
        assert abs(kept - 0.75) < 4 * math.sqrt(0.75 * 0.25 / 10**5)

    @pytest.mark.parametrize(
        "inner",
        [
            nn.TransformerEncoderLayer(6, 2, dim_feedforward=8, dropout=0.3, batch_first=True),
            nn.MultiheadAttention(6, 2, dropout=0.3, batch_first=True),
            nn.LSTM(6, 6, num_layers=2, dropout=0.3, batch_first=True),
        ],
        ids=lambda inner: type(inner).__name__,
    )
    def test_layers_with_dropout_inside_count(self, inner: nn.Module) -> None:
        class Block(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner, self.output = inner, nn.Linear(6, 5)

            def forward(self, x: Tensor) -> Tensor:
                attention = isinstance(self.inner, nn.MultiheadAttention)
                hidden = self.inner(x, x, x) if attention else self.inner(x)
                logits: Tensor = self.output(hidden[0] if isinstance(hidden, tuple) else hidden)
                return logits

        model = mc_dropout(Block()).eval()
        with torch.no_grad():  # where a transformer layer in evaluation mode takes the path without dropout
            log_post = model.log_post(features(), num_samples=4, generator=seeded())
        assert log_post.var(0).max() > 1e-6

    def test_a_module_without_dropout_is_refused(self) -> None:
        with pytest.raises(ValueError, match="Tdnn has no dropout layers"):
            mc_dropout(tdnn(None))
        with pytest.raises(ValueError, match="probability 0; give p"):
            mc_dropout(tdnn(0.0))
        with pytest.raises(ValueError, match=r"p must be in \(0, 1\), got 1"):
            mc_dropout(tdnn(), p=1)

    @pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
    def test_dropout_of_a_recurrent_layer_alone_drops_nothing(self, kind: type[nn.RNNBase]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own about this, once
            module = nn.Sequential(kind(6, 5, dropout=0.3))
        with pytest.raises(ValueError, match=f"that of a one-layer nn.{kind.__name__} drops nothing"):
            mc_dropout(module)
        with pytest.raises(ValueError, match="drops nothing"):
            mc_dropout(module, p=0.5)

    @pytest.mark.parametrize("name", ["dropout", "dropout1d", "alpha_dropout", "feature_alpha_dropout"])
    def test_a_dropout_function_beside_a_layer_is_found_at_the_first_draw(self, name: str) -> None:
        class Functional(Tdnn):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(getattr(F, name)(x, 0.2, training=self.training))

        model = mc_dropout(Functional()).eval()
        for _ in range(2):  # and at every later one
            with pytest.raises(ValueError, match=rf"Functional calls F.{name}\(p=0.2\) with training=False"):
                next(model.iter_log_post(features()))

    def test_a_dropout_function_that_drops_at_test_or_never_is_fine(self) -> None:
        class Functional(Tdnn):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(F.dropout(F.dropout(x, 0.2), 0.0, training=False))

        assert mc_dropout(Functional(), num_samples=3).eval().log_post(features()).var(0).max() > 1e-6

    def test_layers_that_are_never_called_are_found_at_the_first_draw(self) -> None:
        module = tdnn()
        module.forward = lambda x: module.output(module.first(x.transpose(1, 2)).transpose(1, 2))
        model = mc_dropout(module)
        with pytest.raises(ValueError, match="has dropout layers and calls none of them"):
            model.training_loss(features(), torch.zeros(2, 9, dtype=torch.long), num_frames_total=9)
        assert not module.dropout._forward_pre_hooks  # nothing stays behind

    def test_draws_that_are_all_equal_are_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        model = mc_dropout(tdnn(1e-12), num_samples=4).eval()
        model.log_post(features(), num_samples=1)  # one draw tells nothing
        assert not caplog.messages
        for _ in range(2):
            model.log_post(features())
        (message,) = caplog.messages
        assert "all 4 draws are equal" in message and "give a larger p" in message


class TestEnsemble:
    def test_members_differ_and_come_from_the_seed(self) -> None:
        first, second = ensemble(Tdnn, 2, 7).eval(), ensemble(Tdnn, 3, 7).eval()
        log_post, more = first.log_post(features()), second.log_post(features())
        assert torch.equal(log_post, more[:2])  # member m does not depend on how many there are
        assert not torch.equal(log_post[0], log_post[1])
        assert not torch.equal(log_post, ensemble(Tdnn, 2, 8).eval().log_post(features()))

    def test_each_member_trains_on_its_own_minibatch(self) -> None:
        model = ensemble(Tdnn, 2, 7).eval()
        x, pdfs = torch.stack([features(1), features(2)]), torch.randint(5, (2, 2, 9), generator=seeded())
        loss = model.training_loss(x, pdfs, num_frames_total=9)
        alone = [
            deterministic(member.module).training_loss(x[k], pdfs[k], num_frames_total=9)
            for k, member in enumerate(model.members)
        ]
        torch.testing.assert_close(loss, alone[0] + alone[1])

    def test_a_factory_that_gives_one_module_twice_is_refused(self) -> None:
        shared = tdnn()
        with pytest.raises(TypeError, match="factory must build a new"):
            ensemble(lambda: shared, 2)
        with pytest.raises(ValueError, match="num_members must be >= 1"):
            ensemble(Tdnn, 0)

    @pytest.mark.parametrize("which", ["copies", "seeded", "without weights"])
    def test_members_with_equal_weights_are_refused(self, which: str) -> None:
        shared = tdnn()
        factory: Callable[[], nn.Module] = {
            "copies": lambda: copy.deepcopy(shared),
            "seeded": tdnn,
            "without weights": nn.Identity,
        }[which]
        with pytest.raises(ValueError, match="members 1 and 2 have equal weights"):
            ensemble(factory, 3)

    def test_two_equal_members_of_several_are_named(self) -> None:
        first = Tdnn()
        members = iter([first, Tdnn(), copy.deepcopy(first)])
        with pytest.raises(ValueError, match="members 1 and 3 have equal weights"):
            ensemble(lambda: next(members), 3)

    def test_members_that_become_equal_are_said(self, caplog: pytest.LogCaptureFixture) -> None:
        model = ensemble(Tdnn, 2, 7).eval()
        model.members[1].load_state_dict(model.members[0].state_dict())
        model.log_post(features())
        assert "all 2 draws are equal" in caplog.text

    def test_networks_that_are_there_are_members(self) -> None:
        networks = [Tdnn().eval(), Tdnn().train(), Tdnn().eval()]
        for given in (networks, tuple(networks), nn.ModuleList(networks)):
            model = ensemble(given)
            assert [member.module for member in model.members] == networks
        second = ensemble(networks, 3).eval().log_post(features())[1]
        assert torch.equal(second, networks[1](features()).log_softmax(-1))
        networks[1].train()
        assert [network.training for network in networks] == [False, True, False]

    def test_networks_that_are_no_ensemble_are_refused(self) -> None:
        one = Tdnn()
        for words, kind, message in (
            (([one, Tdnn()], 3), ValueError, "num_members is 3, but 2 networks are given: leave it out"),
            (([one, Tdnn()], None, 7), ValueError, "leave it out with networks"),
            (([],), ValueError, "at least one member"),
            (([one, one],), ValueError, "members 1 and 2 have equal weights.*give each network once"),
            (([one, Tdnn],), TypeError, r"got the class Tdnn: call it, Tdnn\(\.\.\.\)"),
            (([one, mc_dropout(Tdnn())],), TypeError, "expected a network without a wrapper, got a SequenceDropout"),
            ((one, 3), TypeError, "or a list of networks; got one Tdnn"),
            ((Tdnn,), TypeError, "say num_members"),
        ):
            with pytest.raises(kind, match=message):
                ensemble(*words)  # type: ignore[call-overload]


@pytest.mark.parametrize("wrap", [deterministic, mc_dropout, vmg])
def test_a_class_or_a_wrapper_is_no_network(wrap: Callable[..., AcousticModel]) -> None:
    with pytest.raises(TypeError, match=r"expected a network, got the class Tdnn: call it, Tdnn\(\.\.\.\)"):
        wrap(Tdnn)
    with pytest.raises(TypeError, match="expected a network without a wrapper, got a SequenceModel"):
        wrap(deterministic(tdnn()))
    with pytest.raises(TypeError, match=r"expected an nn.Module, got function"):
        wrap(tdnn)


class TestVmg:
    def test_layers_are_replaced_in_a_copy_with_their_weights_as_means(self) -> None:
        module = tdnn(None)
        model = vmg(module, init_log_var=-60.0).eval()
        assert type(module.first) is nn.Conv1d
        assert isinstance(model.module.first, VmgConv1d)
        assert isinstance(model.module.output, VmgLinear)
        module.eval()
        expected = module(features()).log_softmax(-1).expand(2, -1, -1, -1)
        torch.testing.assert_close(model.log_post(features(), num_samples=2), expected, rtol=0, atol=1e-5)

    def test_kl_is_the_sum_over_layers(self) -> None:
        model = vmg(tdnn())
        parts = [model.module.first, model.module.second, model.module.output]
        torch.testing.assert_close(model.kl(), sum(part.kl() for part in parts))

    def test_a_layer_that_is_used_twice_stays_one_layer(self) -> None:
        shared = nn.Linear(6, 6)
        model = vmg(nn.Sequential(shared, nn.ReLU(), shared))
        assert model.module[0] is model.module[2]
        torch.testing.assert_close(model.kl(), model.module[0].kl())

    def test_a_bare_layer_is_replaced(self) -> None:
        model = vmg(nn.Linear(6, 5))
        assert isinstance(model.module, VmgLinear)
        assert model.log_post(features(), generator=seeded()).shape == (5, 2, 9, 5)

    def test_modules_that_cannot_be_converted_are_refused(self) -> None:
        with pytest.raises(ValueError, match="GRU has no nn"):
            vmg(nn.GRU(6, 5, batch_first=True))
        with pytest.raises(ValueError, match="without calling their layers"):
            vmg(nn.TransformerEncoderLayer(6, 2, batch_first=True))
