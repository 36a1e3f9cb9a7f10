"""Reads the vectors that the command `embed` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify.embedding import EMBEDDINGS
from imgclassify.errors import ImgclassifyError, UsageError, describe_error
from imgclassify.output.file_formats import open_file_format
from imgclassify.output.formats import format_of_path
from imgclassify.similarity.neighbours import unit_vectors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imgclassify.output.provenance import Provenance
    from imgclassify.results import RunInfo

__all__ = ["VectorFile", "read_vectors"]


class VectorFile(NamedTuple):
    """The vectors of a file, without the images that failed."""

    path: Path
    provenance: Provenance
    """The run that wrote the file."""
    sources: list[str]
    vectors: NDArray[np.float32]
    """(N, D), each with a Euclidean norm of 1."""

    def require_model(self, run: RunInfo) -> None:
        """Checks that a run computes the same vectors.

        Raises:
            UsageError: it has another model, other weights or another preprocessing.
        """
        from imgclassify.output.provenance import Provenance

        now = Provenance.from_run(run, self.provenance.settings)
        if differences := self.provenance.differences(now, EMBEDDINGS):
            raise UsageError(
                f"the vectors in {str(self.path)!r} cannot be compared: {'; '.join(differences)}",
                hint="use the model and settings that they were made with, or run `imgclassify embed` again",
            )


def read_vectors(path: Path) -> VectorFile:
    """Reads a file of `embed`: .parquet, .npz or .jsonl with its sidecar.

    Raises:
        UsageError: the file cannot be read, is damaged, or holds no vectors.
    """
    import numpy as np

    file_format = open_file_format(format_of_path(path, EMBEDDINGS), EMBEDDINGS)
    sources: list[str] = []
    rows: list[NDArray[Any]] = []
    try:
        provenance, records = file_format.load(path)
        for record in records:
            if record.embedding is not None:
                sources.append(record.source)
                rows.append(record.embedding)
        vectors = unit_vectors(np.stack(rows)) if rows else None
    except ImgclassifyError:
        raise
    except Exception as error:  # the formats' readers raise almost anything for damaged bytes
        raise UsageError(
            f"cannot read vectors from {str(path)!r}: {describe_error(error)}",
            hint="give a .parquet, .npz or .jsonl file that `imgclassify embed` wrote",
        ) from error
    if vectors is None:
        raise UsageError(f"there are no vectors in {str(path)!r}", hint="every image in it has failed")
    return VectorFile(path, provenance, sources, vectors)
