"""Writes labels as the text of a label file."""

from __future__ import annotations

import json
from collections.abc import Iterable

from imgclassify.labels.label_set import Label


def format_labels(labels: Iterable[Label]) -> str:
    """Returns a JSON list that `parse_labels` reads as the same labels. They must be in class-index order."""
    lines = (json.dumps(_describe(label), ensure_ascii=False) for label in labels)
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _describe(label: Label) -> str | dict[str, object]:
    columns = {"wnid": label.wnid, "synonyms": list(label.synonyms), "gloss": label.gloss}
    known = {name: value for name, value in columns.items() if value}
    return {"label": label.label, **known} if known else label.label
