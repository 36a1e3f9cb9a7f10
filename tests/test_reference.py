"""Model references: what kind a text is, and its value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgclassify.errors import UnknownModelError
from imgclassify.hub.reference import KINDS, ModelReference, ReferenceLoader, reference_forms


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
