"""Measures the import time of a command by package: `python -m benchmarks.imports [ARGUMENT…]`.

The longest time comes first. The default command is `imgclassify predict examples/cat.jpg`. The times are those
of `python -X importtime`, which adds some time itself. Of five runs, the one with the least total is shown.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

from benchmarks.layout import EXAMPLES

_RUNS = 5
_LINE = re.compile(r"^import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)$", re.MULTILINE)
_LEAST_MS = 1.0
"""Milliseconds. Packages that take less are added up as the rest."""


def costs(arguments: Sequence[str]) -> Counter[str]:
    """Returns the microseconds by package, in one run of `imgclassify` with these arguments."""
    command = [sys.executable, "-X", "importtime", "-m", "imgclassify", *arguments]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=True)
    found: Counter[str] = Counter()
    for microseconds, module in _LINE.findall(done.stderr):
        package = module.partition(".")[0]
        found["Python's own" if package in sys.stdlib_module_names else package] += int(microseconds)
    return found


def table(cost: Counter[str]) -> str:
    """Returns the times as a Markdown table."""
    rows = [(name, count / 1000) for name, count in cost.most_common() if count / 1000 >= _LEAST_MS]
    rows.append(("the rest", cost.total() / 1000 - sum(cost_ms for _, cost_ms in rows)))
    rows.append(("**all**", cost.total() / 1000))
    return "| package | ms |\n|---|---|\n" + "".join(f"| {name} | {cost_ms:.0f} |\n" for name, cost_ms in rows)


def main() -> None:
    arguments = sys.argv[1:] or ["predict", str(EXAMPLES / "cat.jpg")]
    sys.stdout.write(table(min((costs(arguments) for _ in range(_RUNS)), key=Counter.total)))


if __name__ == "__main__":
    main()
