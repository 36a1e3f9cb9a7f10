"""Writes the model card of a model folder: README.md, as the Hugging Face hub shows it.

Of training.json, it shows the keys `method` (one of METHODS), `seed`, `data` (with `name`), `recipe` (a mapping),
and `metrics`: figure → {"value", "low", "high"}, as in `evaluate --json`. Each may be missing.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from imgclassify._version import __version__
from imgclassify.hub.model_files import CONFIG, LABELS, PROCESSOR_CONFIGS
from imgclassify.hub.own_manifest import TRANSFORMERS, OwnManifest
from imgclassify.training.folder_configs import is_timms

if TYPE_CHECKING:
    from imgclassify.training.split_file import SplitRow

METHODS = {
    "probe": "a linear probe on the features of {start}, which is not changed",
    "finetune": "fine-tuned from {start}",
    "scratch": "trained from scratch",
}
_FIGURES = {
    "acc1": ("Accuracy (acc@1)", "accuracy", True),
    "acc5": ("The true class is among the five best (acc@5)", "acc5", True),
    "balanced_accuracy": ("Accuracy of all classes alike", "balanced_accuracy", True),
    "nll": ("Negative log-likelihood", "nll", False),
    "brier": ("Brier score", "brier", False),
    "ece": ("Expected calibration error", "ece", True),
}
"""Figure → (name, type in the front matter, whether it is a share)."""
_LICENSES = (
    *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"),
    *("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "openrail", "gemma", "apple-ascl"),
    "apple-amlr",
)
"""Licences that the Hugging Face hub knows by these names."""
_MAX_CLASSES = 200
"""The card lists so many classes at most."""


class CardFacts(NamedTuple):
    """What a model card says."""

    name: str
    """Of the folder."""
    manifest: OwnManifest
    labels: Sequence[str]
    training: Mapping[str, Any]
    """The content of training.json."""
    split: Sequence[SplitRow]
    configs: frozenset[str]
    """The names of the configurations for timm and transformers that are in the folder."""


def format_card(facts: CardFacts) -> str:
    """Returns the text of README.md."""
    parts = [
        _format_front_matter(facts),
        f"# {_escape(facts.name)}",
        _describe(facts),
        _format_use(facts),
        _format_figures(facts),
        _format_classes(facts),
        _format_data(facts),
        _format_limits(facts),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


# Front matter ----------------------------------------------------------------------------------------------------


def _format_front_matter(facts: CardFacts) -> str:
    """Returns YAML. Texts are quoted as in JSON, which is YAML too."""
    model, start = facts.manifest.model, facts.manifest.start
    libraries = {"timm": "timm", TRANSFORMERS: "transformers"}
    library = libraries.get(model.provider, "imgclassify")
    lines = [
        *_format_license(start.license),
        f"library_name: {library}",
        "pipeline_tag: image-classification",
        "tags:",
        *(f"- {tag}" for tag in dict.fromkeys(("image-classification", "imgclassify", library))),
    ]
    scheme, _, name = start.model.partition(":")
    if scheme in ("hf", "timm") and name:
        name = name.removeprefix("hf-hub:").partition("@")[0]
        lines.append(f"base_model: {_quote(name if '/' in name else f'timm/{name}')}")
    metrics = list(_iter_metrics(facts))
    if metrics:
        lines += [
            "model-index:",
            f"- name: {_quote(facts.name)}",
            "  results:",
            "  - task:",
            "      type: image-classification",
            "    dataset:",
            f"      name: {_quote(_dataset_name(facts))}",
            "      type: imagefolder",
            "      split: validation",
            "    metrics:",
        ]
        for title, kind, value in metrics:
            lines += [f"    - type: {kind}", f"      name: {_quote(title)}", f"      value: {value!r}"]
    return "\n".join(["---", *lines, "---"])


def _format_license(name: str) -> list[str]:
    if not name:
        return []
    if name.lower() in _LICENSES:
        return [f"license: {name.lower()}"]
    link = [f"license_link: {_quote(name)}"] if re.match("https?://", name) else []
    return ["license: other", f"license_name: {_quote(name.rpartition('/')[2] if link else name)}", *link]


def _iter_metrics(facts: CardFacts) -> Iterator[tuple[str, str, float]]:
    """Yields (name, type, value) of each figure."""
    for key, (title, kind, _) in _FIGURES.items():
        if (value := _figures(facts).get(key, {}).get("value")) is not None:
            yield title, kind, value


def _quote(text: str) -> str:
    return json.dumps(text)


# Sections --------------------------------------------------------------------------------------------------------


def _describe(facts: CardFacts) -> str:
    model, start = facts.manifest.model, facts.manifest.start
    method = METHODS.get(str(facts.training.get("method")), "trained from {start}" if start.model else "trained")
    weights = f" ({_code(start.weights)})" if start.weights and start.weights not in start.model else ""
    how = method.format(start=f"{_code(start.model)}{weights}")
    return (
        f"An image classifier with {len(facts.labels)} classes: {_code(model.architecture)} of {model.provider}, "
        f"{how}. Made with imgclassify {__version__}."
    )


def _format_use(facts: CardFacts) -> str:
    """Returns how to use the model, with all programs that open it."""
    model = facts.manifest.model
    folder = f"./{facts.name}"
    calibrated = " --calibrated" if facts.manifest.has_calibration else ""
    parts = [
        "## Use",
        _fence("sh", f"imgclassify predict photos/ -m {_shell_quote(folder)}{calibrated}"),
        _fence(
            "python",
            f"from imgclassify import Classifier\n\n"
            f"print(Classifier({folder!r}).predict('photo.jpg').predictions[0])",
        ),
    ]
    if CONFIG in facts.configs and model.provider == "timm":
        differs = "" if is_timms(model.preprocess, model) else " Its own transform prepares images differently."
        parts += [
            f"timm opens it too.{differs}",
            _fence(
                "python", f"import timm\n\nnetwork = timm.create_model({f'local-dir:{folder}'!r}, pretrained=True)"
            ),
        ]
    elif model.provider == TRANSFORMERS:
        processor = PROCESSOR_CONFIGS[0] in facts.configs
        missing = "" if processor else " No image processor of it prepares images as this model needs them."
        code = ["from transformers import AutoImageProcessor, AutoModelForImageClassification\n"]
        code += [f"processor = AutoImageProcessor.from_pretrained({folder!r})"] if processor else []
        code += [f"network = AutoModelForImageClassification.from_pretrained({folder!r})"]
        parts += [f"transformers opens it too.{missing}", _fence("python", "\n".join(code))]
    return "\n\n".join(parts)


def _format_figures(facts: CardFacts) -> str:
    rows = []
    for key, (title, _, is_share) in _FIGURES.items():
        figure = _figures(facts).get(key, {})
        if figure.get("value") is not None:
            value, low, high = (_format_number(figure.get(name), is_share) for name in ("value", "low", "high"))
            rows.append(f"| {title} | {value} | {f'{low} to {high}' if low and high else ''} |")
    if not rows:
        return ""
    count = Counter(row.part for row in facts.split)["val"]
    return "\n".join(
        [
            "## Figures",
            "",
            f"Of {count:,} validation images, which the network was not trained on.",
            "",
            "| figure | value | 95 % interval |",
            "| --- | --- | --- |",
            *rows,
        ]
    )


def _format_classes(facts: CardFacts) -> str:
    counts = Counter((row.label, row.part) for row in facts.split)
    rows = [
        f"| {index} | {_escape(label)} | {counts[label, 'train']:,} | {counts[label, 'val']:,} |"
        for index, label in enumerate(facts.labels[:_MAX_CLASSES])
    ]
    more = len(facts.labels) - len(rows)
    return "\n".join(
        [
            "## Classes",
            "",
            "| class index | class | training images | validation images |",
            "| --- | --- | --- | --- |",
            *rows,
            *(["", f"{more:,} more are in `{LABELS}`."] if more else []),
        ]
    )


def _format_data(facts: CardFacts) -> str:
    counts = Counter(row.part for row in facts.split)
    reasons = Counter(row.reason for row in facts.split if row.part not in ("train", "val"))
    left_out = ", ".join(f"{count:,} {_escape(reason)}" for reason, count in reasons.most_common(5) if reason)
    training = facts.training
    recipe = training.get("recipe")
    return "\n".join(
        [
            "## Data and training",
            "",
            f"- Data: {_escape(_dataset_name(facts))}: {counts['train']:,} images for training, "
            f"{counts['val']:,} for validation"
            + (f", {sum(reasons.values()):,} left out ({left_out})" if left_out else "")
            + ". `split.tsv` names them, with their SHA-256.",
            *([f"- Method: {_code(str(training['method']))}"] if "method" in training else []),
            *([f"- Seed: {training['seed']}"] if "seed" in training else []),
            *(
                [f"- Recipe: {', '.join(f'{_code(key)} {_escape(value)}' for key, value in recipe.items())}"]
                if isinstance(recipe, Mapping)
                else []
            ),
            "- `training.json` has all settings, versions and figures.",
        ]
    )


def _format_limits(facts: CardFacts) -> str:
    start = facts.manifest.start
    known = (
        f"are under {_escape(start.license)}" if start.license else "have a licence that imgclassify does not know"
    )
    return "\n".join(
        [
            "## Limits",
            "",
            "- It answers with one of its classes, whatever an image shows. `--unfamiliar` tells images that are "
            "unlike those of its classes.",
            "- The figures hold for images like those of the validation part. On others, measure again: "
            "`imgclassify evaluate`.",
            *(
                []
                if facts.manifest.has_calibration
                else ["- Its probabilities are not calibrated: `imgclassify calibrate`."]
            ),
            *([f"- The weights that the training began with {known}."] if start.model else []),
        ]
    )


# Texts -----------------------------------------------------------------------------------------------------------


def _figures(facts: CardFacts) -> Mapping[str, Mapping[str, Any]]:
    found = facts.training.get("metrics")
    return found if isinstance(found, Mapping) else {}


def _dataset_name(facts: CardFacts) -> str:
    data = facts.training.get("data")
    return str(data.get("name") or "own images") if isinstance(data, Mapping) else "own images"


def _format_number(value: float | None, is_share: bool) -> str:
    if value is None:
        return ""
    return f"{100 * value:.2f} %" if is_share else f"{value:.4g}"


def _escape(value: object) -> str:
    """Returns a text on one line without a meaning in Markdown or HTML."""
    text = " ".join(str(value).split())
    # An underscore within a word has no meaning.
    return re.sub(r"([\\`*\[\]<>|~&]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def _code(text: str) -> str:
    """Returns a text in Markdown's code, of which a backtick would be the end."""
    return f"`{' '.join(text.split()).replace('`', chr(39))}`" if text.strip() else ""


def _fence(language: str, code: str) -> str:
    return f"```{language}\n{code}\n```"


def _shell_quote(text: str) -> str:
    import shlex

    return shlex.quote(text)
