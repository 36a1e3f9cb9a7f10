"""The settings of an onnxruntime session."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import onnxruntime


class SessionConfig(NamedTuple):
    """The settings with which a session computes."""

    threads: int
    """The number of threads that one call computes with."""
    single_run: bool = False
    """The session runs only once. Its graph is not optimised, since that would take longer than it saves."""

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
