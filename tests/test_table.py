"""The table on a terminal: what is shown at which width, and in which colour."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from outputs import open_writer
from rich.cells import cell_len
from test_output import RUN

from imgclassify.results import Answer, ImageFailure, ImageResult, Prediction, Unfamiliarity

Show = Callable[..., list[str]]
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
LONGEST = "American Staffordshire terrier"


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Show:
    """Returns the lines of the table of some results on a terminal of this width, with its escape sequences."""

    def show(*results: ImageResult, width: int, no_color: bool = False, multi_label: bool = False) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.delenv("NO_COLOR", raising=False)
        if no_color:
            monkeypatch.setenv("NO_COLOR", "1")
        stream = FakeTerminal()
        run = replace(RUN, multi_label=multi_label)
        with open_writer("table", stream, run, top_k=5) as writer:
            for result in results:
                writer.write(result)
        return stream.getvalue().splitlines()

    return show


def plain(lines: list[str]) -> list[str]:
    return [ESCAPE.sub("", line).rstrip() for line in lines]


def answer(source: str, *pairs: tuple[str, float], model: str = "efficientnet_lite0") -> ImageResult:
    predictions = (Prediction(rank, rank, None, label, p) for rank, (label, p) in enumerate(pairs, 1))
    return ImageResult(source, model, 1280, 720, tuple(predictions))


def failure(source: str, message: str) -> ImageResult:
    return ImageResult(source, "efficientnet_lite0", None, None, (), ImageFailure("truncated_image", message))


DOG = answer("photos/dog.jpg", (LONGEST, 0.9), ("Labrador retriever", 0.06), ("redbone", 0.01))


@pytest.mark.parametrize(("width", "bar"), [(120, 27), (80, 27), (56, 9), (50, 3), (46, 0)])
def test_the_bar_yields_to_the_label(width: int, bar: int, show: Show) -> None:
    rows = plain(show(DOG, width=width))[-3:]
    assert [row[4 : 4 + len(LONGEST)].rstrip() for row in rows] == [LONGEST, "Labrador retriever", "redbone"]
    assert rows[0].count("█") == bar
    assert all(cell_len(row) <= width for row in rows)


def test_independent_classes_have_no_bars_and_each_its_own_colour(show: Show) -> None:
    result = answer("beach.jpg", ("sea", 0.99), ("sand", 0.97), ("dog", 0.6), ("snow", 0.01))
    lines = show(result, width=80, multi_label=True)
    assert plain(lines) == [
        "beach.jpg  1280×720  efficientnet_lite0  each class by itself",
        " 1  sea    99.00 %",
        " 2  sand   97.00 %",
        " 3  dog    60.00 %",
        " 4  snow    1.00 %",
    ]
    colours = {name: code for code, name in (("32", "green"), ("33", "yellow"), ("35", "magenta"))}
    for line, colour in zip(lines[1:], ("green", "green", "yellow", "magenta"), strict=True):
        assert f"[{colours[colour]}m" in line
    assert all("\x1b[1m" in line for line in lines[1:4])
    assert "\x1b[1m" not in lines[4]


def test_a_label_is_cut_with_an_ellipsis_once_there_is_no_bar(show: Show) -> None:
    rows = plain(show(DOG, width=40))[-3:]
    assert rows[0] == " 1  American Staffordshire…    90.00 %"
    assert rows[1] == " 2  Labrador retriever          6.00 %"


def test_the_facts_of_one_image_go_below_a_name_that_leaves_no_room(show: Show) -> None:
    assert plain(show(DOG, width=80))[0] == "photos/dog.jpg  1280×720  efficientnet_lite0"
    image = answer("/home/anna/photographs/dog.jpg", ("dog", 0.5))
    assert plain(show(image, width=50))[:2] == ["/home/anna/photographs/dog.jpg  1280×720", "  efficientnet_lite0"]
    assert plain(show(image, width=32))[:2] == [image.source, "  1280×720  efficientnet_lite0"]
    assert plain(show(image, width=24))[:3] == [image.source, "  1280×720", "  efficientnet_lite0"]


def test_the_error_of_one_image_is_wrapped(show: Show) -> None:
    image = failure("dog.jpg", "damaged JPEG file: it ends too early")
    assert plain(show(image, width=40))[1:] == ["✗ truncated_image: damaged JPEG file:", "  it ends too early"]


def test_a_folder_is_printed_above_its_images_whenever_it_changes(show: Show) -> None:
    names = ["a/b/x.jpg", "a/b/y.jpg", "a/z.jpg", "-", "a/q.jpg", "https://e.org/i/p.png", "old.zip!in/r.png"]
    lines = plain(show(*(answer(name, ("dog", 0.5)) for name in names), width=80))
    assert [line.split("   ")[0] for line in lines] == [
        "a/b/",
        "  x.jpg",
        "  y.jpg",
        "a/",
        "  z.jpg",
        "-",
        "a/",
        "  q.jpg",
        "https://e.org/i/",
        "  p.png",
        "old.zip!in/",
        "  r.png",
    ]


@pytest.mark.parametrize("width", [30, 40, 50, 69, 70, 80, 100, 120, 200])
def test_a_runner_up_is_whole_or_absent(width: int, show: Show) -> None:
    images = [
        DOG,
        answer(
            "photos/IMG_20240101_123456_a_long_name.jpg", ("ox", 0.4), ("bicycle-built-for-two", 0.3), ("cab", 0.1)
        ),
        answer("漢字/漢字漢字漢字漢字漢字漢字漢字漢字.jpg", ("cab", 1.0), ("ox", 0.0), ("oxcart", 0.0)),
    ]
    rows = [line for line in plain(show(*images, width=width)) if line.startswith("  ")]
    for image, row in zip(images, rows, strict=True):
        assert cell_len(row) <= width
        runners = [f"{100 * each.probability:.1f} % {each.label}" for each in image.predictions[1:]]
        best = f"{100 * image.predictions[0].probability:.1f} %  {image.predictions[0].label}"
        shown = row.partition(best)[2].strip() if best in row else ""
        assert shown in ("", runners[0], " · ".join(runners))
        fits = cell_len(f"{row}  {image.predictions[1].label}") + len("10.0 % ") <= width
        assert not (shown if width < 70 else fits and not shown)
        assert best in row or width < 60


def test_an_error_is_in_place_and_cut_between_words(show: Show) -> None:
    lines = plain(show(DOG, failure("photos/bad.jpg", "damaged JPEG file: it ends too early"), width=60))
    assert lines[2] == "  bad.jpg             ✗ truncated_image: damaged JPEG file…"


def test_the_answer_is_bold_and_coloured_by_its_probability(show: Show) -> None:
    images = [answer("a.jpg", (f"p{p}", p)) for p in (0.95, 0.8, 0.79, 0.5, 0.49)]
    rows = show(*images, failure("a.jpg", "broken"), width=80)
    for row, colour in zip(rows, [32, 32, 33, 33, 35], strict=False):
        assert row.startswith("a.jpg")
        assert re.search(rf"\x1b\[{colour}m *\d+\.\d %", row)
        assert re.search(r"\x1b\[1mp0\.\d+", row)
    assert "\x1b[31m✗ truncated_image: broken" in rows[-1]
    [best, other] = show(answer("a.jpg", ("dog", 0.6), ("cat", 0.3)), width=80)[1:]
    assert "\x1b[1mdog" in best
    assert "\x1b[33m█" in best
    assert "\x1b[1m" not in other


@pytest.mark.parametrize("images", [[DOG], [DOG, failure("photos/bad.jpg", "broken")]])
def test_the_text_is_the_same_without_colour(images: list[ImageResult], show: Show) -> None:
    bare = show(*images, width=80, no_color=True)
    assert plain(bare) == plain(show(*images, width=80))
    assert not re.search(r"\x1b\[[0-9;]*3\dm", "\n".join(bare))


def test_in_a_pipe_a_wide_cell_widens_its_column_for_the_rows_after_it() -> None:
    stream = io.StringIO()
    long, far = "photos/" + "x" * 50 + ".jpg", "y" * 200
    with open_writer("table", stream, RUN, top_k=1) as writer:
        for name, label in ((long, LONGEST), ("a.jpg", "cat"), (far, "cat"), ("犬.jpg", "dog")):
            writer.write(answer(name, (label, 0.5)))
        writer.write(failure("b.jpg", "damaged"))
    wide, *narrow, failed = stream.getvalue().splitlines()
    name, label = cell_len(long) + 2, cell_len(LONGEST) + 1
    assert wide == f"{long}  {LONGEST}   50.0 %"
    assert [cell_len(line) for line in narrow if far not in line] == [name + label + len("  50.0 %")] * 2
    assert f"{far}  cat" in narrow[1]
    assert failed.index("✗") == name


# How far an answer can be trusted

PETS = Answer("rollup", None, "hunting dog", 0.96)
STRANGE = Unfamiliarity(31.523, 98.4)
UNSURE = Answer("unsure", None, None, 0.9)


def test_the_answer_of_one_image_comes_first_and_its_classes_below(show: Show) -> None:
    image = replace(DOG, answer=PETS, prediction_set=(LONGEST, "redbone"), unfamiliar=STRANGE)
    lines = show(image, width=80)
    assert plain(lines) == [
        "photos/dog.jpg  1280×720  efficientnet_lite0",
        "    answer  hunting dog  96.0 %",
        f" 1  {LONGEST}   90.00 %  {'█' * 27}",
        " 2  Labrador retriever                6.00 %  █▊",
        " 3  redbone                           1.00 %  ▎",
        f"       set  {LONGEST}, redbone",
        "unfamiliar  score 31.52, stranger than 98.4 % of the familiar images",
    ]
    assert "\x1b[1mhunting dog  96.0 %" in lines[1]
    assert plain(show(replace(DOG, answer=UNSURE), width=80))[1] == "    answer  not sure"
    leaf = replace(DOG, answer=Answer("leaf", None, LONGEST, 0.9))
    assert plain(show(leaf, width=80))[1] == f"    answer  {LONGEST}  90.0 %"
    alone = replace(DOG, unfamiliar=Unfamiliarity(-0.6132, None))
    assert plain(show(alone, width=80))[-1] == "unfamiliar  score -0.6132"


def test_a_large_set_is_shown_in_part(show: Show) -> None:
    labels = tuple(f"class{number}" for number in range(1000))
    text = " ".join(line.strip() for line in plain(show(replace(DOG, prediction_set=labels), width=80))[4:])
    assert text == f"set  {', '.join(labels[:20])}, and 980 more"
    text = " ".join(line.strip() for line in plain(show(replace(DOG, prediction_set=labels[:20]), width=80))[4:])
    assert text == f"set  {', '.join(labels[:20])}"


@pytest.mark.parametrize("width", [24, 30, 40, 60, 80, 120])
def test_the_facts_of_one_image_keep_to_the_width(width: int, show: Show) -> None:
    image = replace(DOG, answer=PETS, prediction_set=("日本" * 30, "red fox, Vulpes"), unfamiliar=STRANGE)
    lines = plain(show(image, width=width))
    assert all(cell_len(line) <= width for line in lines)
    text = "".join(line.replace(" ", "") for line in lines)
    assert "日本" * 30 in text
    assert "huntingdog96.0%" in text
    assert "strangerthan98.4%ofthefamiliarimages" in text


@pytest.mark.parametrize("width", [30, 40, 50, 60, 70, 80, 100, 120, 200])
def test_the_class_below_an_answer_is_seen_before_all_else(width: int, show: Show) -> None:
    images = [
        replace(DOG, answer=answer, prediction_set=("a",) * 7, unfamiliar=STRANGE)
        for answer in (PETS, UNSURE, None)
    ]
    rolled, unsure, best = (line for line in plain(show(*images, width=width)) if line.startswith("  "))
    assert all(cell_len(line) <= width for line in (rolled, unsure, best))
    leaf, notes = f"90.0 % {LONGEST}", ("unfamiliar 98 %", "set of 7")
    for line, headline in (
        (rolled, "96.0 %  hunting dog"),
        (unsure, "         not sure"),
        (best, "90.0 %  American"),
    ):
        # Each is whole or absent. Nothing is cut but the label itself.
        assert headline in line or width < 60
        for note in notes:
            assert note in line or note[:6] not in line
        assert notes[0] in line or notes[1] not in line
    for line, headline in ((rolled, "hunting dog"), (unsure, "not sure")):
        fits = width - width // 3 - 2 - len("100.0 %  ") >= len(headline) + len(f"  {leaf}")
        assert (leaf in line) == fits
        assert fits or "American" not in line


def test_rows_in_a_pipe_are_whole(show: Show) -> None:
    image = replace(DOG, answer=PETS, prediction_set=("a",) * 7, unfamiliar=STRANGE)
    stream = io.StringIO()
    with open_writer("table", stream, RUN, top_k=5) as writer:
        for each in (image, replace(image, answer=UNSURE), DOG):
            writer.write(each)
    first, second, third = stream.getvalue().splitlines()
    assert first.split("  ")[0] == "photos/dog.jpg"
    rest = f"unfamiliar 98 % · set of 7 · {LONGEST} 90.0 % · Labrador retriever 6.0 %"
    assert re.split(r" {2,}", first)[1:] == ["hunting dog", "96.0 %", rest]
    assert re.split(r" {2,}", second)[1:] == ["not sure", rest]
    assert third.endswith(f"{LONGEST}   90.0 %  Labrador retriever 6.0 % · redbone 1.0 %")


def test_one_image_in_a_pipe_has_a_line_for_each_fact() -> None:
    labels = tuple(f"a long label {number}" for number in range(15))
    stream = io.StringIO()
    with open_writer("table", stream, RUN, top_k=5) as writer:
        writer.write(replace(DOG, prediction_set=labels))
    assert stream.getvalue().splitlines()[-1] == f"       set  {', '.join(labels)}"


def test_no_name_in_an_answer_or_a_set_reaches_the_terminal_raw(show: Show) -> None:
    evil = "a\x1b[31m\nb"
    image = replace(DOG, answer=Answer("rollup", None, evil, 0.95), prediction_set=(evil, "c"))
    for results in ((image,), (image, image)):
        text = "\n".join(show(*results, width=120, no_color=True))
        assert "\x1b[31m" not in text
        assert "\nb" not in text


def test_a_failed_image_has_no_confidence(show: Show) -> None:
    lines = plain(show(failure("dog.jpg", "it ends too early"), replace(DOG, answer=PETS), width=80))
    assert lines[0].split() == ["dog.jpg", "✗", "truncated_image:", "it", "ends", "too", "early"]


def test_a_calibrated_run_is_said_in_the_heading() -> None:
    for result, said in ((DOG, True), (failure("dog.jpg", "x"), False)):
        stream = io.StringIO()
        with open_writer("table", stream, replace(RUN, calibration={"temperature": 2}), top_k=5) as writer:
            writer.write(result)
        assert ("  calibrated" in stream.getvalue().splitlines()[0]) == said
