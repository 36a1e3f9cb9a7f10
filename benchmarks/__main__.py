"""Runs the benchmarks and prints a report in Markdown. Progress goes to stderr."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks import layout, machine, report
from benchmarks.parts import cold, folder, memory, phone, small
from benchmarks.parts.common import FULL, QUICK, Setting
from benchmarks.workspace import Workspace

PARTS = {
    "cold": cold.measure,
    "folder": folder.measure,
    "memory": memory.measure,
    "phone": phone.measure,
    "small": small.measure,
}


def main(arguments: Sequence[str] | None = None) -> None:
    chosen = _parser().parse_args(arguments)
    setting = _setting(chosen)
    described = machine.describe()
    with ExitStack() as stack:
        work = chosen.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="benchmarks-")))
        work.mkdir(parents=True, exist_ok=True)
        workspace = Workspace(work.resolve(), _say)
        workspace.prepare_weights()
        parts = []
        for name in chosen.only or PARTS:
            _say(name)
            parts.append(PARTS[name](workspace, setting))
    text = report.document(parts, described, str(setting))
    sys.stdout.write(text)
    if chosen.json:
        record = {"machine": described, "setting": str(setting), "parts": [part.record() for part in parts]}
        chosen.json.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    if chosen.write:
        report.insert(layout.PAGE, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--only", action="append", choices=PARTS, help="this part alone; may be given again")
    add("--repeats", type=_positive, metavar="N", help=f"runs of each program (default {FULL.repeats})")
    add("--images", type=_positive, metavar="N", help=f"photographs in the folder (default {FULL.photographs})")
    add("--photos", type=_folder, metavar="FOLDER", help="photographs to use instead of made ones")
    add("--quick", action="store_true", help="a minute or two to see that all runs; the figures mean nothing")
    add("--work", type=Path, metavar="FOLDER", help="where to work, kept for the next time (default: temporary)")
    add("--json", type=Path, metavar="FILE", help="write every single measurement there")
    add("--write", action="store_true", help=f"put the report into {layout.PAGE.relative_to(layout.ROOT)}")
    return parser


def _setting(chosen: argparse.Namespace) -> Setting:
    setting = replace(QUICK if chosen.quick else FULL, given=chosen.photos)
    given = {"repeats": chosen.repeats, "photographs": chosen.images}
    return replace(setting, **{name: value for name, value in given.items() if value is not None})


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"no such folder: {text!r}")
    return Path(text).resolve()


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
