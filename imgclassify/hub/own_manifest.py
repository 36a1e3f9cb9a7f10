"""Reads and writes imgclassify.toml, the manifest of a model folder that imgclassify has written.

It has one model, as a manifest of the catalog has it. Beside it, it has the digests of the other files that answers
depend on, and the network that the training began with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from imgclassify._version import __version__
from imgclassify.catalog import PROVIDERS, ModelManifest
from imgclassify.catalog.parsing import TomlTable, parse_toml, take_models
from imgclassify.catalog.writing import format_lines, format_model
from imgclassify.errors import ManifestError
from imgclassify.hub.model_files import CALIBRATION, CONFIG, LABELS, WEIGHTS

SCHEMA = "imgclassify.model/1"
"""Identifies the structure of the file. A breaking change increases the number."""
TRANSFORMERS = "transformers"
"""The provider of networks that config.json describes."""

_HEADER = "# Written by `imgclassify train`. docs/models.md describes each key.\n"
_DIGEST = "[0-9a-f]{64}"


class Start(NamedTuple):
    """The network that a training began with."""

    model: str
    """Its name in results. Empty if there was none: the weights were random."""
    weights: str
    sha256: str
    """Empty if it is not known."""
    license: str
    """As Network.license."""


class OwnManifest(NamedTuple):
    """The content of imgclassify.toml."""

    model: ModelManifest
    """The network. `provider` may also be TRANSFORMERS."""
    sha256: Mapping[str, str]
    """The digests of LABELS and, for TRANSFORMERS, of CONFIG. That of the weights is in the model."""
    has_calibration: bool
    """Whether CALIBRATION was written."""
    start: Start

    @classmethod
    def parse(cls, text: str, origin: str) -> OwnManifest:
        """
        Args:
            origin: the path of the file.

        Raises:
            ManifestError: the text is damaged, or of a newer imgclassify.
        """
        root = parse_toml(text, origin)
        schema = root.take_value("schema", str)
        if schema != SCHEMA:
            raise ManifestError(
                f"{origin}: its schema is {schema!r}, and this version reads {SCHEMA!r}",
                hint="use the version of imgclassify that wrote the folder, or a newer one",
            )
        root.take_value("version", str)
        has_calibration = root.take_choice("calibration", ("", CALIBRATION), default="") != ""
        start = _parse_start(cast(TomlTable, root.take_table("start")))
        digests = cast(TomlTable, root.take_table("sha256"))
        models = take_models(root, origin, (*PROVIDERS, TRANSFORMERS))
        root.check_empty()
        if len(models) != 1:
            root.reject("models", "one model")
        model = models[0]
        names = (LABELS, CONFIG) if model.provider == TRANSFORMERS else (LABELS,)
        sha256 = {name: digests.take_matching(name, _DIGEST, "64 lower-case hex digits") for name in names}
        digests.check_empty()
        # Other names could lead out of the folder.
        if model.file != str(Path(origin).absolute().parent / WEIGHTS):
            root.reject("models[0].file", repr(WEIGHTS))
        if model.label_set != LABELS:
            root.reject("models[0].label_set", repr(LABELS))
        if len(model.sha256) != 64:
            root.reject("models[0].sha256", "64 lower-case hex digits")
        return cls(model, sha256, has_calibration, start)

    def format(self) -> str:
        """Returns the text that `parse` reads."""
        calibration = {"calibration": CALIBRATION} if self.has_calibration else {}
        root = {"schema": SCHEMA, "version": __version__, **calibration}
        tables: dict[str, Mapping[str, Any]] = {"sha256": self.sha256, "start": self.start._asdict()}
        return (
            f"{_HEADER}{format_lines(root)}"
            + "".join(f"\n[{name}]\n{format_lines(table)}" for name, table in tables.items())
            + f"\n{format_model(replace(self.model, file=WEIGHTS))}"
        )


def _parse_start(table: TomlTable) -> Start:
    start = Start(
        model=table.take_value("model", str),
        weights=table.take_value("weights", str),
        sha256=table.take_matching("sha256", f"({_DIGEST})?", "64 lower-case hex digits, or empty"),
        license=table.take_value("license", str),
    )
    table.check_empty()
    return start
