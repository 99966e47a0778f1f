"""LDA+MLLT (``final.mat``) and fMLLR (``trans.*``) in the front end, against a few lines of NumPy, and their files."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kaldi_uq.errors import DataError
from kaldi_uq.feats import framing
from kaldi_uq.feats.adaptation import NOTHING, Adaptation, BatchAdaptation, adaptations_digest
from kaldi_uq.feats.cmvn import accumulate_cmvn_stats
from kaldi_uq.feats.config import FrontEndConfig, MfccConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.io.transforms import has_transforms, read_transforms
from kaldi_uq.recogniser.speakers import batch_adaptation, fmllr_transforms

TINY = MfccConfig(sample_frequency=1000.0, frame_length=15.0, frame_shift=5.0, num_mel_bins=4, num_ceps=3, low_freq=0.0)
LDA = FrontEndConfig(
    mfcc=TINY,
    cmvn="speaker",
    delta_order=0,
    splice_left=3,
    splice_right=2,
    lda_dim=4,
    fmllr=True,
    left_context=1,
    right_context=1,
)
SAMPLES = [310, 95, 200]
SPEAKERS = [0, 1, 0]
RNG = np.random.default_rng(0)


def noise(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    wav = 0.1 * torch.randn(len(SAMPLES), max(SAMPLES), generator=torch.Generator().manual_seed(0), dtype=dtype)
    return wav, torch.tensor(SAMPLES)


def spliced(feats: np.ndarray, left: int, right: int) -> np.ndarray:
    frames = [
        np.concatenate([feats[min(max(t + k, 0), len(feats) - 1)] for k in range(-left, right + 1)])
        for t in range(len(feats))
    ]
    return np.stack(frames)


def transformed(feats: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    if matrix.shape[1] == feats.shape[1] + 1:
        feats = np.concatenate([feats, np.ones((len(feats), 1))], axis=1)
    return np.stack([matrix @ frame for frame in feats])


def write_text(path: Path, matrices: dict[str, np.ndarray]) -> None:
    """An archive as text: the form that copy-feats ark,t: has."""
    rows = {key: "\n".join("  " + " ".join(map(repr, map(float, row))) for row in m) for key, m in matrices.items()}
    path.write_text("".join(f"{key}  [\n{body} ]\n" for key, body in rows.items()))


def write_binary(path: Path, matrices: dict[str, np.ndarray]) -> None:
    """An archive of single-precision matrices, in Kaldi's binary form."""
    parts = [
        f"{key} ".encode() + b"\0BFM \4" + struct.pack("<i", len(m)) + b"\4" + struct.pack("<i", m.shape[1])
        + m.astype("<f4").tobytes()
        for key, m in matrices.items()
    ]  # fmt: skip
    path.write_bytes(b"".join(parts))


def write_matrix(path: Path, matrix: np.ndarray) -> Path:
    path.write_text(" [\n" + "\n".join(" ".join(map(repr, map(float, row))) for row in matrix) + " ]\n")
    return path


def write_trans(folder: Path, *archives: dict[str, np.ndarray], num_jobs: int | None = None) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    for number, matrices in enumerate(archives, 1):
        (write_text if number % 2 else write_binary)(folder / f"trans.{number}", matrices)
    (folder / "num_jobs").write_text(f"{len(archives) if num_jobs is None else num_jobs}\n")
    return folder


class TestFrontEnd:
    @pytest.mark.parametrize("lda_columns", [18, 19], ids=["linear lda", "affine lda"])
    @pytest.mark.parametrize("fmllr_columns", [4, 5], ids=["linear fmllr", "affine fmllr"])
    def test_lda_and_fmllr_are_what_kaldis_pipeline_does(
        self, tmp_path: Path, lda_columns: int, fmllr_columns: int
    ) -> None:
        """apply-cmvn | splice-feats | transform-feats final.mat | transform-feats --utt2spk trans."""
        front_end = FrontEnd(LDA).double()
        lda = RNG.standard_normal((4, lda_columns)).astype(np.float32).astype(np.float64)
        front_end.lda.set_matrix(lda, "final.mat")
        trans = {f"spk{s}": RNG.standard_normal((4, fmllr_columns)).astype(np.float32) for s in range(2)}
        folder = write_trans(tmp_path, {"spk0": trans["spk0"]}, {"spk1": trans["spk1"]})
        utt2spk = {f"utt{i}": f"spk{s}" for i, s in enumerate(SPEAKERS)}
        wav, num_samples = noise()
        ceps, lengths = (x.numpy() for x in front_end.cepstra_of(wav, num_samples))
        each = [c[:n] for c, n in zip(ceps, lengths, strict=True)]
        stats = {s: sum(accumulate_cmvn_stats(each[i]) for i, t in enumerate(SPEAKERS) if t == s) for s in range(2)}
        fmllr = fmllr_transforms(front_end, folder, utt2spk)
        known = {f"utt{i}": Adaptation(stats[s], fmllr[f"utt{i}"]) for i, s in enumerate(SPEAKERS)}
        adaptation = batch_adaptation(front_end, known, list(known))
        feats, _ = front_end.features(wav, num_samples, adaptation=adaptation)
        out, _ = front_end(wav, num_samples, adaptation=adaptation)
        for i, s in enumerate(SPEAKERS):
            of_speaker = np.concatenate([each[j] for j, t in enumerate(SPEAKERS) if t == s])
            expected = transformed(spliced(each[i] - of_speaker.mean(0), 3, 2), lda)
            expected = transformed(expected, trans[f"spk{s}"].astype(np.float64))
            np.testing.assert_allclose(feats[i, : lengths[i]].numpy(), expected, rtol=1e-9, atol=1e-9)
            assert not feats[i, lengths[i] :].any()
            np.testing.assert_allclose(out[i, : lengths[i]].numpy(), spliced(expected, 1, 1), rtol=1e-9, atol=1e-9)

    def test_fmllr_follows_derivatives_where_there_is_no_final_mat(self) -> None:
        front_end = FrontEnd(FrontEndConfig(mfcc=TINY, delta_order=1, fmllr=True, left_context=0, right_context=0))
        plain = FrontEnd(FrontEndConfig(mfcc=TINY, delta_order=1, left_context=0, right_context=0))
        wav, num_samples = noise()
        matrices = RNG.standard_normal((3, 6, 7)).astype(np.float32)
        adaptation = BatchAdaptation(fmllr=torch.from_numpy(matrices))
        found, lengths = front_end.features(wav, num_samples, adaptation=adaptation)
        before, _ = plain.features(wav, num_samples)
        for i, n in enumerate(lengths.tolist()):
            np.testing.assert_allclose(
                found[i, :n], transformed(before[i, :n].numpy(), matrices[i].astype(float)), atol=1e-9
            )

    @pytest.mark.long
    def test_gradient_is_exact_and_reaches_the_waveform_through_all_of_it(self) -> None:
        front_end = FrontEnd(replace(LDA, cmvn="utterance")).double()
        front_end.lda.set_matrix(RNG.standard_normal((4, 19)), "final.mat")
        adaptation = BatchAdaptation(fmllr=torch.from_numpy(RNG.standard_normal((2, 4, 5))))
        wav, num_samples = noise()
        wav, num_samples = wav[1:, :42].clone().requires_grad_(), torch.tensor([31, 42])
        assert torch.autograd.gradcheck(
            lambda x: front_end(x, num_samples, adaptation=adaptation)[0], wav, eps=1e-7, atol=1e-4
        )

    def test_windows_of_a_long_utterance_are_those_of_the_whole(self, monkeypatch: pytest.MonkeyPatch) -> None:
        front_end = FrontEnd(replace(LDA, cmvn="none")).double()
        front_end.lda.set_matrix(RNG.standard_normal((4, 18)), "final.mat")
        adaptation = BatchAdaptation(fmllr=torch.from_numpy(RNG.standard_normal((1, 4, 5))))
        wav, num_samples = noise()
        whole, _ = front_end(wav[:1], num_samples[:1], adaptation=adaptation)
        monkeypatch.setattr(framing, "WINDOW_FRAMES", 7)
        windows = list(front_end.windows(wav[0, : int(num_samples[0])], adaptation=adaptation))
        assert len(windows) > 3
        torch.testing.assert_close(torch.cat(windows, 1), whole)

    def test_model_file_carries_the_matrix(self) -> None:
        front_end, other = FrontEnd(LDA), FrontEnd(LDA)
        front_end.lda.set_matrix(RNG.standard_normal((4, 18)), "final.mat")
        other.load_state_dict(front_end.state_dict())
        assert torch.equal(other.lda.matrix, front_end.lda.matrix) and other.lda.matrix.any()
        assert FrontEndConfig.from_dict(LDA.to_dict()) == LDA

    @pytest.mark.parametrize("shape", [(4, 17), (4, 20), (4, 0), (0, 18)])
    def test_final_mat_of_another_size_is_one_line(self, shape: tuple[int, int]) -> None:
        with pytest.raises(DataError, match=r"exp/final\.mat: a matrix of \d+ x \d+, for features of 18 dimensions"):
            FrontEnd(LDA).lda.set_matrix(np.zeros(shape), "exp/final.mat")

    def test_final_mat_with_nan_is_refused(self) -> None:
        with pytest.raises(DataError, match="NaN or infinite"):
            FrontEnd(LDA).lda.set_matrix(np.full((4, 18), np.nan), "final.mat")

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"delta_order": 2}, "derivatives or final.mat, not both"),
            ({"lda_dim": 0}, "splice_left and splice_right are for features with final.mat"),
            ({"kind": "torchaudio"}, "final.mat, fMLLR and i-vectors are for Kaldi's features"),
            ({"lda_dim": 501}, "lda_dim must be between"),
        ],
    )
    def test_options_that_do_not_go_together(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            replace(LDA, **options)

    def test_more_dimensions_than_there_are_is_refused(self) -> None:
        with pytest.raises(ValueError, match="lda_dim 19: the spliced features have only 18"):
            FrontEnd(replace(LDA, lda_dim=19))

    def test_transforms_and_configuration_must_agree(self) -> None:
        wav, num_samples = noise()
        with pytest.raises(ValueError, match="fMLLR transforms missing"):
            FrontEnd(FrontEndConfig(mfcc=TINY, fmllr=True))(wav, num_samples)
        with pytest.raises(ValueError, match="fMLLR transforms given"):
            FrontEnd(FrontEndConfig(mfcc=TINY))(
                wav, num_samples, adaptation=BatchAdaptation(fmllr=torch.ones(3, 9, 10))
            )
        with pytest.raises(ValueError, match=r"transforms must be \(3, R, 10\)"):
            FrontEnd(FrontEndConfig(mfcc=TINY, fmllr=True))(
                wav, num_samples, adaptation=BatchAdaptation(fmllr=torch.ones(3, 9, 9))
            )


class TestFiles:
    def test_archives_by_speaker_text_and_binary(self, tmp_path: Path) -> None:
        one, two = RNG.standard_normal((2, 3, 4)).astype(np.float32)
        folder = write_trans(tmp_path, {"a": one}, {"b": two})
        found = read_transforms(folder, {"u1": "b", "u2": "a", "u3": "b"})
        np.testing.assert_allclose(found["u1"], two, rtol=1e-6)
        np.testing.assert_allclose(found["u2"], one, rtol=1e-6)
        np.testing.assert_array_equal(found["u3"], found["u1"])

    def test_archives_by_utterance(self, tmp_path: Path) -> None:
        folder = write_trans(tmp_path, {"u1": np.eye(2), "u2": 2 * np.eye(2)})
        assert read_transforms(folder, {"u2": "s"})["u2"].tolist() == [[2, 0], [0, 2]]

    def test_copies_and_other_files_of_a_decoding_directory_do_not_count(self, tmp_path: Path) -> None:
        folder = write_trans(tmp_path, {"a": np.eye(2)})
        for name in ("trans.ark", "trans.scp", "trans.1.bak", "pre_trans.1"):
            (folder / name).write_text("x")
        assert list(read_transforms(folder, {"a": "a"})) == ["a"]

    def test_there_are_none(self, tmp_path: Path) -> None:
        assert not has_transforms(tmp_path)
        with pytest.raises(DataError, match=r"trans\.1: no such transforms, none of fMLLR; name a directory"):
            read_transforms(tmp_path, {"a": "a"})
        (tmp_path / "raw_trans.1").write_text("x")
        with pytest.raises(DataError, match=r"only raw_trans\.1: raw fMLLR, which is not supported"):
            read_transforms(tmp_path, {"a": "a"})

    def test_transforms_of_other_speakers(self, tmp_path: Path) -> None:
        folder = write_trans(tmp_path, {"train1": np.eye(2), "train2": np.eye(2)})
        with pytest.raises(
            DataError, match=r"no transform of speaker 'test1' \(utterance 'u'\), .* of 2 others such as 't"
        ):
            read_transforms(folder, {"u": "test1"})

    @pytest.mark.parametrize("num_jobs", [1, 3])
    def test_jobs_and_archives_must_agree(self, tmp_path: Path, num_jobs: int) -> None:
        folder = write_trans(tmp_path, {"a": np.eye(2)}, {"b": np.eye(2)}, num_jobs=num_jobs)
        with pytest.raises(DataError, match=r"trans\.\* are 2 archives, num_jobs says \[\d\]"):
            read_transforms(folder, {"a": "a"})

    def test_speaker_of_two_archives(self, tmp_path: Path) -> None:
        folder = write_trans(tmp_path, {"a": np.eye(2)}, {"a": np.eye(2)})
        with pytest.raises(DataError, match=r"trans\.2: 'a' is in another archive too"):
            read_transforms(folder, {"a": "a"})

    def test_damaged_archive(self, tmp_path: Path) -> None:
        folder = write_trans(tmp_path, {"a": np.eye(2)}, {"b": np.eye(2)})
        (folder / "trans.2").write_bytes((folder / "trans.2").read_bytes()[:-3])
        with pytest.raises(DataError, match=r"trans\.2: damaged archive"):
            read_transforms(folder, {"a": "a"})

    @pytest.mark.parametrize("shape, message", [((4, 6), "4 x 6"), ((3, 5), "3 rows"), ((4, 3), "4 x 3")])
    def test_transforms_of_another_size(self, tmp_path: Path, shape: tuple[int, int], message: str) -> None:
        folder = write_trans(tmp_path, {"a": np.ones(shape)})
        with pytest.raises(DataError, match=rf"transform of 'a'.*{message}"):
            fmllr_transforms(FrontEnd(LDA), folder, {"u": "a"})

    @pytest.mark.parametrize("place", ["", "decode"])
    def test_transforms_behind_another_final_mat(self, tmp_path: Path, place: str) -> None:
        front_end, lda = FrontEnd(LDA), RNG.standard_normal((4, 18))
        front_end.lda.set_matrix(lda, "final.mat")
        folder = write_trans(tmp_path / place, {"a": np.eye(4)})
        write_matrix(tmp_path / "final.mat", lda)
        assert fmllr_transforms(front_end, folder, {"u": "a"})["u"].shape == (4, 5)
        write_matrix(tmp_path / "final.mat", lda + 0.1)
        with pytest.raises(DataError, match=r"final\.mat: another matrix than the final\.mat that this model"):
            fmllr_transforms(front_end, folder, {"u": "a"})


def test_what_is_known_of_a_batch() -> None:
    front_end = FrontEnd(LDA)
    assert batch_adaptation(FrontEnd(FrontEndConfig(mfcc=TINY)), {}, ["x"]) is NOTHING
    with pytest.raises(DataError, match=r"'x': no fMLLR transform of its speaker, .*--transform-dir"):
        batch_adaptation(front_end, {}, ["x"])
    known = {"x": Adaptation(np.ones((2, 4)), np.zeros((4, 5), np.float32))}
    assert batch_adaptation(front_end, known, ["x", "x"]).fmllr.shape == (2, 4, 5)
    other = {"x": replace(known["x"], fmllr=np.ones((4, 5), np.float32))}
    assert adaptations_digest(known) != adaptations_digest(other) != adaptations_digest({})


class TestIvectors:
    CONFIG = FrontEndConfig(mfcc=TINY, delta_order=1, left_context=2, right_context=1, ivector_dim=2)

    def known(self) -> tuple[dict[str, Adaptation], list[np.ndarray]]:
        ivectors = [np.arange(2 * count, dtype=np.float32).reshape(count, 2) + 100 for count in (6, 2, 4)]
        return {f"u{i}": Adaptation(ivectors=x, ivector_period=10) for i, x in enumerate(ivectors)}, ivectors

    def test_the_one_of_the_moment_stands_behind_the_context(self) -> None:
        front_end, plain = FrontEnd(self.CONFIG), FrontEnd(replace(self.CONFIG, ivector_dim=0))
        known, ivectors = self.known()
        wav, num_samples = noise()
        adaptation = batch_adaptation(front_end, known, list(known))
        out, lengths = front_end(wav, num_samples, adaptation=adaptation)
        packed, _, _ = front_end.packed(wav, num_samples, adaptation=adaptation)
        without, _ = plain(wav, num_samples)
        expected = []
        for i, n in enumerate(lengths.tolist()):
            rows = np.minimum(np.arange(n) // 10, len(ivectors[i]) - 1)  # the last one lasts
            expected.append(np.concatenate([without[i, :n].numpy(), ivectors[i][rows]], axis=1))
            np.testing.assert_allclose(out[i, :n].numpy(), expected[-1], rtol=1e-12)
            assert not out[i, n:].any()
        np.testing.assert_allclose(packed.numpy(), np.concatenate(expected), rtol=1e-12)

    def test_windows_have_those_of_their_frames(self, monkeypatch: pytest.MonkeyPatch) -> None:
        front_end = FrontEnd(replace(self.CONFIG, frame_subsampling_factor=2))
        known, _ = self.known()
        wav, num_samples = (x[:1] for x in noise())
        adaptation = batch_adaptation(front_end, known, ["u0"])
        packed, _, _ = front_end.packed(wav, num_samples, adaptation=adaptation)
        monkeypatch.setattr(framing, "WINDOW_FRAMES", 7)
        windows = torch.cat(list(front_end.windows(wav[0, : int(num_samples[0])], adaptation=adaptation)), 1)[0]
        torch.testing.assert_close(windows, packed)

    @pytest.mark.long
    def test_no_gradient_is_lost_and_none_is_needed(self) -> None:
        front_end = FrontEnd(self.CONFIG)
        known, _ = self.known()
        wav, num_samples = noise()
        wav, num_samples = wav[1:, :42].clone().requires_grad_(), torch.tensor([31, 42])
        adaptation = batch_adaptation(front_end, known, ["u1", "u2"])
        assert torch.autograd.gradcheck(
            lambda x: front_end(x, num_samples, adaptation=adaptation)[0], wav, eps=1e-7, atol=1e-4
        )

    def test_number_of_dimensions_must_agree(self) -> None:
        wav, num_samples = noise()
        with pytest.raises(ValueError, match="i-vectors of 0 dimensions, but the front end takes 2"):
            FrontEnd(self.CONFIG)(wav, num_samples)
