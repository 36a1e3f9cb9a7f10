"""Model references: what kind a text is, and its value."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclassify.errors import UnknownModelError
from imgclassify.hub.reference import KINDS, ModelReference, ReferenceLoader, reference_forms
from imgclassify.hub.reference_hints import suggest_reference


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("resnet50", "catalogued", "resnet50"),
        ("resnet50@IMAGENET1K_V1", "catalogued", "resnet50@IMAGENET1K_V1"),
        ("torchvision:resnet50", "catalogued", "resnet50"),
        ("torchvision", "catalogued", "torchvision"),
        ("", "catalogued", ""),
        ("timm:resnet18.a1_in1k", "timm", "resnet18.a1_in1k"),
        ("timm:a/b.pth", "timm", "a/b.pth"),
        ("timm:hub:x", "timm", "hub:x"),
        ("hub:owner/repo:main/entry", "torch.hub", "owner/repo:main/entry"),
        ("hub:./folder/entry", "torch.hub", "./folder/entry"),
        ("mine.pth", "file", "mine.pth"),
        ("MINE.ONNX", "file", "MINE.ONNX"),
        ("./mine", "file", "./mine"),
        ("models/timm", "file", "models/timm"),
        ("weights\\mine", "file", "weights\\mine"),
        ("C:\\weights\\mine.pt", "file", "C:\\weights\\mine.pt"),
        ("./timm:x", "file", "./timm:x"),
        ("2024-01-01T12:00.pth", "file", "2024-01-01T12:00.pth"),
    ],
)
def test_a_text_is_of_one_kind(text: str, kind: str, value: str) -> None:
    reference = ModelReference.parse(text)
    assert (reference.text, reference.kind.name, reference.value) == (text, kind, value)


@pytest.mark.parametrize("name", ["weights.model", "best", "a:b", "resnet", "efficientnet_lite", "mine@V1"])
def test_an_existing_file_is_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    reference = ModelReference.parse(name)
    assert (reference.kind.name, reference.value) == ("file", name)


@pytest.mark.parametrize("name", ["resnet50", "resnet50@IMAGENET1K_V1", "efficientnet_lite0"])
def test_a_catalogued_name_is_not_that_of_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).touch()
    assert ModelReference.parse(name).kind.name == "catalogued"
    assert ModelReference.parse(f"./{name}").kind.name == "file"


def test_a_folder_without_a_slash_is_a_model_if_it_has_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "best").mkdir()
    assert ModelReference.parse("best").kind.name == "catalogued"
    (tmp_path / "best" / "config.json").touch()
    assert ModelReference.parse("best").kind.name == "folder"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("google/vit-base-patch16-224", "hf:google/vit-base-patch16-224"),
        ("google/vit-base@main", "hf:google/vit-base"),
        ("timm/resnet18.a1_in1k", "timm:resnet18.a1_in1k"),
        ("hf-hub:timm/resnet18.a1_in1k", "timm:resnet18.a1_in1k"),
        ("hf_hub:google/vit", "hf:google/vit"),
        ("https://huggingface.co/google/vit-base", "hf:google/vit-base"),
        ("http://www.huggingface.co/google/vit-base/tree/main", "hf:google/vit-base"),
        ("huggingface.co/timm/resnet18.a1_in1k", "timm:resnet18.a1_in1k"),
        ("https://hf.co/google/vit/resolve/main/model.safetensors", "hf:google/vit, or fetch the file"),
        ("https://github.com/owner/repo.git", "hub:owner/repo/ENTRYPOINT"),
        ("https://example.org/{x}.onnx", "fetch the file"),
        ("torchvision/resnet50", "write resnet50"),
        ("file:///data/w.pth", "write /data/w.pth"),
        ("s3://bucket/w.pth", "fetch the file"),
    ],
)
def test_what_other_tools_write_is_told_how_it_is_written_here(text: str, hint: str) -> None:
    assert hint in suggest_reference(text)


def test_a_path_with_a_file_extension_is_no_repository() -> None:
    assert suggest_reference("models/mine.pth") == "check the path"
    assert suggest_reference("w.pth") == "check the path"
    assert "have no suffix: resnet50, " in suggest_reference("models/resnet50.pth")
    assert suggest_reference("models/cifar_net.pth") == "check the path"  # without weights, it is no model


@given(st.text())
def test_any_text_has_a_hint(text: str) -> None:
    assert suggest_reference(text)


@pytest.mark.parametrize("text", ["zoo:resnet50", "https:x", "TIMM:resnet18", ":x"])
def test_an_unknown_scheme_lists_the_kinds(text: str) -> None:
    with pytest.raises(UnknownModelError, match="unknown kind") as caught:
        ModelReference.parse(text)
    assert all(form in str(caught.value.hint) for form in reference_forms())


@given(st.text())
def test_every_text_is_a_reference_or_refused_by_name(text: str) -> None:
    try:
        reference = ModelReference.parse(text)
    except UnknownModelError as error:
        assert repr(text) in str(error)  # noqa: PT017 - any of the two outcomes is right
    else:
        assert text.endswith(reference.value)
        assert reference.kind in KINDS


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_each_kind_is_registered_whole(kind) -> None:  # type: ignore[no-untyped-def]
    loader = ModelReference("x", kind, "x").loader()
    assert isinstance(loader, ReferenceLoader)
    assert type(loader).load_network is not ReferenceLoader.load_network
    assert kind.forms
    schemes = [other.scheme for other in KINDS if other.scheme]
    assert len(set(schemes)) == len(schemes)
