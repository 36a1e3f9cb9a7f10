"""What a run may find in its output's place, of any content: gone on with or refused, and no whole record lost."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

from fuzz import harness
from fuzz.harness import FindingError, Input, Target
from fuzz.mutations import mutated
from outputs import file_format, open_output
from test_output import GOOD, RUN

from imgclassify.errors import UsageError
from imgclassify.output.json_lines import to_json
from imgclassify.results import Answer, ImageFailure, ImageResult, Unfamiliarity

NAMES = ["a.jpg", "b\nc.jpg", "caf\udce9.jpg", '"quoted",=1.png', "a.jpg", "z.jpg"]
CONFIDENCE = [
    (Answer("leaf", "n00000001", "a dog, large", 0.75), ("a dog, large", 'b"|\n'), Unfamiliarity(0.0, None)),
    (Answer("rollup", None, "pets", 0.9), ("cat",), Unfamiliarity(-1.5, 12.5)),
    (Answer("unsure", None, None, 0.2), ("",), Unfamiliarity(3.25, 100.0)),
    (None, None, None),
]


def _sure(name: str, index: int) -> ImageResult:
    answer, labels, unfamiliar = CONFIDENCE[index % len(CONFIDENCE)]
    return replace(GOOD, source=name, answer=answer, prediction_set=labels, unfamiliar=unfamiliar)


ANSWERS = [
    _sure(name, index)
    if index % 3
    else ImageResult(name, "tiny", None, None, (), ImageFailure("corrupt_image", "broken\nfile"))
    for index, name in enumerate(NAMES)
]
FILES = {
    "journal": "out.jsonl.partial",
    "jsonl": "out.jsonl",
    "csv": "out.csv",
    "tsv": "out.tsv",
    "sqlite": "out.sqlite",
    "parquet": "out.parquet",
    "provenance": "out.csv.run.json",
}
"""What is mutated, by the name that it has beside or in place of the output."""


def _run(folder: Path, name: str, answers: list[ImageResult], *, complete: bool) -> None:
    format_name = name.removesuffix(".partial").removesuffix(".run.json").rpartition(".")[2]
    path = folder / f"out.{format_name}"
    with open_output(path, format_name, resume=True, retry_errors=not complete) as output:
        wanted = [answer for answer in answers if not output.claim_record(answer.source)]
        output.begin(RUN, {"top_k": 2})
        for answer in wanted:
            output.write(answer)
        if complete:
            output.complete()


@cache
def seeds() -> dict[str, bytes]:
    """Each kind of file, as a run leaves it; the journal also of a run that was stopped while it tried again."""
    found = {}
    for kind, name in FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            _run(Path(folder), name, ANSWERS[:5], complete=kind != "journal")
            found[f"{kind} 0"] = (Path(folder) / name).read_bytes()
            if kind == "journal":
                _run(
                    Path(folder),
                    name,
                    [replace(GOOD, source=answer.source) for answer in ANSWERS[:4]],
                    complete=False,
                )
                found[f"{kind} 1"] = (Path(folder) / name).read_bytes()
    return found


def attempt(given_input: Input) -> str:
    """What becomes of a run that is to go on with it: "gone on with" or "refused"."""
    name = FILES[given_input.kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        if given_input.kind == "csv":
            (path.with_name("out.csv.run.json")).write_bytes(seeds()["provenance 0"])
        elif given_input.kind in ("jsonl", "tsv"):
            path.with_name(f"{name}.run.json").write_bytes(seeds()["provenance 0"])
        elif given_input.kind == "provenance":
            (path.with_name("out.csv")).write_bytes(seeds()["csv 0"])
        path.write_bytes(given_input.content)
        try:
            _run(Path(folder), name, ANSWERS, complete=True)
        except UsageError as error:
            if not error.hint:
                raise FindingError("an error without a hint") from error
            _check_untouched(path, given_input)
            return "refused"
        _check_whole(Path(folder), given_input)
        return "gone on with"


def _check_untouched(path: Path, given_input: Input) -> None:
    content = path.read_bytes() if path.exists() else b""
    # The last line of a journal may have been taken off, where it was torn.
    whole = given_input.content[: given_input.content.rfind(b"\n") + 1]
    if content != given_input.content and not (given_input.kind == "journal" and content in (whole, b"")):
        raise FindingError("a file that was refused was changed")


def _check_whole(folder: Path, given_input: Input) -> None:
    """Each name is answered, and what was whole in the journal is in the output."""
    [path] = [each for each in folder.iterdir() if each.suffix in (".jsonl", ".csv", ".tsv", ".sqlite", ".parquet")]
    results = list(file_format(path.suffix[1:]).load(path)[1])
    for name in NAMES:
        if sum(result.source == name for result in results) < NAMES.count(name):
            raise FindingError(f"{name!r} has no record")
    if given_input.kind == "journal":
        lines = given_input.content.splitlines(keepends=True)[1:]
        for answer in ANSWERS:
            if (
                answer.error is None
                and f"{to_json(answer.to_dict())}\n".encode() in lines
                and answer not in results
            ):
                raise FindingError(f"the record of {answer.source!r} was lost")


def target() -> Target:
    return Target("outputs", mutated(seeds()), attempt)


if __name__ == "__main__":
    harness.main(target())
