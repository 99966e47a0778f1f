"""A network of your own in the tool chain: train it on a recipe's alignments, attack it, detect the attack.

Copy this file and change Tdnn and wrapped(): the rest goes with any module from features (B, T, D) to logits (B, T, C).
Paths are those of the recipe, so it runs in the recipe's directory; run.sh sees to that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from kaldi_uq.attacks.craft import Attacker
from kaldi_uq.recogniser.scores import decode_waves
from torch import Tensor, nn
from tqdm import trange

from kaldi_uq.attacks.checks import check_attack, snr_db
from kaldi_uq.attacks.config import AttackConfig
from kaldi_uq.cli.main import OneLineParser, ParagraphFormatter
from kaldi_uq.cli.model_options import add_model_arguments, use_all_cores, waves_of
from kaldi_uq.cli.options import directory, engine_of, positive_int, start_logging
from kaldi_uq.config import config_from
from kaldi_uq.detector import evaluate_detection, fit_detectors
from kaldi_uq.engine.base import DecodeConfig
from kaldi_uq.errors import KaldiUqError
from kaldi_uq.feats.conf import read_mfcc_conf
from kaldi_uq.feats.config import FrontEndConfig
from kaldi_uq.feats.frontend import FrontEnd
from kaldi_uq.io.ark import read_alignments
from kaldi_uq.io.datadir import DataDir
from kaldi_uq.io.files import DoneStamp, digest, file_digest
from kaldi_uq.io.kaldi_model import read_transitions
from kaldi_uq.io.lang import Lang
from kaldi_uq.io.wav import read_wav
from kaldi_uq.io.waves import waves_digest
from kaldi_uq.nnet import AcousticModel, ensemble, mc_dropout, vmg
from kaldi_uq.recogniser.hybrid import MODEL_FILE, HybridModel, select_device
from kaldi_uq.results.table import Results
from kaldi_uq.results.word_errors import score_texts
from kaldi_uq.training.dataset import TrainingSet, make_training_set

SETS = ("train", "fit", "test", "attack")  # below --data; fit is benign speech that only the detector sees
SHOWN = ("max_predictive_entropy", "mean_predictive_entropy", "max_mutual_information", "mean_akld")


class Tdnn(nn.Module):
    """Dilated convolutions over time with dropout between them.

    The input is padded once, with zeros, as short utterances of a batch are: what an utterance gets does not depend on
    the others in its batch.
    """

    def __init__(self, input_dim: int, num_pdfs: int, *, width: int = 100, dropout: float = 0.2) -> None:
        super().__init__()
        dilations = (1, 2, 3)
        self.context = sum(dilations)  # frames on either side
        layers: list[nn.Module] = []
        for size, dilation in zip((input_dim, width, width), dilations, strict=True):
            layers += [nn.Conv1d(size, width, 3, dilation=dilation), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Conv1d(width, num_pdfs, 1))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(F.pad(x.transpose(1, 2), (self.context, self.context)))
        return logits.transpose(1, 2)


def wrapped(name: str, input_dim: int, num_pdfs: int, seed: int) -> AcousticModel:
    """The network as a model that knows its uncertainty."""
    torch.manual_seed(seed)  # of the initial weights
    if name == "mc_dropout":
        return mc_dropout(Tdnn(input_dim, num_pdfs), p=0.5, num_samples=30, num_pdfs=num_pdfs)
    if name == "ensemble":
        return ensemble(lambda: Tdnn(input_dim, num_pdfs), 3, seed, num_pdfs=num_pdfs)
    return vmg(Tdnn(input_dim, num_pdfs, dropout=0.0), num_samples=10, num_pdfs=num_pdfs)


def train(model: HybridModel, data: TrainingSet, *, num_epochs: int, seed: int) -> None:
    """Train on padded batches of whole utterances; the learning rate falls to a tenth."""
    network = model.network.train()
    order = np.random.default_rng(seed)
    generator = torch.Generator(model.log_prior.device).manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1 ** (1 / num_epochs))
    for _ in (progress := trange(num_epochs, desc="training", unit="epoch")):
        losses = []
        for batch in data.batches(2000, generator=order):
            loss = network.training_loss(
                batch.feats, batch.pdfs, mask=batch.mask, num_frames_total=data.num_frames, generator=generator
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            network.clip_gradients(5.0)
            optimizer.step()
            losses.append(loss.detach())
        schedule.step()
        progress.set_postfix(loss=float(torch.stack(losses).mean()))
    model.set_prior(data.counts(network.num_pdfs))


def load_or_train(model: HybridModel, args: argparse.Namespace, seed: int, waves: dict[str, np.ndarray]) -> Path:
    """Weights of an earlier run with the same code, options and data, or new ones; returns their file."""
    inputs = [Path(__file__), args.ali / "final.mdl", *sorted(args.ali.glob("ali.*.gz"))]
    options = {"wrap": args.wrap, "num_epochs": args.num_epochs, "seed": seed}
    options |= {"front_end": model.front_end.config.to_dict(), "audio": waves_digest(waves)}
    stamp = DoneStamp(args.out_dir, "train", options=options, inputs=inputs)
    weights: Path = args.out_dir / MODEL_FILE
    if stamp.is_current() and weights.is_file():
        model.load_weights(weights)
        return weights
    stamp.clear()
    (args.out_dir / "results.json").unlink(missing_ok=True)
    tid_to_pdf = read_transitions(args.ali / "final.mdl").tid_to_pdf
    pdf_alis = {utt: tid_to_pdf[ali] for utt, ali in read_alignments(args.ali).items()}
    data = make_training_set(model, waves, pdf_alis, model.front_end.config.mfcc.frame_shift_s)
    data.normalise(model.front_end.norm)
    train(model, data, num_epochs=args.num_epochs, seed=seed)
    model.save(weights)
    stamp.write()
    return weights


def main(argv: Sequence[str] | None = None) -> None:
    """Train, unless the weights are up to date; recognise, attack, detect; write results.json, print a few lines."""
    args = parse(argv)
    start_logging()
    use_all_cores()
    engine, config, decode = engine_of(args), config_from(args, AttackConfig), config_from(args, DecodeConfig)
    # no context frames: the network looks at the neighbours of a frame itself
    front_end = FrontEnd(FrontEndConfig(mfcc=read_mfcc_conf(args.mfcc_config), left_context=0, right_context=0))
    num_pdfs = read_transitions(args.ali / "final.mdl").num_pdfs
    network = wrapped(args.wrap, front_end.output_dim, num_pdfs, config.seed)
    model = HybridModel.from_modules(front_end, network).to(select_device(args.device))
    data = {name: DataDir.read(args.data / name, need=("wav.scp", "utt2spk", "text")) for name in SETS}
    waves = {name: waves_of(data[name], model, allow_pipes=args.allow_pipes) for name in SETS}
    weights = load_or_train(model, args, config.seed, waves["train"])
    model.eval()

    def recognise(some: dict[str, np.ndarray], seed: int) -> tuple[dict[str, str], dict[str, dict[str, float]]]:
        draws = args.num_draws or None
        found, statistics = decode_waves(model, some, engine, args.ali, args.graph, decode, num_draws=draws, seed=seed)
        return {utt: " ".join(hypothesis.words) for utt, hypothesis in found.items()}, statistics

    # clean speech: words, and the uncertainty that the detector takes for normal
    _, fit = recognise(waves["fit"], config.seed)
    heard, benign = recognise(waves["test"], config.seed)
    clean, _ = score_texts(data["test"].text, heard)

    # the attack: at the waveform, rounded to 16 bit, written, and read back
    utts, count = list(waves["attack"]), min(args.num_attack, len(waves["attack"]))
    originals = {u: waves["attack"][u] for u in (utts[i * len(utts) // count] for i in range(count))}  # of all speakers
    spoken = {utt: data["attack"].text[utt] for utt in originals}
    attacker = Attacker.of_recipe(model, engine, args.ali, Lang.read(args.lang), decode)
    folder = args.out_dir / f"attack_{args.attack}_eps{config.eps:g}"
    key = digest(file_digest(weights), waves_digest(originals))
    crafted = attacker.craft(originals, {u: text.split() for u, text in spoken.items()}, config, folder, key=key)
    attacked = {u: read_wav(folder / f"wav/{u}.wav", expected_rate=front_end.sample_rate)[0] for u in originals}
    heard, suspicious = recognise(attacked, config.seed + 1)  # other draws than the attacker's
    target, _ = score_texts({utt: " ".join(record["target"]) for utt, record in crafted.items()}, heard)
    original, _ = score_texts(spoken, heard)
    ratios = [ratio for u in originals if (ratio := snr_db(originals[u], attacked[u])) is not None]

    detectors = fit_detectors(columns(fit), compare=False)
    rows = evaluate_detection(detectors, columns(benign), columns(suspicious), seed=config.seed)
    name, results = args.out_dir.resolve().name, Results(args.out_dir / "results.json")
    run = {"engine": engine.name, "versions": engine.versions(), "device": str(model.log_prior.device)}
    results.set_environment(run | {"seed": config.seed, "options": {"wrap": args.wrap, "num_epochs": args.num_epochs}})
    results.set_clean(name, clean)
    results.add_attack(
        {
            "model": name,
            "attack": args.attack,
            "eps": config.eps,
            "num_utts": len(originals),
            "target_accuracy": target.accuracy,
            "original_accuracy": original.accuracy,
            "snr_db_mean": float(np.mean(ratios)) if ratios else None,
            "checks": check_attack(originals, attacked, crafted, config),
        }
    )
    results.add_detection(rows, model=name, attack=args.attack, eps=config.eps)
    attack = f"{name} {args.attack} eps {config.eps:g}"
    print(f"{name}: accuracy {clean.accuracy:.3f}, {clean.num_utts} utterances")
    print(f"{attack}: target accuracy {target.accuracy:.3f}, original accuracy {original.accuracy:.3f}")
    for row in (row for row in rows if row["statistic"] in SHOWN):
        low, high = row["auroc_ci95"]
        print(f"{attack}: AUROC of {row['statistic']} {row['auroc']:.3f} [{low:.3f}, {high:.3f}]")


def columns(statistics: Mapping[str, Mapping[str, float]]) -> dict[str, list[float]]:
    """utt -> name -> value as name -> values."""
    return {name: [s[name] for s in statistics.values()] for name in next(iter(statistics.values()))}


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options; those of the attack are the fields of its configuration."""
    parser = OneLineParser(prog="tdnn.py", description=__doc__, formatter_class=ParagraphFormatter)
    parser.add_argument("out_dir", type=Path, metavar="OUT-DIR", help="weights, attacked audio, results.json")
    parser.add_argument("--wrap", choices=("mc_dropout", "ensemble", "vmg"), default="mc_dropout", help="[mc_dropout]")
    parser.add_argument("--data", type=directory, default="data", help=f"directory of {', '.join(SETS)} [data]")
    parser.add_argument("--lang", type=directory, default="data/lang", help="[data/lang]")
    parser.add_argument("--ali", type=directory, default="exp/mono_ali", help="of the set train [exp/mono_ali]")
    parser.add_argument("--graph", type=directory, default="exp/mono/graph", help="[exp/mono/graph]")
    parser.add_argument("--mfcc-config", required=True, metavar="FILE", help="the one of the alignment")
    parser.add_argument("--num-epochs", type=positive_int, default=10, help="[10]")
    parser.add_argument("--num-attack", type=positive_int, default=50, help="utterances to attack, at most [50]")
    parser.add_argument("--attack", default="pgd", help="name of the attack in the results [pgd]")
    add_model_arguments(parser, AttackConfig)
    return parser.parse_args(argv)


if __name__ == "__main__":
    try:
        main()
    except (KaldiUqError, OSError, ValueError) as error:
        sys.exit(f"tdnn.py: error: {' '.join(str(error).split())}")
