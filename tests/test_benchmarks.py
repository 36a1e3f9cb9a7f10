"""The harness of `python -m benchmarks` measures what it says, and its reference programs predict as we do."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import duplicates, features, gpu, layout, photos, predictions, report
from benchmarks.measure import MIB, Case, Measured, Run, alternately, run
from benchmarks.workspace import Workspace, reference
from imgclassify import Classifier

PYTHON = sys.executable
EXAMPLES = ("cat.jpg", "rocket.jpg")


def ignore(_: str) -> None:
    pass


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def one_run(seconds: float, max_rss: int = 0) -> Run:
    return Run(seconds=seconds, cpu_seconds=0, max_rss=max_rss, status=0, stdout="", stderr="")


class TestPhotographs:
    def test_the_same_seed_gives_the_same_bytes_and_another_gives_others(self, tmp_path: Path) -> None:
        made = [
            [path.read_bytes() for path in photos.make(tmp_path / name, 6, seed=seed)]
            for name, seed in (("one", 1), ("again", 1), ("other", 2))
        ]
        assert made[0] == made[1]
        assert not set(made[0]) & set(made[2])
        assert len(set(made[0])) == 6

    def test_their_number_does_not_change_them(self, tmp_path: Path) -> None:
        few, many = (photos.make(tmp_path / str(count), count) for count in (3, 5))
        assert [path.read_bytes() for path in few] == [path.read_bytes() for path in many[:3]]

    def test_most_are_as_large_as_imagenets_and_phone_photographs_have_12_megapixels(self, tmp_path: Path) -> None:
        sizes = [size_of(path) for path in photos.make(tmp_path / "web", 24)]
        assert sum(max(size) == 500 for size in sizes) >= 18
        assert len(set(sizes)) > 10
        assert {width > height for width, height in sizes} == {True, False}
        [phone] = photos.make(tmp_path / "phone", 1, kind="phone")
        assert size_of(phone) == (4032, 3024)

    def test_a_folder_given_is_repeated_and_enlarged_by_links(self, tmp_path: Path) -> None:
        given = tmp_path / "given"
        photos.make(given, 2)
        workspace = Workspace(tmp_path, ignore)
        photographs = workspace.photographs(5, given)
        assert [path.name for path in sorted(photographs.iterdir())] == [f"photo_{n:05}.jpg" for n in range(5)]
        assert len({path.stat().st_ino for path in photographs.iterdir()}) == 2
        enlarged = workspace.enlarged(photographs, 12)
        counts = [len(list(folder.iterdir())) for folder in sorted(enlarged.iterdir())]
        assert counts == [5, 5, 2]


class TestMeasuring:
    def test_a_process_is_timed_and_its_memory_is_its_own(self, tmp_path: Path) -> None:
        code = "import time; content = bytearray(100 * 2**20); time.sleep(0.3); print('done')"
        # In a process of its own, since one that measures hands its own size down, and pytest's may be large.
        measuring = (
            "from pathlib import Path; from benchmarks.measure import Case, run; "
            f"done = run(Case('', ({PYTHON!r}, '-c', {code!r})), Path({str(tmp_path)!r})); "
            "print(done.seconds, done.max_rss, done.stdout)"
        )
        done = subprocess.run(
            [PYTHON, "-c", measuring], cwd=layout.ROOT, capture_output=True, text=True, check=True
        )
        seconds, max_rss, stdout = done.stdout.split()
        assert stdout == "done"
        assert 0.3 < float(seconds) < 30
        assert 100 < int(max_rss) / MIB < 130

    @pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
    def test_the_children_of_a_process_are_counted_with_it(self, tmp_path: Path) -> None:
        child = "import time; content = bytearray(100 * 2**20); time.sleep(0.5)"
        code = (
            "import subprocess, sys; "
            f"children = [subprocess.Popen([sys.executable, '-c', {child!r}]) for _ in range(2)]; "
            "[child.wait() for child in children]"
        )
        [measured] = alternately([Case("tree", (PYTHON, "-c", code))], 1, tmp_path, ignore)
        assert measured.sampled_peak is not None
        assert 200 < measured.sampled_peak / MIB < 300

    def test_a_program_that_fails_is_shown_with_its_last_line_and_the_rest_goes_on(self, tmp_path: Path) -> None:
        failing = Case("bad", (PYTHON, "-c", "raise SystemExit('first\\nthe last line')"))
        bad, good = alternately([failing, Case("good", (PYTHON, "-c", ""))], 2, tmp_path, ignore)
        assert bad.failure == "the last line"
        assert (bad.seconds, bad.peak) == (None, None)
        assert len(good.runs) == 2
        text = report.document([report.Part("Part", [], [bad, good])], {"Cores": "2"}, "twice")
        assert "- bad failed: `the last line`" in text

    def test_rounds_begin_with_another_program_each_after_one_that_is_not_counted(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        cases = [Case(name, (PYTHON, "-c", f"open({str(log)!r}, 'a').write('{name}')")) for name in ("a", "b", "c")]
        measured = alternately(cases, 2, tmp_path, ignore)
        assert log.read_text() == "abc" + "abc" + "bca"
        assert [len(each.runs) for each in measured] == [2, 2, 2]

    def test_the_rounds_that_are_not_counted_can_be_left_out(self, tmp_path: Path) -> None:
        log = tmp_path / "log"
        case = Case("a", (PYTHON, "-c", f"open({str(log)!r}, 'a').write('a')"))
        [measured] = alternately([case], 2, tmp_path, ignore, warm_up=False)
        assert (log.read_text(), len(measured.runs), measured.sampled_peak) == ("aa", 2, None)

    def test_a_hanging_program_is_ended_with_its_children(self, tmp_path: Path) -> None:
        code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
        ended = run(Case("hangs", (PYTHON, "-c", code)), tmp_path, timeout=1)
        assert ended.seconds < 20
        assert ended.failure

    def test_folders_to_be_removed_are_absent_at_each_start(self, tmp_path: Path) -> None:
        cache = tmp_path / "cache"
        case = Case("makes", (PYTHON, "-c", f"import os; os.mkdir({str(cache)!r})"), removed_before=(cache,))
        [measured] = alternately([case], 2, tmp_path, ignore)
        assert measured.failure is None

    def test_the_measuring_process_stays_small(self) -> None:
        heavy = "('torch', 'numpy', 'PIL', 'onnxruntime')"
        code = f"import sys, benchmarks.__main__; print([name for name in {heavy} if name in sys.modules])"
        done = subprocess.run([PYTHON, "-c", code], cwd=layout.ROOT, capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"


class TestReport:
    def test_ratios_and_measurements_are_tables(self) -> None:
        ours, theirs = Measured(Case("ours", ())), Measured(Case("theirs", ()), sampled_peak=900 * MIB)
        ours.runs = [one_run(seconds, 100 * MIB) for seconds in (0.5, 0.2, 0.25)]
        theirs.runs = [one_run(3.0, 500 * MIB)]
        ratios = [
            report.Ratio("ours: times as quick as theirs", 12.0, at_least=12),
            report.Ratio("ours: peak memory", 151.0, unit="MiB", at_most=150),
            report.Ratio("ours: of the bound", None, unit="%", at_least=90),
            report.Ratio("ours: noted", 98.76, unit="%"),
        ]
        part = report.Part("A part", ratios, [ours, theirs], {"images/s": {"ours": "4.0"}}, ["A note."])
        assert report.document([part], {"Cores": "2"}, "thrice").splitlines() == [
            "- Cores: 2",
            "- Measured: thrice",
            "",
            "|                                | measured |    wanted | met |",
            "| ------------------------------ | -------: | --------: | --: |",
            "| ours: times as quick as theirs |  12.00 × |    ≥ 12 × | yes |",
            "| ours: peak memory              |  151 MiB | ≤ 150 MiB |  no |",
            "| ours: of the bound             |        – |    ≥ 90 % |   – |",
            "| ours: noted                    |   98.8 % |         – |   – |",
            "",
            "### A part",
            "",
            "|        | seconds, median (least to most) | peak memory, MiB | images/s |",
            "| ------ | ------------------------------: | ---------------: | -------: |",
            "| ours   |             0.25 (0.20 to 0.50) |              100 |      4.0 |",
            "| theirs |             3.00 (3.00 to 3.00) |              900 |        – |",
            "",
            "A note.",
        ]

    def test_the_report_takes_its_place_in_the_page_again_and_again(self, tmp_path: Path) -> None:
        page = tmp_path / "page.md"
        page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", "utf-8")
        for text in ("new", "newer"):
            report.insert(page, text)
        assert page.read_text("utf-8") == f"before\n{report.BEGIN}\n\nnewer\n{report.END}\nafter\n"
        page.write_text("no markers", "utf-8")
        with pytest.raises(ValueError, match="lacks the lines"):
            report.insert(page, "new")

    def test_the_page_in_the_docs_has_the_place(self) -> None:
        text = layout.PAGE.read_text("utf-8")
        assert 0 < text.index(report.BEGIN) < text.index(report.END)


class TestPredictions:
    def test_agreement_and_the_largest_change(self, tmp_path: Path) -> None:
        ours, theirs = tmp_path / "ours.jsonl", tmp_path / "theirs.csv"
        records = [
            {"source": "folder/a.jpg", "predictions": [{"class_index": 1, "probability": 0.9}]},
            {
                "source": "folder/b.jpg",
                "predictions": [{"class_index": 2, "probability": 0.5}, {"class_index": 3, "probability": 0.4}],
            },
            {"source": "folder/c.jpg", "predictions": []},
        ]
        ours.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
        with theirs.open("w", newline="") as file:
            csv.writer(file).writerows([("a.jpg", 1, 0.89), ("b.jpg", 3, 0.45), ("c.jpg", 4, 1), ("d.jpg", 5, 1)])
        mine, others = predictions.read(ours), predictions.read(theirs)
        assert predictions.agreement(mine, others) == 0.25
        assert predictions.largest_change(mine, others) == pytest.approx(0.05)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """With all weights written, and two photographs in a folder."""
    workspace = Workspace(tmp_path_factory.mktemp("benchmarks"), ignore)
    workspace.prepare_weights()
    images = workspace.folder / "images"
    images.mkdir()
    for name in EXAMPLES:
        (images / name).hardlink_to(layout.EXAMPLES / name)
    return workspace


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "tolerance"),
    [
        ("timm_inference", 1e-4),
        ("dataloader", 1e-4),
        ("dataloader_bfloat16", 0.05),
        ("dataloader_resnet50", 1e-4),
        ("hugging_face", 1e-4),
    ],
)
def test_reference_programs_predict_a_folder_as_we_do(
    workspace: Workspace, program: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = ("--checkpoint", str(workspace.folder / layout.EMBEDDED_CHECKPOINT))
    options = {
        "timm_inference": checkpoint,
        "dataloader": checkpoint,
        "dataloader_bfloat16": (*checkpoint, "--dtype", "bfloat16"),
        "dataloader_resnet50": (
            *("--arch", "resnet50", "--checkpoint"),
            *map(str, workspace.folder.glob(gpu.MODELS[1].checkpoint)),
        ),
        "hugging_face": ("--model", str(workspace.folder / layout.HUGGING_FACE_MODEL)),
    }[program]
    if program == "hugging_face":
        pytest.importorskip("transformers")
    written = workspace.predictions(f"{program}.csv")
    images = workspace.folder / "images"
    file = program.removesuffix("_bfloat16").removesuffix("_resnet50")
    command = (*reference(file), str(images), str(written), *options)
    environment = workspace.environment()
    done = run(Case(program, command, environment), workspace.folder)
    assert done.failure is None, done.stderr
    given = predictions.read(written)
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, environment[name])
    classifier = Classifier(layout.RESNET50 if program.endswith("resnet50") else None, device="cpu")
    ours = {
        Path(result.source).name: result.predictions[0] for result in classifier.predict(sorted(images.iterdir()))
    }
    assert {name: [*probabilities] for name, probabilities in given.items()} == {
        name: [prediction.class_index] for name, prediction in ours.items()
    }
    for name, prediction in ours.items():
        assert given[name][prediction.class_index] == pytest.approx(prediction.probability, abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("program", ["tutorial", "timm_quickstart", "hugging_face"])
def test_reference_programs_predict_an_image_as_we_do(
    workspace: Workspace, program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {
        "tutorial": (),
        "timm_quickstart": ("--checkpoint", str(workspace.folder / layout.EMBEDDED_CHECKPOINT)),
        "hugging_face": ("--model", str(workspace.folder / layout.HUGGING_FACE_MODEL)),
    }[program]
    if program == "hugging_face":
        pytest.importorskip("transformers")
    image = layout.EXAMPLES / "coffee.jpg"
    environment = workspace.environment()
    done = run(Case(program, (*reference(program), str(image), *options), environment), workspace.folder)
    assert done.failure is None, done.stderr
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, environment[name])
    ours = Classifier(layout.RESNET50 if program == "tutorial" else None).predict(image).predictions
    assert [int(row[0]) for row in rows] == [prediction.class_index for prediction in ours]
    assert [float(row[1]) for row in rows] == pytest.approx(
        [prediction.probability for prediction in ours], abs=1e-4
    )


def test_what_a_shell_holds_does_not_reach_the_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGCLASSIFY_MODEL", "resnet18")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    environment = Workspace(tmp_path, ignore).environment()
    assert {"IMGCLASSIFY_MODEL", "PYTHONDONTWRITEBYTECODE"} & set(environment) == set()
    assert environment["PATH"] == os.environ["PATH"]
    assert environment["HF_HUB_OFFLINE"] == "1"


class TestDuplicates:
    def test_pairs_of_a_group_are_counted(self) -> None:
        originals = {f"{number:05}-{version}.jpg": number for number in range(2) for version in range(3)}
        groups = [["00000-0.jpg", "00000-1.jpg", "00001-2.jpg"], ["00001-0.jpg", "00001-1.jpg"]]
        precision, recall, shares = duplicates.score(groups, originals)
        assert (precision, recall) == (2 / 4, 2 / 6)
        assert shares == {1: 1.0, 2: 0.0}

    def test_photographs_that_show_the_same_are_no_mistake(self) -> None:
        originals = {"00000-0.jpg": 0, "00001-0.jpg": 0}
        assert duplicates.score([["00000-0.jpg", "00001-0.jpg"]], originals)[:2] == (1, 1)

    def test_a_cosine_that_tells_all_apart_has_full_recall(self) -> None:
        vectors = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2]]
        assert duplicates.cosine_recall(vectors, np.array([0, 0, 1, 1, 2])) == 1
        assert duplicates.cosine_recall(vectors, np.array([0, 1, 0, 1, 2])) == 0

    @pytest.mark.parametrize("changes", duplicates.CHANGES)
    def test_versions_are_made_by_seed(self, changes: str, tmp_path: Path) -> None:
        photographs = [layout.EXAMPLES / name for name in EXAMPLES]
        made = []
        for name, seed in (("one", 0), ("again", 0), ("other", 1)):
            (tmp_path / name).mkdir()
            duplicates.make_versions(photographs, tmp_path / name, changes, seed)
            made.append([path.read_bytes() for path in sorted((tmp_path / name).iterdir())])
        assert len(made[0]) == 2 * (1 + len(duplicates.CHANGES[changes]))
        assert made[0] == made[1]
        assert made[0] != made[2]
        assert len(set(made[0])) == len(made[0])


@pytest.mark.needs_torch
class TestFeatures:
    def test_a_small_network_is_compared(self) -> None:
        row = features.compare("squeezenet1_1")
        assert row is not None
        assert (row["features"], row["map"], row["head_difference"]) == (512, [512, 13, 13], None)
        assert row["features_difference"] < 1e-5
        assert row["map_difference"] < 1e-5
        assert "| squeezenet1_1" in features.document(
            {"squeezenet1_1": row, "other": row | {"head_difference": 1e-7}}
        )

    def test_a_quantized_network_has_nothing_to_compare(self) -> None:
        assert features.compare("quantized_resnet18") is None


class TestGpu:
    def test_predictions_are_compared_with_those_of_the_cpu(self, tmp_path: Path) -> None:
        measured = []
        for name, first, probability in (("CPU, float32", 1, 0.5), ("CUDA, float16", 1, 0.25), ("loop", 2, 0.5)):
            case = Case(name, (), predictions=tmp_path / f"{name}.csv")
            assert case.predictions is not None
            with case.predictions.open("w", newline="") as file:
                csv.writer(file).writerows([("a.jpg", first, probability), ("b.jpg", 3, 0.5)])
            measured.append(Measured(case, runs=[one_run(4.0 if name == "CPU, float32" else 2.0)]))
        measured.append(Measured(Case("missing", (), predictions=tmp_path / "none.csv"), failure="no GPU"))
        found = gpu.rows(measured, {"CUDA, float16": 900.0})
        assert [tuple(row) for row in found] == [
            ("CPU, float32", 4.0, 2, 0.0, None),
            ("CUDA, float16", 2.0, 2, 0.25, 900.0),
            ("loop", 2.0, 1, 0.0, None),
            ("missing", None, 0, 0.0, None),
        ]
        start = gpu.Start(0.4, 4.25, {"importing torch": 2.0, "starting CUDA": 1.5})
        decoding = {"photographs": {"exact": 1000.4, "gpu": 1999.6}}
        lines = gpu.document({"small": found}, 2, decoding, start, {"GPU": "one"}).splitlines()
        assert lines[:3] == ["- GPU: one", "", "2 photographs, small:"]
        assert [re.sub(" +", " ", line) for line in lines[6:10]] == [
            "| CPU, float32 | 4.0 | 0 | 1.00 | 2 of 2 | 0e+00 | – |",
            "| CUDA, float16 | 2.0 | 1 | 2.00 | 2 of 2 | 2e-01 | 900 |",
            "| loop | 2.0 | 1 | 2.00 | 1 of 2 | 0e+00 | – |",
            "| missing | failed | – | – | – | – | – |",
        ]
        assert [re.sub(" +", " ", line) for line in lines[13:16:2]] == [
            "| | exact | gpu |",
            "| photographs | 1000 | 2000 |",
        ]
        assert lines[-1] == (
            "One photograph with small takes 0.4 s on the CPU and 4.2 s on the GPU: importing torch 2.0 s, "
            "starting CUDA 1.5 s."
        )

    def test_decoding_alone_is_measured_in_each_mode(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(gpu, "_SECONDS", 0.1)
        folder = Workspace(tmp_path, ignore).photographs(2, layout.EXAMPLES)
        for mode in ("exact", "fast"):
            for kind in ("threads", "processes"):
                assert gpu.measure_decoding(folder, mode, kind, "cpu") > 0

    @pytest.mark.needs_torch
    def test_a_network_alone_is_measured_from_its_first_batch_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpu, "_SECONDS", 0.1)
        rates, steps = gpu.measure_network("efficientnet_lite0", "cpu", ["float32"], {})
        assert (list(rates), list(steps)) == (["float32"], ["building the network", "the first batch"])
        assert rates["float32"] > 0
        assert min(steps.values()) > 0

    @pytest.mark.needs_torch
    def test_a_machine_without_a_gpu_is_told_in_a_sentence(self) -> None:
        hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        command = [PYTHON, "-m", "benchmarks.gpu"]
        done = subprocess.run(command, cwd=layout.ROOT, env=hidden, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "benchmarks.gpu needs a CUDA GPU that torch can use, and this machine has none\n"
