"""Runs ONNX graphs with OpenVINO, on the CPU."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from imgclassify.errors import OutputError, UnavailableError, make_printable
from imgclassify.graphs.onnx_signature import Value
from imgclassify.telemetry import import_openvino

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from imgclassify.graphs.session import SessionConfig

_TYPES = {
    "f32": "float",
    "f16": "float16",
    "f64": "double",
    "u8": "uint8",
    "i8": "int8",
    "i32": "int32",
    "i64": "int64",
}
"""OpenVINO's names of element types → onnxruntime's."""
_PLACES = ("Exception from ", "Check '", "Summary:")
"""The beginnings of lines that say where in its source OpenVINO has raised an error."""
_SHOWN = 300
"""The number of characters of OpenVINO's words that an error shows."""
_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def is_installed() -> bool:
    return find_spec("openvino") is not None


def require_openvino() -> None:
    """
    Raises:
        UnavailableError: OpenVINO is not installed.
    """
    if not is_installed():
        raise UnavailableError(
            "the openvino engine needs OpenVINO, which is not installed",
            hint='pip install "imgclassify[openvino]", or pip install openvino',
        )


@cache
def computes_in_bfloat16() -> bool:
    """Whether this processor computes in bfloat16. OpenVINO must be installed."""
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenvinoSession:
    """A graph that OpenVINO has opened. It is compiled for each shape of its input that it is run with.

    A graph whose shapes are all known is faster than one of any batch size.

    Calls at the same time have a compiled graph each. OpenVINO could also compute several calls with one graph, in
    "streams". But then the logits of Swin V2 were wrong by up to 3 % of the largest in half of 40 trials with
    OpenVINO 2026.4. Which trials these are is decided when the graph is compiled. With one stream, all were right.
    """

    def __init__(self, model: bytes | Path, config: SessionConfig, *, name: str) -> None:
        """Reads a graph.

        Args:
            model: an ONNX graph with its weights, or the path of one.
            name: names the graph in errors.

        Raises:
            OutputError: OpenVINO cannot read it.
        """
        self._core = import_openvino().Core()
        self._config = config
        self._name = name
        self._lock = Lock()
        self._idle: dict[tuple[int, ...], list[Any]] = {}
        """Requests that no thread uses, by the shape of the input. Each has a compiled graph of its own."""
        try:
            self._model = self._core.read_model(model if isinstance(model, bytes) else str(model))
        except RuntimeError as error:
            raise _refused(name, error) from error
        self._places = {_name_of(port): place for place, port in enumerate(self._model.outputs)}
        """Name → number of an output. Once it is compiled, it may have the name of another value."""

    def get_inputs(self) -> list[Value]:
        """Returns what the graph says of its inputs, in onnxruntime's words."""
        return [_describe(port) for port in self._model.inputs]

    def get_outputs(self) -> list[Value]:
        """Returns what the graph says of its outputs, in onnxruntime's words."""
        return [_describe(port) for port in self._model.outputs]

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Compiles the graph for an input of this shape, so that the first run does not have to.

        Raises:
            OutputError: OpenVINO cannot compute the graph.
        """
        request = self._take_request(shape)
        self._idle[shape].append(request)

    def run(self, names: list[str], feeds: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Returns the outputs of these names, for the one input by name. Several threads may call it.

        Raises:
            OutputError: OpenVINO cannot compute the graph.
        """
        from openvino import Tensor

        [images] = feeds.values()
        request = self._take_request(images.shape)
        try:
            request.set_input_tensor(Tensor(images, shared_memory=True))
            request.infer()
            return [request.get_output_tensor(self._places[name]).data.copy() for name in names]
        finally:
            self._idle[images.shape].append(request)

    def _take_request(self, shape: tuple[int, ...]) -> Any:
        with self._lock:
            idle = self._idle.setdefault(shape, [])
            return idle.pop() if idle else self._compile(shape)

    def _compile(self, shape: tuple[int, ...]) -> Any:
        from openvino import properties
        from openvino.properties import hint

        settings = {
            # What OpenVINO would choose is bfloat16, where the processor has it.
            hint.inference_precision: _PRECISIONS[self._config.dtype],
            properties.num_streams: 1,
            properties.inference_num_threads: self._config.threads,
            hint.enable_cpu_pinning: False,  # all would be bound to the same core
        }
        try:
            model = self._model.clone()
            model.reshape(list(shape))
            return self._core.compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise _refused(self._name, error) from error


def _describe(port: Any) -> Value:
    kind = port.get_element_type().get_type_name()
    sides = port.get_partial_shape()
    shape = [side.get_length() if side.is_static else None for side in sides] if sides.rank.is_static else []
    return Value(_name_of(port), f"tensor({_TYPES.get(kind, kind)})", shape)


def _name_of(port: Any) -> str:
    """Returns the name of an input or an output."""
    name: str = port.get_any_name()
    return name


def _refused(name: str, error: RuntimeError) -> OutputError:
    lines = [line.strip(" -") for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(_PLACES)]
    reason = make_printable(" ".join(told) or "it does not say why", _SHOWN)
    return OutputError(f"OpenVINO cannot run {name}: {reason}", hint="use --engine onnxruntime")
