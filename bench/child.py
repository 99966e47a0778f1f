"""The process of one figure: ``python -m bench.child``.

It reads a setting and the names of a row and of a case as JSON from standard input, and prints a figure as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys

from bench.measure import Setting, measure
from bench.rows import all_rows


def main() -> int:
    """Measure what standard input asks for."""
    asked = json.load(sys.stdin)
    row = next(row for row in all_rows() if row.name == asked["row"])
    case = next(case for case in row.cases if case.name == asked["case"])
    figure = measure(case, Setting(**asked["setting"]))
    print(json.dumps(dataclasses.asdict(figure)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
