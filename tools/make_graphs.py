"""Regenerates models/graphs/: weight-free ONNX graphs of all float architectures in the catalog, per crop size.

    python tools/make_graphs.py                 write them
    python tools/make_graphs.py --check         write nothing; exit 1 if a file differs
    python tools/make_graphs.py --only NAME …   only these architectures

Needs the extra `export`. A graph is written only if the number of classes appears nowhere in it except in the
dimensions of its heads. To check that, it is also exported with another number of classes.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest.mock import patch

import onnx
import torch

from imgclassify import catalog
from imgclassify.catalog import ModelManifest
from imgclassify.graphs.export import export_graph
from imgclassify.hub import architectures

FOLDER = Path(__file__).parent.parent / "models" / "graphs"
OTHER_CLASSES = 7


def wanted() -> dict[str, ModelManifest]:
    """Maps each file name to a manifest with its architecture and crop size.

    Other manifests with the same file name have the same provider and options, so the graph fits them too.
    """
    found: dict[str, ModelManifest] = {}
    for manifest in catalog.load_manifests():
        if architectures.is_quantized(manifest) or not manifest.origin.startswith("models/"):
            continue
        height, width = manifest.preprocess.crop_size
        name = f"{manifest.architecture}-{height}.onnx"
        twin = found.setdefault(name, manifest)
        if height != width or twin.provider != manifest.provider or twin.options != manifest.options:
            raise SystemExit(f"{manifest.reference}: {name} cannot serve it, nor can its name tell them apart")
    return dict(sorted(found.items()))


def bare(manifest: ModelManifest, num_classes: int) -> torch.nn.Module:
    """Builds the architecture without initialising its weights.

    Their memory is only reserved, so even gigabytes of weights take no time.
    """
    fillers = {name: _leave for name in dir(torch.nn.init) if name.endswith("_") and not name.startswith("_")}
    with patch.multiple(torch.nn.init, **fillers):
        return architectures.create_network(manifest, num_classes=num_classes)


def _leave(tensor: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
    return tensor


def make(manifest: ModelManifest, file_name: str, num_classes: int | None = None) -> bytes:
    count = num_classes or manifest.num_classes
    network = bare(manifest, count)
    # The heads are the tensors whose shape depends on the number of classes.
    shapes = {name: tensor.shape for name, tensor in bare(manifest, count + 1).state_dict().items()}
    return export_graph(
        network,
        crop_size=manifest.preprocess.crop_size[0],
        file_name=file_name,
        heads=[name for name, tensor in network.state_dict().items() if tensor.shape != shapes[name]],
        metadata={
            "architecture": manifest.architecture,
            "provider": manifest.provider,
            "options": dict(manifest.options),
        },
    )


def with_classes(graph: bytes, count: int) -> bytes:
    """Returns the graph for another number of classes, by changing the first dimension of the heads."""
    model = onnx.ModelProto.FromString(graph)
    heads = json.loads(model.metadata_props[0].value)["heads"]
    for tensor in model.graph.initializer:
        if tensor.name in heads:
            tensor.dims[0] = count
    return model.SerializeToString(deterministic=True)


def make_plain(file_name: str) -> bytes:
    return make(wanted()[file_name], file_name)


def make_proven(file_name: str) -> bytes:
    manifest = wanted()[file_name]
    graph = make(manifest, file_name)
    if with_classes(graph, OTHER_CLASSES) != make(manifest, file_name, OTHER_CLASSES):
        raise SystemExit(f"{file_name}: the number of classes stands elsewhere than in the heads")
    return graph


def made(names: list[str], jobs: int, *, proven: bool) -> Iterator[tuple[str, bytes]]:
    torch.set_num_threads(1)
    function = make_proven if proven else make_plain
    if jobs == 1:
        yield from ((name, function(name)) for name in names)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from zip(names, pool.map(function, names), strict=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file differs")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="architectures, or files' names without .onnx")
    parser.add_argument("--jobs", type=int, default=1, help="processes; each holds one network at a time")
    arguments = parser.parse_args()
    names = [
        name
        for name, manifest in wanted().items()
        if not arguments.only or {manifest.architecture, name.removesuffix(".onnx")}.intersection(arguments.only)
    ]
    differing = 0
    for name, graph in made(names, arguments.jobs, proven=not arguments.check):
        path = FOLDER / name
        if path.is_file() and path.read_bytes() == graph:
            continue
        differing += 1
        print(f"{'differs' if arguments.check else 'written'}: models/graphs/{name}", flush=True)
        if not arguments.check:
            FOLDER.mkdir(exist_ok=True)
            path.write_bytes(graph)
    for path in sorted(FOLDER.glob("*.onnx")):
        if path.name not in wanted():
            differing += 1
            print(f"{'not wanted' if arguments.check else 'removed'}: models/graphs/{path.name}")
            if not arguments.check:
                path.unlink()
    return 1 if arguments.check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
