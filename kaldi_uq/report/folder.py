"""The directory that a report writes: what an earlier, larger report left in it goes, and nothing of anybody else's."""

from __future__ import annotations

import os
import re
from hashlib import sha256
from pathlib import Path

from kaldi_uq.io.files import atomic_write, file_digest, write_text

LIST = ".report.sha256"  # what the report wrote, as sha256sum writes it
PARTS = ("figures", "tables")  # directories in it
_LINE = re.compile(rf"(?P<digest>[0-9a-f]{{64}})  (?P<name>(?:(?:{'|'.join(PARTS)})/)?[A-Za-z0-9._-]+)")


class Folder:
    """Files that are written one by one; :meth:`close` removes those of the report before that are not among them.

    A file that somebody changed, or that no report wrote, stays.

    Args:
        path: the directory; it and its parts are made.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._digests: dict[str, str] = {}
        for part in PARTS:
            (self.path / part).mkdir(parents=True, exist_ok=True)

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file atomically and return its path; ``name`` is relative to the directory."""
        data = content.encode() if isinstance(content, str) else content
        with atomic_write(self.path / name, "wb") as stream:
            stream.write(data)
        self._digests[name] = sha256(data).hexdigest()
        return self.path / name

    def close(self) -> None:
        """Remove what is left of an earlier report, and write down what is there now."""
        listed = self.path / LIST
        before = listed.read_text(encoding="utf-8", errors="replace").splitlines() if listed.is_file() else []
        for known in filter(None, map(_LINE.fullmatch, before)):
            path = self.path / known["name"]
            if known["name"] not in self._digests and path.is_file() and file_digest(path) == known["digest"]:
                path.unlink()
        write_text(listed, "".join(f"{digest}  {name}\n" for name, digest in sorted(self._digests.items())))
