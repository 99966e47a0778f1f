"""The dispatcher: finds the command, turns an error into one line and exit status 1.

A command is a module of this package with a docstring (its help text), ``add_arguments(parser)`` and ``run(args)``.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import textwrap
from typing import NoReturn

from kaldi_uq import __version__
from kaldi_uq.errors import KaldiUqError, one_line, printable

# command -> (module, summary); modules are imported late, so that --help needs no torch
COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": ("doctor", "say what is installed, what is missing, and how to mend it"),
    "detect": ("detect", "judge WAV files: is this audio an attack, and where"),
    "fit-detector": ("fit_detector", "fit the detectors of a model on benign audio"),
    "attack": ("attack", "make the recogniser hear a text of your choice in WAV files"),
    "validate-data": ("validate_data", "check a data directory"),
    "fix-data": ("fix_data", "sort a data directory, drop incomplete utterances"),
    "disturb-data": ("disturb_data", "add noise, babble or reverberation to the audio of a data directory"),
    "split-data": ("split_data", "split a data directory into parts for parallel jobs"),
    "prepare-lang": ("prepare_lang", "build a language directory from a dictionary directory"),
    "train-lm": ("train_lm", "estimate an n-gram language model from a text"),
    "arpa-to-fst": ("arpa_to_fst", "compile an ARPA language model into G.fst"),
    "compute-mfcc": ("compute_mfcc", "compute Kaldi's MFCC of a data directory"),
    "compute-cmvn": ("compute_cmvn", "accumulate CMVN statistics per speaker"),
    "frame-shift": ("frame_shift", "print the frame shift of a feature configuration"),
    "train-mono": ("train_mono", "train a monophone GMM system"),
    "train-deltas": ("train_deltas", "train a triphone GMM system on alignments"),
    "align-gmm": ("align_gmm", "align a data directory with a GMM system"),
    "make-graph": ("make_graph", "compose the decoding graph HCLG.fst"),
    "decode-gmm": ("decode_gmm", "decode a data directory with a GMM system"),
    "score-text": ("score_text", "word error rate of hypotheses"),
    "score-lattices": ("score_lattices", "word error rates of lattices over language model weights"),
    "nnet-train": ("nnet_train", "train a hybrid acoustic model on alignments"),
    "nnet-forward": ("nnet_forward", "write a model's log-likelihoods as a Kaldi archive"),
    "nnet-decode": ("nnet_decode", "decode benign audio and measure the model's uncertainty"),
    "nnet-attack": ("nnet_attack", "attack a model at the waveform"),
    "nnet-transfer": ("nnet_transfer", "play the examples made against one model to another"),
    "nnet-negatives": ("nnet_negatives", "measure detectors on benign but hard audio"),
    "nnet-detect": ("nnet_detect", "measure the detectors of a model against an attack"),
    "nnet-consistency": ("nnet_consistency", "search near audio for changes that a model hears as other words"),
    "nnet-certify": ("nnet_certify", "prove that no small change makes a model write another text"),
    "worst-case": ("worst_case", "say which utterances any of several attacks reaches"),
    "check-attacks": ("check_attacks", "say whether the attacks on a model are meaningful"),
    "report": ("report", "tables, figures and one HTML page from results.json"),
    "check-eps": ("check_eps", "check a perturbation bound and print its shortest form"),
    "recipe-attack": ("recipe_attack", "check how an attack of a recipe was asked for; print its name and options"),
    "recipe-stage": ("recipe_stage", "say whether a stage of a recipe is done, or record that it is"),
    "record": ("record", "record environment and timings in results.json"),
}


def _fill(paragraph: str, width: int) -> str:
    return textwrap.fill(paragraph, width, break_on_hyphens=False)  # the name of an option stays in one piece


class ParagraphFormatter(argparse.HelpFormatter):
    """Keeps the paragraphs of a description and fills each to the width of the terminal; indented ones stay as is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        return "\n\n".join(p if "\n " in p or p.startswith(" ") else _fill(p, width) for p in paragraphs)


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and exit with status 1, as Kaldi's tools do."""

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"{self.prog}: error: {printable(message)} (see {self.prog} --help)\n")


def build_parser() -> OneLineParser:
    """The top-level parser: knows the names of the commands, not their options."""
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items())
    parser = OneLineParser(
        prog="kaldi-uq",
        description="Is this audio an attack on my recogniser?",
        epilog=f"commands:\n{listing}\n\n'kaldi-uq COMMAND --help' says more.",
        formatter_class=ParagraphFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kaldi-uq {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=sorted(COMMANDS), help="what to do; listed below")
    return parser


def command_parser(name: str) -> tuple[OneLineParser, object]:
    """The parser of one command and its module."""
    module = importlib.import_module(f"kaldi_uq.cli.{COMMANDS[name][0]}")
    parser = OneLineParser(prog=f"kaldi-uq {name}", description=module.__doc__, formatter_class=ParagraphFormatter)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    module.add_arguments(parser)
    return parser, module


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit status."""
    try:
        try:
            return _dispatch(list(sys.argv[1:] if argv is None else argv))
        finally:
            if sys.stdout:  # None where the caller closed it, and wants the exit status alone
                sys.stdout.flush()  # here, and not at the interpreter's end, where nothing can be caught
    except BrokenPipeError:
        # The reader has seen enough, as in `kaldi-uq ... | head`: no message, and none from the interpreter either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] not in COMMANDS:
        build_parser().parse_args(argv or ["--help"])
        return 1
    # Idle threads must sleep, not spin: with another process on the same cores spinning makes PyTorch ten times slower.
    # OpenMP reads this once, when torch is imported, which no command has done yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    name, rest = argv[0], argv[1:]
    parser, module = command_parser(name)
    args = parser.parse_intermixed_args(rest)  # options may stand before, between and after the file names
    try:
        status = module.run(args)  # type: ignore[attr-defined]
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:
        interrupted(f"kaldi-uq {name}")
    except (KaldiUqError, OSError, ValueError) as error:
        # ValueError: a configuration refused an option's value; its message names the field
        if args.debug:
            raise
        return _failed(name, _said(error))
    except (MemoryError, RuntimeError) as error:
        # RuntimeError: of PyTorch, whose message may be several lines, or a recursion without end
        if args.debug:
            raise
        return _failed(name, f"{_unexpected(error)} (--debug shows where)")
    return int(status or 0)


def _failed(name: str, message: str) -> int:
    """Say in one line why a command failed; the exit status."""
    print(f"kaldi-uq {name}: error: {one_line(message)}", file=sys.stderr)
    return 1


def interrupted(program: str) -> NoReturn:
    """End as Ctrl-C ends a program, so that the calling script ends too; one line and no traceback."""
    print(f"{program}: interrupted", file=sys.stderr, flush=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
    sys.exit(128 + signal.SIGINT)  # if the signal is blocked


def _unexpected(error: BaseException) -> str:
    """One line about an error whose message was not written for the user."""
    kind = "out of memory" if isinstance(error, MemoryError) else type(error).__name__
    said = textwrap.shorten(" ".join(str(error).split()), 300, placeholder=" ...")
    return f"{kind}: {said}" if said else kind


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    return str(error)


if __name__ == "__main__":
    sys.exit(main())
