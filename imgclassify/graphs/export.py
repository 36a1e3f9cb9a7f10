"""Exports a torch network as an ONNX graph without weights, from crops to logits.

The parameters are added when the graph is opened. The graph computes: `crops` (N, H, W, 3) uint8
→ `x * normalize.scale + normalize.bias`, (N, 3, H, W) float32 → the network → `logits` (N, classes) float32.
N is free, H and W are fixed. Needs the extra `export`.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from imgclassify.checkpoints import BATCH_COUNTER_SUFFIX
from imgclassify.errors import CheckpointError, UnavailableError, describe_error
from imgclassify.graphs.graph import BIAS, METADATA_KEY, SCALE

if TYPE_CHECKING:
    import onnx
    import torch
    from numpy.typing import NDArray

    from imgclassify.catalog import Size

INPUT, OUTPUT = "crops", "logits"

_OPSET = 20
"""The first opset with Gelu. onnxruntime reads it since 1.17."""
_LARGEST_FOLDED = 8192
"""In elements. Larger constants, such as Swin's attention masks, are computed when the graph is opened."""
_RANDOM = ("Random", "Bernoulli", "Multinomial")
_LARGEST_GRAPH = 2**31 - 1
"""In bytes. This is protobuf's limit."""


def export_graph(
    network: torch.nn.Module,
    *,
    crop_size: int | Size,
    file_name: str,
    heads: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
) -> bytes:
    """Exports a network as a graph. The bytes are the same for the same network, whatever its weights.

    Parameters and buffers of the state_dict become initializers of the same names without values: external data
    in the file `file_name`. Buffers that are not in the state_dict stay in the graph with their values.

    `crop_size`, `heads` and `unused` are added to the metadata. `unused` lists names of the state_dict that the
    graph does not need, or has under another name, for example if two names share one tensor.

    Args:
        network: in float32 on the CPU. The function puts it in eval mode and makes its tensors contiguous.
        crop_size: the side of a square, or (height, width).
        file_name: the name of the file that the graph will be written to.
        heads: the parameters whose first dimension is the number of classes. The metadata lists those that the
            graph uses.
        metadata: further JSON values for the graph's metadata.

    Raises:
        CheckpointError: the network cannot be exported as a graph.
        UnavailableError: the exporter is not installed.
    """
    _require_exporter()
    _require_plain(network)
    size = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
    model, parameters = _trace_network(network, size)
    _check_form(model)
    draft = _GraphBuilder.from_model(model, parameters)
    draft.simplify_reshapes()
    draft.use_stored_weight_layout()
    draft.merge_duplicates()
    draft.remove_unused()
    known = [name for name in _state_tensors(network) if not name.endswith(BATCH_COUNTER_SUFFIX)]
    draft.rename_values([*known, SCALE, BIAS])
    unused = [name for name in known if name not in draft.parameters]
    heads = [name for name in heads if name not in unused]
    details = {**(metadata or {}), "crop_size": crop_size, "heads": heads, "unused": unused}
    return draft.to_bytes([*known, SCALE, BIAS], details, size, file_name)


def _require_exporter() -> None:
    try:
        import onnx
        import onnxscript  # torch's exporter needs it
    except ImportError as error:
        raise UnavailableError(
            f"exporting a graph needs {error.name or 'onnx'}, which is not installed",
            hint="pip install onnx onnxscript",
        ) from error
    del onnx, onnxscript


def _require_plain(network: torch.nn.Module) -> None:
    import torch

    for module in network.modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise _export_error("it is a TorchScript program, which is already compiled")
        origin = type(module).__module__
        if origin.startswith("torch.") and "quantized" in origin:
            raise _export_error("it is quantized")
    for name, tensor in _state_tensors(network).items():
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise _export_error(f"{name} is {str(tensor.dtype).removeprefix('torch.')}, not float32")
    for name in (INPUT, OUTPUT, SCALE, BIAS):
        if name in _state_tensors(network):
            raise _export_error(f"it has a parameter {name!r}, a name that is reserved for the graph")


def _state_tensors(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Returns the tensors of the state_dict, without other values that a module may have put there."""
    import torch

    return {name: value for name, value in network.state_dict().items() if isinstance(value, torch.Tensor)}


def _export_error(reason: str) -> CheckpointError:
    return CheckpointError(
        f"the network cannot be exported as a graph: {reason}", hint="use it with --engine torch"
    )


# ------------------------------------------------------------------------------------------------ trace


def _trace_network(network: torch.nn.Module, size: Size) -> tuple[onnx.ModelProto, dict[str, onnx.TensorProto]]:
    """Returns the exporter's own graph without its parameters, and the parameters without their values."""
    import onnx
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    class Pixels(torch.nn.Module):
        """The network with cast, transpose and normalisation before it."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.scale = torch.nn.Buffer(torch.ones(1, 3, 1, 1))
            self.bias = torch.nn.Buffer(torch.zeros(1, 3, 1, 1))

        def forward(self, crops: torch.Tensor) -> Any:
            # To torch, a permuted tensor is channels_last, which would add layout changes to the graph.
            images = crops.permute(0, 3, 1, 2).contiguous().to(torch.float32)
            output = self.network(images * self.scale + self.bias)
            return getattr(output, "logits", output)

    # Weights in channels_last would add layout changes to the graph.
    network.eval().to(memory_format=torch.contiguous_format)
    # A batch of two, since torch treats a size of 1 as fixed.
    example = torch.zeros(2, *size, 3, dtype=torch.uint8)
    # Fused attention has no ONNX form either, or gives results with other strides.
    with quiet_exporter(), sdpa_kernel(SDPBackend.MATH):
        try:
            program = torch.onnx.export(
                Pixels().eval(),
                (example,),
                input_names=[INPUT],
                dynamo=True,
                optimize=False,  # optimising would fold parameters into new ones
                opset_version=_OPSET,
                dynamic_shapes=({0: torch.export.Dim("n")},),
                verbose=False,
            )
        except Exception as error:
            raise _export_error(describe_error(_root_cause(error))) from error
        assert program is not None
        stored = {"network." + name: name for name in _state_tensors(network)} | {"scale": SCALE, "bias": BIAS}
        initializers = program.model.graph.initializers
        parameters = {}
        # Remove the values before the graph is converted to protobuf, which is limited to 2 GB.
        for name in [name for name in initializers if name in stored]:
            value: Any = initializers.pop(name)
            parameters[name] = onnx.TensorProto(
                name=stored[name], data_type=int(value.dtype), dims=list(value.shape)
            )
        return _fold_constants(program.model_proto, parameters), parameters


def _fold_constants(model: onnx.ModelProto, parameters: dict[str, onnx.TensorProto]) -> onnx.ModelProto:
    """Computes the constants of a graph whose parameters are inputs, so that they are not folded."""
    from onnx import helper
    from onnxscript import optimizer

    model.graph.input.extend(
        helper.make_tensor_value_info(name, tensor.data_type, tensor.dims) for name, tensor in parameters.items()
    )
    return optimizer.optimize(model, output_size_limit=_LARGEST_FOLDED)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silences torch's exporters, which print their progress and warn about their own code.

    Disables the fused encoder layers of transformers, which have no ONNX form.
    """
    import torch

    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    fused = torch.backends.mha.get_fastpath_enabled()
    with (
        warnings.catch_warnings(),
        redirect_stdout(StringIO()),
        redirect_stderr(StringIO()),
    ):
        warnings.simplefilter("ignore")
        torch.backends.mha.set_fastpath_enabled(False)
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _root_cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _check_form(model: onnx.ModelProto) -> None:
    import onnx

    kinds = [output.type.tensor_type for output in model.graph.output]
    forms = [(kind.elem_type, len(kind.shape.dim)) for kind in kinds]
    if forms != [(onnx.TensorProto.FLOAT, 2)]:
        raise _export_error("its output is not one tensor of float32 logits, (N, classes)")
    if not kinds[0].shape.dim[0].dim_param:
        raise _export_error("it accepts only the number of images that it was traced with")
    operators = {node.op_type for node in model.graph.node}
    if any(operator.startswith(_RANDOM) for operator in operators):
        raise _export_error("it draws random numbers")
    if model.functions or {node.domain for node in model.graph.node} > {""}:
        raise _export_error("it uses operators beyond the ONNX standard")
    if any(attribute.HasField("g") for node in model.graph.node for attribute in node.attribute):
        raise _export_error("its control flow depends on the images")


# ------------------------------------------------------------------------------------------------ clean


@dataclass
class _GraphBuilder:
    """A graph that is being simplified.

    The exporter leaves constants that are computed again for each use, shapes that are assembled from parts,
    and bias tensors of zeros. The simplified graph computes the same with a fraction of the nodes.
    """

    nodes: list[onnx.NodeProto]
    parameters: dict[str, onnx.TensorProto]
    """Name in this graph → the parameter's name, type and shape."""
    constants: dict[str, NDArray[Any]]
    shapes: dict[str, list[int | str]]
    """Name → sizes, for the values whose shape is known. Sizes that depend on the batch are text."""
    output: str
    opset: int
    ir_version: int

    @classmethod
    def from_model(cls, model: onnx.ModelProto, parameters: dict[str, onnx.TensorProto]) -> _GraphBuilder:
        from onnx import numpy_helper, shape_inference

        graph = shape_inference.infer_shapes(model).graph
        shapes: dict[str, list[int | str]] = {}
        for value in (*graph.input, *graph.value_info, *graph.output):
            kind = value.type.tensor_type
            sizes = [size.dim_value if size.HasField("dim_value") else size.dim_param for size in kind.shape.dim]
            if kind.HasField("shape") and "" not in sizes:
                shapes[value.name] = sizes
        [output] = graph.output
        return cls(
            nodes=list(graph.node),
            parameters=parameters,
            constants={tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer},
            shapes=shapes,
            output=output.name,
            opset=next(entry.version for entry in model.opset_import if entry.domain == ""),
            ir_version=model.ir_version,
        )

    def simplify_reshapes(self) -> None:
        """Gives reshapes a constant shape, so that the nodes that compute the shape are not needed.

        A Reshape to (N, classes) becomes a Flatten, which does not contain the number of classes.
        """
        for node in self.nodes:
            if node.op_type != "Reshape":
                continue
            before, after = (self.shapes.get(name, []) for name in (node.input[0], node.output[0]))
            if before and len(after) == 2 and isinstance(after[0], str) and before[0] == after[0]:
                node.op_type = "Flatten"
                node.input.pop()
                _set_attributes(node, axis=1)
            elif sum(isinstance(size, str) for size in after) == 1 and 0 not in after:
                name = f"shape of {node.output[0]}"
                self.constants[name] = _as_int64([-1 if isinstance(size, str) else size for size in after])
                node.input[1] = name
                _set_attributes(node)

    def merge_duplicates(self) -> None:
        """Keeps one of several equal constants, and one of several nodes that compute the same value."""
        seen: dict[Any, list[str]] = {}
        same: dict[str, str] = {}
        for name, value in self.constants.items():
            [first] = seen.setdefault((value.dtype.str, value.shape, value.tobytes()), [name])
            same[name] = first
        kept = []
        for node in self.nodes:
            node.input[:] = [same.get(name, name) for name in node.input]
            attributes = sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)
            outputs = list(node.output)
            first_outputs = seen.setdefault(
                (node.op_type, tuple(node.input), tuple(attributes), len(outputs)), outputs
            )
            if first_outputs is outputs or self.output in outputs:
                kept.append(node)
            else:
                same.update(zip(outputs, first_outputs, strict=True))
        self.nodes = kept

    def use_stored_weight_layout(self) -> None:
        """Turns linear layers over more than two dimensions into Gemm, which takes the weight as it is stored.

        As MatMul, they would need a transposed copy of each weight whenever the graph is opened.
        """
        weights = {
            node.output[0]: node.input[0]
            for node in self.nodes
            if node.op_type == "Transpose" and len(self._parameter_dims(node.input[0])) == 2
        }
        users: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                users.setdefault(name, []).append(node)
        kept: list[onnx.NodeProto] = []
        done: set[str] = set()
        for node in self.nodes:
            rows = self.shapes.get(node.input[0], [])[:-1] if node.op_type == "MatMul" else []
            if len(rows) > 1 and node.input[1] in weights and sum(isinstance(size, str) for size in rows) < 2:
                weight, output = weights[node.input[1]], node.output[0]
                [follower, *others] = users.get(output, [node])
                width = self._parameter_dims(weight)[:1]
                bias = [name for name in follower.input if self._parameter_dims(name) == width and not others]
                if follower.op_type == "Add" and bias:
                    output = follower.output[0]
                    done.add(output)
                else:
                    bias = []
                kept += self._linear_nodes(node.input[0], weight, bias, output, rows)
            elif node.output[0] not in done:
                kept.append(node)
        self.nodes = kept

    def _parameter_dims(self, name: str) -> list[int]:
        """Returns a parameter's shape, or an empty list if the name is not a parameter's."""
        return list(self.parameters[name].dims) if name in self.parameters else []

    def _linear_nodes(
        self, given: str, weight: str, bias: list[str], output: str, rows: list[int | str]
    ) -> list[onnx.NodeProto]:
        from onnx import helper

        width, depth = self._parameter_dims(weight)
        flat, shaped = f"flat shape of {output}", f"shape of {output}"
        self.constants[flat] = _as_int64([-1, depth])
        self.constants[shaped] = _as_int64([*(-1 if isinstance(size, str) else size for size in rows), width])
        return [
            helper.make_node("Reshape", [given, flat], [f"flat input of {output}"]),
            helper.make_node("Gemm", [f"flat input of {output}", weight, *bias], [f"flat {output}"], transB=1),
            helper.make_node("Reshape", [f"flat {output}", shaped], [output]),
        ]

    def remove_unused(self) -> None:
        """Removes the nodes, constants and parameters that the logits do not depend on."""
        needed = {self.output}
        kept = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                kept.append(node)
                needed.update(node.input)
        self.nodes = kept[::-1]
        self.constants = {name: value for name, value in self.constants.items() if name in needed}
        self.parameters = {name: tensor for name, tensor in self.parameters.items() if name in needed}

    def rename_values(self, taken: list[str]) -> None:
        """Gives parameters their names in the state_dict, and numbers all other values in order of appearance.

        The exporter's names are long, and change between its versions.
        """
        names = {name: tensor.name for name, tensor in self.parameters.items()}
        names |= {"": "", INPUT: INPUT, self.output: OUTPUT}
        reserved = set(taken)
        numbers = (str(number) for number in range(2**31) if str(number) not in reserved)
        for node in self.nodes:
            for part in (node.input, node.output):
                for name in part:
                    if name not in names:
                        names[name] = next(numbers)
                part[:] = [names[name] for name in part]
        self.constants = {names[name]: self.constants[name] for name in names if name in self.constants}
        self.parameters = {tensor.name: tensor for tensor in self.parameters.values()}

    def to_bytes(self, order: list[str], metadata: Mapping[str, Any], size: Size, file_name: str) -> bytes:
        import onnx
        from onnx import helper, numpy_helper

        for node in self.nodes:
            for field in ("name", "doc_string", "metadata_props"):
                node.ClearField(field)
        external = [self.parameters[name] for name in order if name in self.parameters]
        for tensor in external:
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=file_name)
        inline = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info(INPUT, onnx.TensorProto.UINT8, ("n", *size, 3))],
            [helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ("n", "classes"))],
            [*external, *inline],
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=self.ir_version
        )
        helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata, separators=(",", ":"))})
        if model.ByteSize() > _LARGEST_GRAPH:
            raise _export_error("it holds more than 2 GB of constants that are not parameters")
        content: bytes = model.SerializeToString(deterministic=True)
        return content


def _set_attributes(node: onnx.NodeProto, **values: int) -> None:
    from onnx import helper

    node.ClearField("attribute")
    node.attribute.extend(helper.make_attribute(name, value) for name, value in values.items())


def _as_int64(sizes: list[int]) -> NDArray[np.int64]:
    return np.array(sizes, np.int64)
