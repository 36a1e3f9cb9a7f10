"""Compares features and spatial maps of both engines, for every architecture: `python -m benchmarks.features`.

The networks and crops are those of `benchmarks.architectures`. Each network is built in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.architectures import PAGE, crops, references, seeded
from imgclassify import catalog

MODULE = "benchmarks.features"
EMBEDDED = "efficientnet_lite0"


def compare(reference: str) -> dict[str, Any] | None:
    """Returns the largest differences between the engines, as fractions of the largest value.

    Returns None for a quantized architecture, which runs in torch alone.
    """
    import torch

    from imgclassify.engines import FEATURE_MAP, FEATURES, LOGITS
    from imgclassify.engines.choice import create_engine
    from imgclassify.errors import OutputError
    from imgclassify.hub import architectures
    from imgclassify.hub.loader import load_network
    from imgclassify.hub.network import LoadOptions, Network

    name, _, weights = reference.partition("@")
    manifest = catalog.find_model(name, weights or None)
    if architectures.is_quantized(manifest):
        return None

    def infer(network: Network, engine: str, outputs: tuple[str, ...]) -> Any:
        selection = create_engine(
            network, engine=engine, device="cpu", dtype="float32", num_images=None, outputs=outputs
        )
        head = None
        with suppress(OutputError):
            head = selection.engine.read_head()
        return selection.engine.infer(crops(manifest.preprocess.crop_size[0])), head

    with tempfile.TemporaryDirectory() as folder:
        if reference == EMBEDDED:
            network = load_network(reference, LoadOptions(offline=True))
        else:
            path = Path(folder) / "weights.pth"
            torch.save(seeded(manifest).state_dict(), path)
            network = load_network(str(path), LoadOptions(arch=reference, offline=True, with_labels=False))
        outputs: tuple[str, ...] = (LOGITS, FEATURES, FEATURE_MAP)
        try:
            wanted, _ = infer(network, "torch", outputs)
        except OutputError:
            outputs = (LOGITS, FEATURES)
            wanted, _ = infer(network, "torch", outputs)
        found, head = infer(network, "onnxruntime", outputs)

    def difference(one: Any, other: Any) -> float:
        return float(abs(one - other).max() / abs(other).max())

    return {
        "crop": manifest.preprocess.crop_size[0],
        "features": wanted[FEATURES].shape[1],
        "map": list(wanted[FEATURE_MAP].shape[1:]) if FEATURE_MAP in wanted else None,
        "features_difference": difference(found[FEATURES], wanted[FEATURES]),
        "map_difference": difference(found[FEATURE_MAP], wanted[FEATURE_MAP]) if FEATURE_MAP in wanted else None,
        "head_difference": None
        if head is None
        else difference(found[FEATURES] @ head.weight.T + head.bias, found[LOGITS]),
    }


def document(rows: dict[str, dict[str, Any]]) -> str:
    """Returns the text between the page's markers."""

    def number(value: float | None) -> str:
        return report.NONE if value is None else f"{value:.1e}"

    cells = [
        [
            reference,
            str(row["crop"]),
            str(row["features"]),
            "×".join(map(str, row["map"])) if row["map"] else report.NONE,
            number(row["features_difference"]),
            number(row["map_difference"]),
            number(row["head_difference"]),
        ]
        for reference, row in rows.items()
    ]
    largest = [
        max(row[key] for row in rows.values() if row[key] is not None)
        for key in ("features_difference", "map_difference", "head_difference")
    ]
    said = (
        f"Over all {len(rows)}: features differ by at most {largest[0]:.1e}, maps by {largest[1]:.1e}, and "
        f"`features @ weight.T + bias` differs from the logits by {largest[2]:.1e}, each as a fraction of the "
        "largest value.\n\n"
    )
    headings = [
        "architecture",
        "crop",
        "features",
        "map",
        "features differ by",
        "maps differ by",
        "head differs by",
    ]
    return said + "\n".join(report.table(headings, cells)) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these architectures alone")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep all measurements there")
    parser.add_argument("--write", action="store_true", help=f"put the table into docs/{PAGE.name}")
    chosen = parser.parse_args(arguments)
    known = chosen.only or [EMBEDDED, *references()]
    rows = json.loads(chosen.json.read_text("utf-8")) if chosen.json and chosen.json.exists() else {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, max_tasks_per_child=4) as pool:
        for reference in (each for each in known if each not in rows):
            row = pool.submit(compare, reference).result()
            print(reference, row, file=sys.stderr, flush=True)
            if row is not None:
                rows[reference] = row
                if chosen.json:
                    chosen.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    text = document({each: rows[each] for each in known if each in rows})
    sys.stdout.write(text)
    if chosen.write:
        report.insert(PAGE, text, MODULE)


if __name__ == "__main__":
    main()
