"""The catalog against torchvision's own registry, and the strictness of its parser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import timm
from torchvision import models
from torchvision.models import get_model_weights, list_models

from imgclassify import catalog
from imgclassify.catalog.writing import format_manifest
from imgclassify.errors import ManifestError, UnknownModelError, WeightsError

MANIFEST = """
[[models]]
name = "mine"
weights = "V1"
default = true
architecture = "resnet18"
provider = "torchvision"
url = "https://example.org/mine-0123abcd.pth"
sha256 = "0123abcd"
num_classes = 10
label_set = "digits"
preprocess = { resize_size = 256, crop_size = [224, 192], interpolation = "bicubic", antialias = true, \
mean = [0.5, 0.5, 0.5], std = [0.2, 0.2, 0.2] }
"""

WITHOUT_WEIGHTS = ["cifar_net", *(f"cifar_resnet{layers}" for layers in (20, 32, 44, 56))]
ENTRIES = [
    pytest.param(name, weights, id=f"{name}@{weights.name}")
    for module in (models, models.quantization)
    for name in list_models(module=module)
    for weights in get_model_weights(name)
    if weights.meta["categories"] is not None
]


@pytest.fixture(scope="module")
def by_reference() -> dict[str, catalog.ModelManifest]:
    return {manifest.reference: manifest for manifest in catalog.load_manifests()}


def test_every_torchvision_classifier_is_catalogued_and_nothing_else(
    by_reference: dict[str, catalog.ModelManifest],
) -> None:
    theirs = {entry.id for entry in ENTRIES}
    ours = {reference for reference, manifest in by_reference.items() if manifest.provider == "torchvision"}
    assert ours == theirs
    assert len(theirs) == 128
    assert set(by_reference) - ours == {"efficientnet_lite0@IMAGENET1K", *WITHOUT_WEIGHTS}


@pytest.mark.parametrize(("name", "weights"), ENTRIES)
def test_entry_says_what_torchvision_says(
    name: str, weights: object, by_reference: dict[str, catalog.ModelManifest]
) -> None:
    manifest = by_reference[f"{name}@{weights.name}"]
    preset, meta = weights.transforms(), weights.meta
    assert manifest.url == weights.url
    assert re.search(rf"[-_]{manifest.sha256}\.pth$", weights.url)
    assert manifest.default == (weights is get_model_weights(name).DEFAULT)
    assert manifest.num_classes == len(meta["categories"])
    spec = manifest.preprocess
    assert [spec.resize_size] == preset.resize_size
    assert list(spec.crop_size) == preset.crop_size * 2
    assert spec.interpolation == preset.interpolation.value
    assert spec.antialias is preset.antialias
    assert list(spec.mean) == preset.mean
    assert list(spec.std) == preset.std
    assert spec.crop_mode == "center"
    told = manifest.metadata
    assert told is not None
    assert (told.num_params, told.gflops, told.file_size_mib) == (
        meta["num_params"],
        meta["_ops"],
        meta["_file_size"],
    )
    accuracy = meta["_metrics"]["ImageNet-1K"]
    assert (told.acc1, told.acc5) == (accuracy["acc@1"], accuracy["acc@5"])
    assert told.min_size == tuple(meta["min_size"])
    assert told.license == meta.get("license", "")
    assert told.recipe == (meta["recipe"] or "")


def test_embedded_default_is_timms_preprocessing() -> None:
    manifest = catalog.find_model(catalog.EMBEDDED_MODEL)
    theirs = timm.get_pretrained_cfg("tf_efficientnet_lite0")
    spec = manifest.preprocess
    assert (3, *spec.crop_size) == theirs.input_size
    assert spec.resize_size == int(spec.crop_size[0] / theirs.crop_pct)
    assert (spec.interpolation, spec.mean, spec.std) == (theirs.interpolation, theirs.mean, theirs.std)
    assert len(manifest.sha256) == 64


def test_default_weights_are_not_always_the_first() -> None:
    assert catalog.find_model("resnet50").weights == "IMAGENET1K_V2"
    assert catalog.find_model("resnet50", "IMAGENET1K_V1").weights == "IMAGENET1K_V1"


def test_swag_entries_state_their_licence(by_reference: dict[str, catalog.ModelManifest]) -> None:
    swag = [manifest for reference, manifest in by_reference.items() if "SWAG" in reference]
    assert len(swag) == 12
    assert all(manifest.metadata and "SWAG" in manifest.metadata.license for manifest in swag)


def test_unknown_names_list_the_nearest() -> None:
    with pytest.raises(UnknownModelError, match="'resnet51'") as name_error:
        catalog.find_model("resnet51")
    assert "resnet50" in str(name_error.value.hint)
    with pytest.raises(UnknownModelError, match="IMAGENET1K_V3") as weights_error:
        catalog.find_model("resnet50", "IMAGENET1K_V3")
    assert "resnet50@IMAGENET1K_V2" in str(weights_error.value.hint)


def test_select_takes_text_and_globs() -> None:
    everything = catalog.load_manifests()
    assert {manifest.name for manifest in catalog.filter_models(everything, "ViT_B")} == {"vit_b_16", "vit_b_32"}
    assert {manifest.name for manifest in catalog.filter_models(everything, "resnet1?")} == {"resnet18"}
    assert [manifest.reference for manifest in catalog.filter_models(everything, "resnet50@*V1")] == [
        "resnet50@IMAGENET1K_V1"
    ]
    assert catalog.filter_models(everything, "no such thing") == []


def test_sort_keys_put_the_best_first_and_models_without_metadata_last() -> None:
    [mine] = catalog.parse_manifests(MANIFEST, "mine.toml")
    everything = [mine, *catalog.load_manifests()]
    best = sorted(everything, key=catalog.SORT_KEYS["acc1"])
    smallest = sorted(everything, key=catalog.SORT_KEYS["params"])
    assert best[0].metadata
    assert best[0].metadata.acc1 == max(m.metadata.acc1 for m in everything if m.metadata)
    assert smallest[0].metadata
    assert smallest[0].metadata.num_params == min(m.metadata.num_params for m in everything if m.metadata)
    unknown = sorted([mine.reference, *WITHOUT_WEIGHTS])
    assert sorted(m.reference for m in best[-6:]) == sorted(m.reference for m in smallest[-6:]) == unknown


def own_folder() -> Path:
    folder = catalog.user_models_folder()
    folder.mkdir(parents=True)
    return folder


def test_users_own_folder_adds_models() -> None:
    (own_folder() / "mine.toml").write_text(MANIFEST)
    mine = catalog.find_model("mine")
    assert mine.preprocess.crop_size == (224, 192)
    assert mine.metadata is None
    assert mine in catalog.load_manifests()


def test_two_files_defining_the_same_model_are_both_named() -> None:
    folder = own_folder()
    (folder / "a.toml").write_text(MANIFEST)
    (folder / "b.toml").write_text(MANIFEST)
    with pytest.raises(ManifestError, match=r"b\.toml.*a\.toml.*mine@V1"):
        catalog.load_manifests()


def test_two_defaults_of_one_model_are_refused() -> None:
    folder = own_folder()
    (folder / "a.toml").write_text(MANIFEST)
    (folder / "b.toml").write_text(MANIFEST.replace('"V1"', '"V2"'))
    with pytest.raises(ManifestError, match="default weights"):
        catalog.find_model("mine")


def test_hidden_files_are_passed_over_and_a_byte_order_mark_is_no_fault() -> None:
    folder = own_folder()
    (folder / ".#mine.toml").symlink_to("somebody@somewhere.1")
    (folder / "._mine.toml").write_bytes(b"\x00\x05\x16\x07")
    (folder / "mine.toml").write_text(MANIFEST, "utf-8-sig")
    assert catalog.find_model("mine").num_classes == 10
    assert len(catalog.load_manifests()) == 135


def test_unreadable_file_is_named() -> None:
    (own_folder() / "latin.toml").write_bytes(b"# caf\xe9\n")
    with pytest.raises(ManifestError, match=r"latin\.toml"):
        catalog.load_manifests()


KEYS = ["name", "weights", "default", "architecture", "provider", "url", "sha256", "num_classes", "label_set"]


@pytest.mark.parametrize("key", [*KEYS, "preprocess"])
def test_missing_key_is_named_with_its_file(key: str) -> None:
    text = re.sub(rf"(?m)^{key} = .*\n", "", MANIFEST)
    with pytest.raises(ManifestError, match=rf"mine\.toml: missing key models\[0\]\.{key}$"):
        catalog.parse_manifests(text, "mine.toml")


@pytest.mark.parametrize("key", ["resize_size", "crop_size", "interpolation", "antialias", "mean", "std"])
def test_missing_preprocessing_key_is_named(key: str) -> None:
    text = re.sub(rf"{key} = (\[[^]]*\]|[^,}}]+),? ?", "", MANIFEST).replace(", }", " }")
    with pytest.raises(ManifestError, match=rf"missing key models\[0\]\.preprocess\.{key}$"):
        catalog.parse_manifests(text, "mine.toml")


TABLE = '{ temperature = 0.8, ece_before = 0.05, ece_after = 0.02, source = "a paper" }'


def test_a_manifest_may_have_a_temperature() -> None:
    text = MANIFEST.replace("default = true", f"default = true\ncalibration = {TABLE}")
    [manifest] = catalog.parse_manifests(text, "mine.toml")
    assert manifest.calibration == catalog.PublishedTemperature(0.8, 0.05, 0.02, "a paper")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("\n[[models]]", "colour = 1\n[[models]]", "unknown key colour"),
        ('label_set = "digits"', 'label_set = "digits"\nlable = 1', r"unknown key models\[0\]\.lable"),
        ("antialias = true", "antialias = true, gamma = 2", r"unknown key models\[0\]\.preprocess\.gamma"),
        ("num_classes = 10", "num_classes = true", r"models\[0\]\.num_classes must be a whole number"),
        ("num_classes = 10", "num_classes = 0", r"num_classes must be above zero"),
        ("default = true", 'default = "yes"', r"default must be true or false"),
        ('"torchvision"', '"keras"', r"provider must be one of torchvision, timm"),
        ("https://", "ftp://", r"url must be an http, https, file or package: URL"),
        ('"https://example.org/mine-0123abcd.pth"', '""', r"url must be an http.* unless weights is empty"),
        ('weights = "V1"', 'weights = "V 1"', r"weights must be ASCII letters"),
        ('weights = "V1"', 'weights = ""', r"url must be empty or left out, because weights is empty"),
        ('"0123abcd"', '"0123"', r"sha256 must be 8 to 64"),
        ('"bicubic"', '"cubic"', r"interpolation must be one of"),
        ("[224, 192]", "[224, 0]", r"crop_size must be"),
        ("resize_size = 256", "resize_size = -1", r"resize_size must be"),
        ("mean = [0.5, 0.5, 0.5]", "mean = [0.5, 0.5]", r"mean must be three numbers"),
        ("std = [0.2, 0.2, 0.2]", "std = [0.2, 0.0, 0.2]", r"std must be three numbers above zero"),
        ('name = "mine"', 'name = "my model"', r"name must be ASCII letters"),
        ("default = true", "default = true\nrename = [['(', '']]", r"rename must be made of valid regular"),
        ("default = true", "default = true\nrename = [['a']]", r"rename must be an array of"),
        ("default = true", "default = true\nrename = [['a', '\\2']]", r"rename must be made of valid regular"),
        ("mine-0123abcd.pth", "mine\\u0000.pth", r"url must be"),
        ('name = "mine"', 'name = "vögel"', r"name must be ASCII"),
        ("default = true", "default = true\nmetadata = {}", r"missing key models\[0\]\.metadata\.num_params"),
        (
            "default = true",
            f"default = true\ncalibration = {TABLE.replace('0.8', '0')}",
            r"temperature must be a number, 0\.01\.\.100",
        ),
        (
            "default = true",
            f"default = true\ncalibration = {TABLE.replace('0.8', '1e-50')}",  # zero in float32
            r"temperature must be a number, 0\.01\.\.100",
        ),
        (
            "default = true",
            f"default = true\ncalibration = {TABLE.replace('0.02', '2')}",
            r"ece_after must be a share",
        ),
        (
            "default = true",
            "default = true\ncalibration = {}",
            r"missing key models\[0\]\.calibration\.temperature",
        ),
        ("[[models]]", "[models]", r"models must be an array"),
        ("default = true", "default = ", r"not TOML"),
    ],
)
def test_wrong_manifest_is_refused_with_file_and_key(old: str, new: str, complaint: str) -> None:
    assert old in MANIFEST
    with pytest.raises(ManifestError, match=rf"^mine\.toml: .*{complaint}"):
        catalog.parse_manifests(MANIFEST.replace(old, new), "mine.toml")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            "num_classes = 10",
            f"num_classes = 0x{'f' * 40}",
            r"models\[0\]\.num_classes must be a 64-bit integer",
        ),
        ("num_classes = 10", f"num_classes = {'9' * 5000}", "not TOML"),
        ("resize_size = 256", "resize_size = 8193", "resize_size must be the short side in pixels up to 8192"),
        ("crop_size = [224, 192]", "crop_size = [224, 1000000]", "crop_size must be a number of pixels up to 8192"),
        ("mean = [0.5, 0.5, 0.5]", f"mean = [0.5, 0.5, 1{'0' * 400}]", "mean must be three numbers"),
        ("mean = [0.5, 0.5, 0.5]", "mean = [0.5, 0.5, nan]", "mean must be three numbers"),
        ('label_set = "digits"', f"label_set = {'[' * 5000}", "nested too deep"),
        ('label_set = "digits"', f"label_set{'.a' * 100_000} = 1", "nested too deep"),
        (
            'label_set = "digits"',
            f'label_set = "digits"\nrename = [["{"(" * 5000}", ""]]',
            "rename must be made of valid",
        ),
        (
            'label_set = "digits"',
            'label_set = "digits"\nrename = [["a{99999999999}", ""]]',
            "rename must be made of valid",
        ),
        (
            'label_set = "digits"',
            'label_set = "digits"\nrename = [["a", "\\\\g<9>"]]',
            "rename must be made of valid",
        ),
        ("[[models]]", "\x00[[models]]", "not TOML"),
    ],
    ids=lambda text: text[:40],
)
def test_a_manifest_beyond_all_measure_is_refused_in_words(old: str, new: str, complaint: str) -> None:
    assert old in MANIFEST
    with pytest.raises(ManifestError, match=complaint) as error:
        catalog.parse_manifests(MANIFEST.replace(old, new), "mine.toml")
    assert str(error.value).startswith("mine.toml: ")
    assert len(str(error.value)) < 500


def test_every_shipped_manifest_is_written_as_it_is_read(by_reference: dict[str, catalog.ModelManifest]) -> None:
    for manifest in by_reference.values():
        [read] = catalog.parse_manifests(format_manifest(manifest), manifest.origin)
        assert read == manifest


ARCHITECTURE = re.sub("(?m)^(weights|url|sha256) = .*$", r'\1 = ""', MANIFEST)
"""An architecture without weights."""


def test_an_architecture_may_have_no_weights() -> None:
    [manifest] = catalog.parse_manifests(ARCHITECTURE, "mine.toml")
    assert (manifest.reference, manifest.has_weights) == ("mine", False)
    assert catalog.parse_manifests(format_manifest(manifest), "mine.toml") == [manifest]
    with pytest.raises(WeightsError, match="mine is an architecture without weights") as error:
        catalog.require_weights(manifest)
    assert "-m FILE --arch mine" in str(error.value.hint)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('sha256 = ""', 'sha256 = "0123abcd"', "sha256 must be empty"),
        ('url = ""', 'file = "mine.pth"', "file must be empty or left out"),
        ("default = true", "default = false", "default must be true, because weights is empty"),
        ("default = true", f"default = true\ncalibration = {TABLE}", "calibration must be empty or left out"),
        ("default = true", 'default = true\ncheckpoint_key = "ema"', "checkpoint_key must be empty"),
        ('"torchvision"', '"onnx"', "weights must be the version of the program"),
        ('url = ""\n', "", r"missing key models\[0\]\.url"),
    ],
)
def test_an_architecture_without_weights_has_nothing_that_only_weights_have(
    old: str, new: str, complaint: str
) -> None:
    assert old in ARCHITECTURE
    with pytest.raises(ManifestError, match=rf"^mine\.toml: .*{complaint}"):
        catalog.parse_manifests(ARCHITECTURE.replace(old, new), "mine.toml")


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_an_architecture_without_weights_is_found_by_its_name_alone(name: str) -> None:
    assert not catalog.find_model(name).has_weights
    with pytest.raises(UnknownModelError, match=f"{name} is an architecture without weights, so it has no 'V1'"):
        catalog.find_model(name, "V1")


def test_an_architecture_and_a_model_cannot_share_a_name() -> None:
    folder = own_folder()
    (folder / "a.toml").write_text(MANIFEST)
    (folder / "b.toml").write_text(ARCHITECTURE)
    with pytest.raises(ManifestError, match="both define default weights for 'mine'"):
        catalog.find_model("mine")


ODD = "a\"b'c\\d\n\t\x7f\x1b é 🐦"


@pytest.mark.parametrize(
    "changes",
    [
        {"options": {ODD: ODD, "nested": {"parts": [1, [2.5, "three", True]], "empty": {}}}},
        {"rename": ((r"(\.a')\n\x1b", "\\1\"é'\x7f"), ("b", r"\\1"))},
        {"label_set": ODD, "gflops": 1.5, "sha256": ""},
        {"file": f"/data/{ODD}", "url": Path(f"/data/{ODD}").as_uri(), "provider": "onnx"},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_a_manifest_of_any_text_is_written_as_it_is_read(changes: dict[str, object]) -> None:
    [manifest] = catalog.parse_manifests(MANIFEST, "/own/mine.toml")
    changed = replace(manifest, **changes)
    assert catalog.parse_manifests(format_manifest(changed), "/own/mine.toml") == [changed]


def test_a_relative_file_starts_at_the_manifests_folder() -> None:
    text = re.sub("(?m)^url = .*$", 'file = "sub/my weights.pth"', MANIFEST)
    [manifest] = catalog.parse_manifests(text, "/own/mine.toml")
    assert manifest.file == "/own/sub/my weights.pth"
    assert manifest.url == "file:///own/sub/my%20weights.pth"


@pytest.mark.parametrize(("line", "wanted"), [('""', "the path of a file"), ("1", "a string")])
def test_a_wrong_file_is_refused(line: str, wanted: str) -> None:
    text = re.sub("(?m)^url = .*$", f"file = {line}", MANIFEST)
    with pytest.raises(ManifestError, match=rf"file must be {wanted}"):
        catalog.parse_manifests(text, "mine.toml")


def test_a_manifest_has_either_a_file_or_a_url() -> None:
    with pytest.raises(ManifestError, match="file must be the only one of file and url"):
        catalog.parse_manifests(MANIFEST + 'file = "/data/mine.pth"\n', "mine.toml")


def test_a_pattern_that_python_warns_of_is_no_fault() -> None:
    """Warnings are errors in these tests."""
    [manifest] = catalog.parse_manifests(MANIFEST + 'rename = [["[[a]", ""]]\n', "mine.toml")
    assert manifest.rename == (("[[a]", ""),)


@pytest.mark.parametrize("place", ["/dev/zero", "pipe", "folder", "nowhere"])
def test_what_is_no_file_is_no_manifest(place: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    catalog.user_models_folder().mkdir(parents=True)
    (catalog.user_models_folder() / "odd.toml").symlink_to(tmp_path / place)
    with pytest.raises(ManifestError, match=r"odd\.toml: it is not a file"):
        catalog.load_manifests()


def test_a_manifest_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    catalog.user_models_folder().mkdir(parents=True)
    with (catalog.user_models_folder() / "large.toml").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(ManifestError, match=r"large\.toml: it has more than 1,048,576 bytes"):
        catalog.load_manifests()


def test_regenerating_the_catalog_changes_nothing() -> None:
    tool = Path(__file__).parent.parent / "tools" / "make_models.py"
    done = subprocess.run([sys.executable, tool, "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_published_temperatures_are_catalogued_if_they_help(by_reference: dict[str, catalog.ModelManifest]) -> None:
    lines = (Path(__file__).parent.parent / "tools" / "temperatures.tsv").read_text("utf-8").splitlines()[1:]
    published = {}
    for name, weights, acc1, temperature, before, after in (line.split("\t") for line in lines):
        manifest = by_reference[f"{name}@{weights}"]
        assert manifest.metadata
        assert abs(manifest.metadata.acc1 - float(acc1)) < 0.5  # it is the same network
        if float(after) < float(before):
            published[manifest.reference] = [float(temperature), float(before), float(after)]
    catalogued = {
        reference: [manifest.calibration.temperature, *(100 * ece for ece in manifest.calibration[1:3])]
        for reference, manifest in by_reference.items()
        if manifest.calibration
    }
    assert len(published) == 40
    assert catalogued == {reference: pytest.approx(figures) for reference, figures in published.items()}
