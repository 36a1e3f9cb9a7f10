"""What timm's networks say of their own features: forward_features, and forward_head(pre_logits=True)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from imgclassify.graphs.session import FEATURE_MAP, FEATURES, LOGITS

if TYPE_CHECKING:
    import torch


def has_timm_methods(network: torch.nn.Module) -> bool:
    return hasattr(network, "forward_features") and hasattr(network, "forward_head")


def timm_outputs(network: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Runs a timm network: (N, 3, H, W) → LOGITS, FEATURES and FEATURE_MAP.

    Without LOGITS if the network has no classifier, and without FEATURE_MAP if it computes tokens.
    """
    last = network.forward_features(images)
    outputs = {FEATURES: network.forward_head(last, pre_logits=True)}
    if getattr(network, "num_classes", 1) != 0:
        outputs[LOGITS] = network.forward_head(last)
    if last.ndim == 4:
        channels_last = getattr(network, "output_fmt", "NCHW") == "NHWC"
        outputs[FEATURE_MAP] = last.permute(0, 3, 1, 2) if channels_last else last
    return outputs
