"""How Sphinx builds the documentation: ``make docs``.  Nothing is fetched from a network."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from docutils import nodes  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

from kaldi_uq import __version__  # noqa: E402

project = "kaldi_uq"
copyright = "the authors of kaldi_uq, Apache-2.0"
release = version = __version__
language = "en"

extensions = [
    "myst_nb",  # Markdown, and the notebook
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "command_reference",
    "results_tables",
    "tutorial_model",
]
exclude_patterns = ["_build", "_ext"]
smartquotes = False  # which would make a dash of the two before an option

# Markdown
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# API reference: signatures without the names of the modules that types are in, docstrings of Google's form
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
add_module_names = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False

# The notebook: outputs are made by the build and never committed.  They are kept while the package's code is the same.
nb_execution_mode = "cache"
nb_execution_timeout = 1200
nb_execution_raise_on_error = True
nb_merge_streams = True


def _code_digest() -> str:
    root, checksum = HERE.parent, hashlib.sha256()
    for path in sorted([*root.glob("kaldi_uq/**/*.py"), *root.glob("recipes/tidigits/conf/**/*.conf")]):
        checksum.update(path.read_bytes())
    return checksum.hexdigest()[:16]


nb_execution_cache_path = str(HERE / "_build/notebooks" / _code_digest())

# HTML
html_theme = "furo"
html_title = f"kaldi_uq {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_copy_source = False
html_show_sphinx = False
pygments_style, pygments_dark_style = "default", "github-dark"
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True


def _typography(app: Sphinx, doctree: nodes.document) -> None:
    """In descriptions of parameters a dash, and attributes under the name that they have here."""
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" – "))
        elif text == "Variables" and isinstance(text.parent, nodes.field_name):
            text.parent.replace(text, nodes.Text("Attributes"))


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("doctree-read", _typography)
