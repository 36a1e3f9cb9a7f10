"""Images that are only in memory, kept in a temporary file."""

from __future__ import annotations

import io
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest
from conftest import encoded, noise

from imgclassify.errors import ImageTooLargeError
from imgclassify.sources import Selection, Source, expand
from imgclassify.training.spool import Spool


def test_members_of_a_tar_can_be_opened_again_and_from_several_threads(tmp_path: Path) -> None:
    contents = {f"c/{index}.png": encoded(noise(20, 10, index), "PNG") for index in range(8)}
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    (tmp_path / "b.png").write_bytes(b"a file")
    names = [str(tmp_path / "a.tar"), str(tmp_path / "b.png")]
    found = list(expand(names, selection=Selection()))
    assert [source.in_memory for source in found] == [True] * 8 + [False]
    kept = list(Spool().keep(expand(names, selection=Selection())))
    assert [source.name for source in kept] == [source.name for source in found]
    assert not any(source.in_memory for source in kept)

    def read(index: int) -> bytes:
        with kept[index % 9].open() as stream:
            return stream.read()

    with ThreadPoolExecutor(4) as executor:
        read_back = list(executor.map(read, range(90)))
    assert read_back == [*contents.values(), b"a file"] * 10


def test_a_member_that_cannot_be_read_keeps_its_error() -> None:
    def refuse() -> BinaryIO:
        raise ImageTooLargeError("it is larger than 256 MiB")

    (kept,) = Spool().keep([Source("a.tar!large.png", refuse, in_memory=True)])
    with pytest.raises(ImageTooLargeError, match="larger"):
        kept.open()
