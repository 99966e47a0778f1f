"""The decoding graph on Kaldi's programs, as Kaldi's ``utils/mkgraph.sh`` composes it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from kaldi_uq.engine.binaries.commands import move
from kaldi_uq.engine.binaries.jobs import Jobs
from kaldi_uq.engine.files import existing_files, open_grammar, open_lexicon, open_model
from kaldi_uq.errors import EngineError
from kaldi_uq.io.digests import recorded
from kaldi_uq.io.files import write_text
from kaldi_uq.io.lang import Lang

EMPTY_FST = 67  # bytes of an FST without a state
# what Kaldi's own scripts look for beside a graph
TABLES = (
    "phones.txt",
    "phones/align_lexicon.*",
    "phones/disambig.*",
    "phones/optional_silence.*",
    "phones/silence.csl",
    "phones/word_boundary.*",
)


def make_graph(
    jobs: Jobs, lang: Lang, model_dir: Path, graph_dir: Path, transition_scale: float, self_loop_scale: float
) -> None:
    """Compose ``HCLG.fst``; see :meth:`kaldi_uq.engine.base.SystemBuilder.make_graph`."""
    opened = open_model(model_dir)
    model, tree = opened.model, opened.tree
    lexicon, grammar = open_lexicon(lang, "L_disambig.fst").path, open_grammar(lang).path
    (disambig,) = existing_files(lang.path, "phones/disambig.int")
    width, central = _context(jobs, tree)
    command = jobs.command
    with jobs.workspace(graph_dir) as (work, logs):
        lg, clg, h, hclga = (work / f"{name}.fst" for name in ("LG", "CLG", "H", "HCLGa"))
        ilabels, disambig_tids = work / "ilabels", work / "disambig_tid.int"
        determinize, minimize = command("fstdeterminizestar", "--use-log=true"), command("fstminimizeencoded")
        context = [f"--context-size={width}", f"--central-position={central}", f"--read-disambig-syms={disambig}"]
        context += [f"--write-disambig-syms={work / 'disambig_ilabels.int'}"]
        pipelines = [
            [
                command("fsttablecompose", lexicon, grammar),
                determinize,
                minimize,
                command("fstpushspecial", "-", lg),
            ],
            [
                command("fstcomposecontext", *context, ilabels, lg),
                command("fstarcsort", "--sort_type=ilabel", "-", clg),
            ],
            [
                command(
                    "make-h-transducer",
                    f"--disambig-syms-out={disambig_tids}",
                    f"--transition-scale={transition_scale:.9g}",
                    ilabels,
                    tree,
                    model,
                    h,
                )
            ],
            [
                command("fsttablecompose", h, clg),
                determinize,
                command("fstrmsymbols", disambig_tids),
                command("fstrmepslocal"),
                command("fstminimizeencoded", "-", hclga),
            ],
            [
                command("add-self-loops", f"--self-loop-scale={self_loop_scale:.9g}", "--reorder=true", model, hclga),
                command("fstconvert", "--fst_type=const", "-", work / "HCLG.fst"),
            ],
        ]
        try:
            jobs.run("mkgraph", lambda _: pipelines, scripts=work, logs=logs)
        finally:  # programs that read an empty FST fail, or not: what matters is that there is none
            for result in (lg, hclga):
                if result.is_file() and result.stat().st_size <= EMPTY_FST:
                    raise EngineError(
                        f"{graph_dir}: the graph is empty: lexicon and grammar share no word; see {lang.path}"
                    ) from None
        with recorded(Path(graph_dir), "HCLG.fst", "words.txt"):
            _copy_tables(lang, graph_dir)
            write_text(graph_dir / "num_pdfs", f"{opened.transitions.num_pdfs}\n")
            move(disambig_tids, graph_dir / "disambig_tid.int")
            move(work / "HCLG.fst", graph_dir / "HCLG.fst")


def _context(jobs: Jobs, tree: str) -> tuple[int, int]:
    """Width and central position of the phonetic context of a tree."""
    said = dict(re.findall(r"^(context-width|central-position) (\d+)", jobs.output("tree-info", tree), re.MULTILINE))
    return int(said["context-width"]), int(said["central-position"])


def _copy_tables(lang: Lang, graph_dir: Path) -> None:
    write_text(graph_dir / "words.txt", (lang.path / "words.txt").read_text(encoding="utf-8"))
    for pattern in TABLES:
        for path in lang.path.glob(pattern):
            target = graph_dir / path.relative_to(lang.path)
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)
