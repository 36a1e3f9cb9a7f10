"""Duplicates and nearest images: against brute force in float64, and against images made by known changes."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import noise
from PIL import Image, ImageOps

from imgclassify.embedding import EMBEDDINGS
from imgclassify.engines import FEATURES
from imgclassify.errors import UnavailableError, UsageError
from imgclassify.runner import load_runner
from imgclassify.similarity import alignment, neighbours
from imgclassify.similarity.alignment import MIN_AGREEMENT, align, compute_fingerprint
from imgclassify.similarity.duplicates import DuplicateFinder
from imgclassify.similarity.fingerprint_store import FingerprintStore
from imgclassify.similarity.neighbours import find_nearest, find_similar_pairs, unit_vectors
from imgclassify.similarity.vector_file import read_vectors
from imgclassify.sources import expand

EXAMPLES = Path(__file__).parent.parent / "examples"
PHOTOS = sorted(EXAMPLES.glob("*.jpg"))


def vectors(count: int, dimension: int = 32, seed: int = 0) -> np.ndarray:
    return unit_vectors(np.random.default_rng(seed).standard_normal((count, dimension)))


# Nearest ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5, 40])
def test_the_nearest_are_those_of_brute_force_in_float64(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_BLOCK", 7)
    stored, queries = vectors(40), vectors(23, seed=1)
    indices, cosines = find_nearest(stored, queries, count)
    exact = queries.astype(np.float64) @ stored.astype(np.float64).T
    np.testing.assert_array_equal(indices, np.argsort(-exact, axis=1, kind="stable")[:, :count])
    np.testing.assert_allclose(cosines, np.sort(exact, axis=1)[:, ::-1][:, :count], atol=1e-6)


def test_of_equal_vectors_the_first_comes_first() -> None:
    stored = np.repeat(vectors(2), 4, axis=0)
    indices, _ = find_nearest(stored, stored[:1], 4)
    assert indices.tolist() == [[0, 1, 2, 3]]


def test_pairs_are_those_of_which_one_is_among_the_others_nearest() -> None:
    stored = vectors(60, 8)
    pairs = find_similar_pairs(stored, neighbours=3, min_cosine=0.4)
    exact = stored.astype(np.float64) @ stored.astype(np.float64).T
    np.fill_diagonal(exact, -2)
    near = np.argsort(-exact, axis=1)[:, :3]
    wanted = {
        (min(one, other), max(one, other))
        for one in range(60)
        for other in near[one].tolist()
        if exact[one, other] >= 0.4
    }
    assert [tuple(pair) for pair in pairs.tolist()] == sorted(wanted)
    assert find_similar_pairs(stored[:1], neighbours=3, min_cosine=0.4).shape == (0, 2)


def test_very_many_comparisons_are_left_to_usearch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "EXACT_LIMIT", 2000 * 49)
    monkeypatch.setattr(neighbours, "_find_exactly", None)
    stored = vectors(2000, 16)
    indices, cosines = find_nearest(stored, stored[:50], 10)
    exact = stored[:50].astype(np.float64) @ stored.astype(np.float64).T
    assert indices[:, 0].tolist() == list(range(50))
    np.testing.assert_allclose(cosines, np.take_along_axis(exact, indices, 1), atol=0.002)
    wanted = np.argsort(-exact, axis=1)[:, :10]
    assert np.mean([len(set(one) & set(two)) / 10 for one, two in zip(indices, wanted, strict=True)]) > 0.95
    np.testing.assert_array_equal(find_nearest(stored, stored[:50], 10)[0], indices)


def test_few_queries_are_searched_exactly_among_any_number_of_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "EXACT_LIMIT", 2000 * 2)
    monkeypatch.setattr(neighbours, "_find_with_usearch", None)
    stored = vectors(2000, 16)
    assert find_nearest(stored, stored[:2], 1)[0].tolist() == [[0], [1]]


def test_what_usearch_cannot_reach_is_searched_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "EXACT_LIMIT", 5)
    stored = vectors(10)
    find_nearest(stored, stored, 1)
    # An index of three of the ten vectors stands for one whose other vectors cannot be reached.
    from usearch.index import Index

    add = Index.add
    monkeypatch.setattr(Index, "add", lambda self, keys, values, **how: add(self, keys[:3], values[:3], **how))
    indices, cosines = find_nearest(stored, stored[:4], 5)
    exact = stored[:4].astype(np.float64) @ stored.astype(np.float64).T
    np.testing.assert_array_equal(indices, np.argsort(-exact, axis=1)[:, :5])
    np.testing.assert_allclose(cosines, np.sort(exact, axis=1)[:, ::-1][:, :5], atol=1e-6)


def test_onnxruntime_can_be_loaded_after_a_search_with_usearch() -> None:
    program = """
import numpy as np
from imgclassify.similarity import neighbours
neighbours.EXACT_LIMIT = 5
neighbours.find_nearest(np.eye(8, dtype=np.float32), np.eye(8, dtype=np.float32), 2)
import onnxruntime
print(onnxruntime.get_available_providers())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, "CPUExecutionProvider" in done.stdout) == (0, True), done.stderr


def test_without_usearch_they_are_compared_with_numpy_and_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(neighbours, "EXACT_LIMIT", 5)
    monkeypatch.setattr(neighbours, "find_spec", lambda _: None)
    indices, _ = find_nearest(vectors(10), vectors(10)[:2], 1)
    assert indices.tolist() == [[0], [1]]
    assert "pip install usearch" in caplog.text


def test_a_vector_of_zeros_is_no_error() -> None:
    assert unit_vectors(np.zeros((2, 3))).tolist() == [[0, 0, 0]] * 2


# Alignment ----------------------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "crop": lambda image: image.crop((30, 20, image.width * 7 // 10, image.height * 8 // 10)),
    "mirrored": ImageOps.mirror,
    "upside down": ImageOps.flip,
    "turned by 25°": lambda image: image.rotate(25, Image.Resampling.BICUBIC),
    "turned by 90°": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "quality 20": lambda image: recompressed(image, 20),
    "mirrored crop, recompressed": lambda image: recompressed(
        ImageOps.mirror(image.crop((40, 10, image.width - 20, image.height - 40))), 30
    ),
    "darker": lambda image: image.point(lambda value: int(value * 0.7)),
}


def recompressed(image: Image.Image, quality: int) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return Image.open(io.BytesIO(content.getvalue())).convert("RGB")


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
def test_a_changed_image_is_laid_over_the_original(path: Path, change: str) -> None:
    image = Image.open(path).convert("RGB")
    found = align(compute_fingerprint(image), compute_fingerprint(CHANGES[change](image)))
    assert found.agreement >= MIN_AGREEMENT
    assert found.mirrored == (change in ("mirrored", "upside down", "mirrored crop, recompressed"))


def test_different_images_do_not_agree() -> None:
    prints = [compute_fingerprint(Image.open(path).convert("RGB")) for path in PHOTOS]
    prints += [compute_fingerprint(noise(300, 200, seed=seed)) for seed in range(3)]
    for index, one in enumerate(prints):
        for other in prints[:index]:
            assert align(one, other).agreement < MIN_AGREEMENT / 2


@pytest.mark.parametrize("stamp", ["cat", "coffee"])
@pytest.mark.parametrize("size", [(140, 90), (200, 130)])
def test_a_stamp_on_two_images_does_not_make_them_the_same(stamp: str, size: tuple[int, int]) -> None:
    """Such as a logo, in opposite corners: where one image lies on the other, they are equal."""
    stamped = []
    others = {"cat", "coffee", "rocket"} - {stamp}
    for name, place in zip(sorted(others), ((0, 0), (451 - size[0], 300 - size[1])), strict=True):
        image = Image.open(EXAMPLES / f"{name}.jpg").convert("RGB").resize((451, 300))
        image.paste(Image.open(EXAMPLES / f"{stamp}.jpg").convert("RGB").resize(size), place)
        stamped.append(compute_fingerprint(image))
    assert align(*stamped).agreement < MIN_AGREEMENT


def test_an_image_without_texture_agrees_with_none() -> None:
    plain = compute_fingerprint(Image.new("RGB", (200, 100), "white"))
    assert len(plain.points) == 0
    assert align(plain, plain).agreement == 0
    assert align(plain, compute_fingerprint(Image.open(PHOTOS[0]))).agreement == 0


def test_fingerprints_come_back_from_the_store() -> None:
    store = FingerprintStore()
    prints = [compute_fingerprint(Image.open(path)) for path in PHOTOS]
    for number, each in enumerate(prints):
        store.add(10 * number, each)
    for number, each in reversed(list(enumerate(prints))):
        for found, wanted in zip(store.read(10 * number), each, strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-6)


# Duplicates ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs, each with changed versions, one photograph alone, and a broken file twice."""
    folder = tmp_path_factory.mktemp("album")
    cat, coffee, rocket = (Image.open(EXAMPLES / f"{name}.jpg") for name in ("cat", "coffee", "rocket"))
    shutil.copy(EXAMPLES / "cat.jpg", folder / "a.jpg")
    shutil.copy(EXAMPLES / "cat.jpg", folder / "b.jpg")
    cat.save(folder / "c.png")
    cat.resize((300, 200)).save(folder / "d.jpg", quality=60)
    ImageOps.mirror(cat).crop((30, 20, 400, 280)).save(folder / "e.webp")
    coffee.save(folder / "f.jpg", quality=40)
    coffee.rotate(25).resize((900, 600)).save(folder / "g.png")
    rocket.save(folder / "h.jpg")
    for name in ("i.jpg", "j.jpg"):
        (folder / name).write_bytes(b"\xff\xd8 broken")
    for age, path in enumerate(sorted(folder.iterdir())):
        os.utime(path, (1e9 - 1000 * age, 1e9 - 1000 * age))
    return folder


def find(album: Path, stage: str, **options: object) -> list[tuple[str, list[tuple[str, str]]]]:
    """(reason, [(name, relation)]) of each group."""
    runner = load_runner(outputs=(FEATURES,), with_labels=False, device="cpu") if stage == "vector" else None
    finder = DuplicateFinder(stage, runner=runner, **options)  # type: ignore[arg-type]
    facts = list(finder.stream(expand([str(album)])))
    assert [Path(each.source).name for each in facts] == [f"{name.name}" for name in sorted(album.iterdir())]
    assert [each.error is not None for each in facts] == [stage != "bytes" and n in (8, 9) for n in range(10)]
    return [
        (group.reason, [(Path(each.facts.source).name, each.relation) for each in group.members])
        for group in finder.find_groups()
    ]


BROKEN = ("oldest", [("j.jpg", "keeper"), ("i.jpg", "same file")])


def test_equal_files_are_found_even_if_they_are_broken(album: Path) -> None:
    assert find(album, "bytes") == [("oldest", [("b.jpg", "keeper"), ("a.jpg", "same file")]), BROKEN]


def test_equal_pixels_are_found_in_other_formats(album: Path) -> None:
    assert find(album, "pixels") == [
        ("oldest", [("c.png", "keeper"), ("a.jpg", "same pixels"), ("b.jpg", "same pixels")]),
        BROKEN,
    ]


def test_changed_images_are_found(album: Path) -> None:
    cats = [
        ("c.png", "keeper"),
        ("a.jpg", "same pixels"),
        ("b.jpg", "same pixels"),
        ("d.jpg", "changed"),
        ("e.webp", "changed"),
    ]
    assert find(album, "vector") == [
        ("oldest", cats),
        ("largest", [("g.png", "keeper"), ("f.jpg", "changed")]),
        BROKEN,
    ]


def test_the_sharper_of_two_images_of_one_size_is_kept(tmp_path: Path) -> None:
    image = Image.open(EXAMPLES / "cat.jpg")
    image.resize((150, 100)).resize(image.size).save(tmp_path / "a.png")
    image.save(tmp_path / "b.png")
    runner = load_runner(outputs=(FEATURES,), with_labels=False, device="cpu")
    finder = DuplicateFinder(runner=runner)
    list(finder.stream(expand([str(tmp_path)])))
    [group] = finder.find_groups()
    assert (Path(group.members[0].facts.source).name, group.reason) == ("b.png", "sharpest")
    assert group.members[1].agreement == 1


def test_a_higher_threshold_finds_less(album: Path) -> None:
    assert len(find(album, "vector", threshold=1.0)) <= len(find(album, "vector", threshold=0.5))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"stage": "hash"}, "unknown stage"), ({"stage": "bytes", "threshold": 1.5}, "threshold")],
)
def test_options_out_of_range_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        DuplicateFinder(**options)  # type: ignore[arg-type]


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UnavailableError, match="OpenCV") as raised:
        alignment.require_opencv()
    assert "pip install opencv-python-headless" in str(raised.value.hint)


# The commands -------------------------------------------------------------------------------------------------


def run(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "imgclassify", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    return done


def test_the_command_writes_groups_in_each_format(album: Path, tmp_path: Path) -> None:
    done = run("duplicates", album, "-f", "jsonl", status=1)
    groups = [json.loads(line) for line in done.stdout.splitlines()]
    assert [group["group"] for group in groups] == [1, 2, 3]
    assert groups[0]["keeper"] == str(album / "c.png")
    assert [image["relation"] for image in groups[0]["images"]].count("changed") == 2
    assert "3 groups, 6 images besides those to keep" in done.stderr
    assert "corrupt_image" in done.stderr or "not_an_image" in done.stderr or "truncated" in done.stderr

    run("duplicates", album, "-f", "csv", "-o", tmp_path / "groups.csv", status=1)
    rows = list(csv.DictReader((tmp_path / "groups.csv").read_text("utf-8").splitlines()))
    assert [row["group"] for row in rows] == ["1"] * 5 + ["2"] * 2 + ["3"] * 2
    assert [row["keep"] for row in rows].count("yes") == 3
    assert rows[0]["source"] == str(album / "c.png")
    assert float(rows[3]["agreement"]) >= MIN_AGREEMENT

    before = (tmp_path / "groups.csv").read_bytes()
    again = ("duplicates", album / "c.png", "--stage", "bytes", "-f", "csv", "-o", tmp_path / "groups.csv")
    refused = run(*again, status=2)
    assert "exists already" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert (tmp_path / "groups.csv").read_bytes() == before
    assert "1 image in" in run(*again, "--overwrite", status=0).stderr
    assert (tmp_path / "groups.csv").read_bytes().count(b"\n") == 1
    assert run(*again[:-1], "-", status=0).stdout.count("\n") == 1
    run(*again[:-1], "/dev/null", status=0)
    assert not Path("/dev/null").is_file()

    table = run("duplicates", album, "--stage", "bytes").stdout.splitlines()
    assert table[0].split() == [
        "group",
        "keep",
        "relation",
        "agreement",
        "width",
        "height",
        "bytes",
        "source",
        "reason",
    ]
    assert len(table) == 5


def test_files_that_are_all_different_give_no_group(tmp_path: Path) -> None:
    noise(100, 100).save(tmp_path / "a.png")
    noise(100, 100, seed=1).save(tmp_path / "b.png")
    done = run("duplicates", tmp_path)
    assert done.stdout == ""
    assert "0 groups" in done.stderr


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (["--stage", "hash"], 2, "unknown stage"),
        (["--threshold", "2"], 2, "threshold"),
        (["--threshold", "0.5", "--stage", "bytes"], 2, "--threshold is for"),
        (["-f", "xml"], 2, "unknown format"),
        (["--include", "*.nothing"], 4, "no image was found"),
    ],
)
def test_usage_errors(options: list[str], status: int, words: str, album: Path) -> None:
    assert words in run("duplicates", album, *options, status=status).stderr


@pytest.fixture(scope="module")
def stored(album: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("vectors")
    for name in ("v.npz", "v.parquet", "v.jsonl"):
        run("embed", album, "-o", folder / name, status=1)
    return folder


@pytest.mark.parametrize("name", ["v.npz", "v.parquet", "v.jsonl"])
def test_the_nearest_images_are_found_in_each_format(name: str, stored: Path, album: Path) -> None:
    done = run("search", stored / name, EXAMPLES / "coffee.jpg", "-k", "3", "--json")
    [found] = json.loads(done.stdout)
    assert found["query"] == str(EXAMPLES / "coffee.jpg")
    assert [match["rank"] for match in found["matches"]] == [1, 2, 3]
    assert {match["source"] for match in found["matches"][:2]} == {str(album / "f.jpg"), str(album / "g.png")}
    vector_file = read_vectors(stored / name)
    assert len(vector_file.sources) == 8
    embedder = load_runner(outputs=(FEATURES,), with_labels=False, device="cpu")
    [query] = embedder.run([EXAMPLES / "coffee.jpg"])
    assert query.arrays is not None
    exact = vector_file.vectors.astype(np.float64) @ query.arrays[FEATURES].astype(np.float64)
    exact /= np.linalg.norm(query.arrays[FEATURES].astype(np.float64))
    order = np.argsort(-exact)[:3]
    assert [match["source"] for match in found["matches"]] == [vector_file.sources[index] for index in order]
    np.testing.assert_allclose([match["similarity"] for match in found["matches"]], exact[order], atol=1e-5)


def test_more_than_there_are_and_a_table(stored: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"")
    done = run("search", stored / "v.npz", PHOTOS[0], tmp_path / "bad.jpg", "-k", "99", status=1)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["query", "rank", "similarity", "source"]
    assert len(lines) == 9
    assert "bad.jpg: empty" in done.stderr


@pytest.mark.needs_torch
def test_vectors_of_another_model_are_refused(stored: Path, tmp_path: Path) -> None:
    import torch
    from networks import seeded

    torch.save(seeded("resnet18").state_dict(), tmp_path / "mine.pth")
    done = run("search", stored / "v.npz", PHOTOS[0], "-m", tmp_path / "mine.pth", "--arch", "resnet18", status=2)
    assert "cannot be compared: model was 'efficientnet_lite0'" in done.stderr


@pytest.mark.needs_torch
def test_vectors_of_another_crop_are_searched_with_that_crop(tmp_path: Path) -> None:
    run(
        "embed",
        EXAMPLES,
        "-o",
        tmp_path / "v.npz",
        "--crop-size",
        "192",
        "--resize-size",
        "192",
        "--engine",
        "torch",
    )
    [found] = json.loads(run("search", tmp_path / "v.npz", PHOTOS[0], "--json").stdout)
    assert found["matches"][0]["source"] == str(PHOTOS[0])
    assert found["matches"][0]["similarity"] == pytest.approx(1, abs=1e-5)


def test_vectors_of_another_preprocessing_are_searched_with_that_preprocessing(tmp_path: Path) -> None:
    options = ["--resize-size", "224x260", "--channel-order", "bgr"]
    run("embed", EXAMPLES, "-o", tmp_path / "v.npz", *options)
    [found] = json.loads(run("search", tmp_path / "v.npz", PHOTOS[0], "--json").stdout)
    assert found["matches"][0]["source"] == str(PHOTOS[0])
    assert found["matches"][0]["similarity"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken"])
def test_a_file_that_holds_no_vectors_is_a_usage_error(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "v.npz").write_bytes(content)
    done = run("search", tmp_path / "v.npz", PHOTOS[0], status=2)
    assert "cannot read vectors" in done.stderr
    assert "embed" in done.stderr
    done = run("search", tmp_path / "nowhere.npz", PHOTOS[0], status=2)
    assert "cannot read vectors" in done.stderr


def test_the_record_type_is_that_of_embed() -> None:
    assert EMBEDDINGS.name == "embeddings"
