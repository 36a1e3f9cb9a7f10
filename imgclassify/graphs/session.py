"""How an onnxruntime session is to compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How a session is to compute."""

    threads: int
    """How many one call computes with."""
    single_run: bool = False
    """For a single call, for which optimising the graph would not pay."""

    def session_options(self) -> onnxruntime.SessionOptions:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4
        settings.intra_op_num_threads = self.threads
        settings.inter_op_num_threads = 1
        # A waiting thread that spins would take the processor from those that decode.
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if self.single_run:
            settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        return settings
