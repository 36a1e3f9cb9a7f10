"""The settings of a session, in which a graph is computed, and the names of the outputs that it can have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import onnxruntime
    from numpy.typing import NDArray

LOGITS = "logits"
"""Raw logits, (N, number of classes)."""
PROBABILITIES = "probabilities"
"""Probabilities of the classes, 0..1, (N, number of classes), beside the logits or in place of them."""
FEATURES = "features"
"""What the last linear layer sees, (N, D): after pooling, and after any norm or activation before that layer."""
FEATURE_MAP = "feature_map"
"""The last spatial map before pooling, (N, C, height, width)."""
HEAD_WEIGHT = "head.weight"
"""The weight of the last linear layer, (number of classes, D)."""
HEAD_BIAS = "head.bias"
"""The bias of the last linear layer, (number of classes,)."""

FEATURE_NAMES = (
    FEATURES,
    "feature",
    "embedding",
    "embeddings",
    "image_embeds",
    "image_embedding",
    "image_embeddings",
    "image_features",
    "pooler_output",
    "pre_logits",
)
"""Names that exporters give to an output with features. The first is ours; the others are those of transformers,
timm and CLIP."""


_CUDA_PROVIDER = "CUDAExecutionProvider"


class GraphValue(Protocol):
    """An input or an output of a graph, as onnxruntime describes it."""

    @property
    def name(self) -> str: ...

    @property
    def type(self) -> str: ...

    @property
    def shape(self) -> Sequence[int | str | None]: ...


class GraphSession(Protocol):
    """The part of onnxruntime.InferenceSession that engines use. OpenvinoSession has it too."""

    def get_inputs(self) -> Sequence[GraphValue]: ...

    def get_outputs(self) -> Sequence[GraphValue]: ...

    def run(self, names: list[str], feeds: dict[str, NDArray[Any]], /) -> list[Any]:
        """Returns the outputs of these names, for the inputs by name. Several threads may call it."""
        ...


class SessionConfig(NamedTuple):
    """The settings with which a session computes."""

    threads: int
    """The number of threads that one call computes with."""
    single_run: bool = False
    """The session runs only once. Its graph is not optimised, since that would take longer than it saves."""
    extra_outputs: tuple[str, ...] = ()
    """Outputs that are added to those of the graph, such as FEATURES (graphs/outputs.py). `value_name` gives their
    names in the session."""
    logits: str | None = None
    """The output of the graph that holds the logits, if the user names one. The features are those before it."""
    engine: str = "onnxruntime"
    """What computes the graph: "onnxruntime" or "openvino"."""
    dtype: str = "float32"
    """For "openvino": "float32" or "bfloat16"."""
    device: str = "cpu"
    """"cpu", or "cuda:N" if `has_cuda_provider`."""

    def session_options(self) -> onnxruntime.SessionOptions:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4  # fatal messages only
        settings.intra_op_num_threads = self.threads
        settings.inter_op_num_threads = 1
        # A waiting thread that spins would take processor time from the threads that decode.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self.single_run:
            settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return settings

    def providers(self) -> list[Any]:
        """Returns what onnxruntime computes with, the preferred one first."""
        if self.device == "cpu":
            return ["CPUExecutionProvider"]
        # Without TF32, which rounds float32 to 10 bits, as in torch_engine.py.
        options = {"device_id": self.device.partition(":")[2], "use_tf32": "0"}
        return [(_CUDA_PROVIDER, options), "CPUExecutionProvider"]


def has_cuda_provider() -> bool:
    """Whether onnxruntime was built for CUDA, as onnxruntime-gpu is."""
    import onnxruntime

    return _CUDA_PROVIDER in onnxruntime.get_available_providers()


def uses_cuda(session: onnxruntime.InferenceSession) -> bool:
    """Whether a session computes on CUDA. If CUDA cannot be used, onnxruntime takes the CPU without an error."""
    return _CUDA_PROVIDER in session.get_providers()


def value_name(output: str) -> str:
    """Returns the name that an extra output has in a session. No value of a user's own graph has it."""
    return f"imgclassify:{output}"


def find_logits(names: list[str]) -> str | None:
    """Returns the output of a graph that holds the logits: "logits", or else the first that does not hold features.

    Returns None if all outputs hold features.
    """
    if LOGITS in names:
        return LOGITS
    return next((name for name in names if name not in (*FEATURE_NAMES, FEATURE_MAP)), None)


def find_features(names: list[str]) -> str | None:
    """Returns the output of a graph that holds features by its name, or None."""
    return next((name for name in FEATURE_NAMES if name in names), None)
