"""Before the tutorial is executed: a run of the default recipe, in a directory of the build, that it loads.

``KALDI_UQ_TUTORIAL`` names another recipe directory that has run, and nothing is made then.  The notebook finds the
place in the same variable.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging

REPO = Path(__file__).resolve().parents[2]
PLACE = "KALDI_UQ_TUTORIAL"
# what the tutorial needs and no more: models, their graphs, detectors; a run of a minute or two on two cores
COMMAND = (
    "./run.sh",
    "--stop-stage",
    "7",
    "--corpus-opts",
    "--num-train 600 --num-fit 100 --num-test 40 --num-attack 8",
)
log = logging.getLogger(__name__)


def make_recipe(root: Path) -> Path:
    """A copy of the digit recipe that has not run; its scripts are those of the repository."""
    recipe = root / "recipes/tidigits"
    if not recipe.exists():
        ours = shutil.ignore_patterns("data", "exp", "runs", "results")
        shutil.copytree(REPO / "recipes/tidigits", recipe, symlinks=True, ignore=ours)
        for name in ("local", "steps", "utils"):
            (root / name).symlink_to(REPO / name)
    return recipe


def provide(app: Sphinx) -> None:
    """Run the recipe if the tutorial is to be executed; finished stages are left alone."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the commands do: idle threads sleep
    if PLACE in os.environ or app.config.nb_execution_mode == "off":
        return
    recipe = make_recipe(Path(app.outdir).parent / "tutorial")
    log.info("tutorial: %s in %s", " ".join(COMMAND), recipe)
    done = subprocess.run(COMMAND, cwd=recipe, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExtensionError(f"tutorial: the recipe failed: {done.stderr.strip()[-2000:]}")
    os.environ[PLACE] = str(recipe)


def setup(app: Sphinx) -> dict[str, object]:
    """Called by Sphinx."""
    app.connect("builder-inited", provide)
    return {"parallel_read_safe": True}
