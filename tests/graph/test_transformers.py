"""Vision models of Hugging Face transformers, small ones built from their configurations; an optional check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunus
from prunus.testing import lively

pytestmark = pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*:FutureWarning")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

PLAIN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 8}
WINDOWS = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 2], "num_heads": [2, 4], "window_size": 4}
STAGES = {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2}
PYRAMID = {
    "num_encoder_blocks": 2,
    "depths": [1, 1],
    "sr_ratios": [2, 1],
    "hidden_sizes": [16, 32],
    "patch_sizes": [3, 3],
    "strides": [2, 2],
    "num_attention_heads": [2, 4],
    "mlp_ratios": [2, 2],
    "decoder_hidden_size": 32,
}
MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "ViT": ({**PLAIN, "intermediate_size": 64}, "ForImageClassification"),
    "DeiT": ({**PLAIN, "intermediate_size": 64}, "ForImageClassification"),
    "Beit": ({**PLAIN, "intermediate_size": 64, "use_relative_position_bias": True}, "ForImageClassification"),
    "Dinov2": (PLAIN, "ForImageClassification"),
    "Swin": (WINDOWS, "ForImageClassification"),
    "Swinv2": (WINDOWS, "ForImageClassification"),
    "ConvNext": (STAGES, "ForImageClassification"),
    "ConvNextV2": (STAGES, "ForImageClassification"),
    "ResNet": ({"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}, "ForImageClassification"),
    "Segformer": (PYRAMID, "ForSemanticSegmentation"),
}


def build(name: str) -> nn.Module:
    """The model with random weights, its norms drawn anew."""
    settings, head = MODELS[name]
    torch.manual_seed(0)
    config: Callable[..., Any] = getattr(transformers, f"{name}Config")
    model: nn.Module = getattr(transformers, f"{name}{head}")(config(**settings))
    lively(model)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_it_is_pruned_and_proven(name: str) -> None:
    model, example = build(name), {"pixel_values": torch.randn(2, 3, 32, 32)}
    small = prunus.prune(model, example, "macs=50%")
    assert small.proof is not None and small.proof.holds
    assert small.coupling.unknown_ops == () and small.coupling.prunable > 0.95
    assert 0.45 < small.after.macs / small.before.macs <= 0.5
    out: Tensor = small.model(**example).logits
    assert out.shape == model(**example).logits.shape


def test_blocks_of_a_transformer_go_whole() -> None:
    small = prunus.prune(build("ViT"), {"pixel_values": torch.randn(2, 3, 32, 32)}, "blocks=-1")
    assert len(small.plan.dropped) == 1 and small.proof is not None and small.proof.holds


@pytest.mark.parametrize("name", ["Llama", "Qwen3", "GPT2"])
def test_a_language_model_prunes_whole_where_its_cache_is_no_output(name: str) -> None:
    if name == "GPT2":
        sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        sizes |= {"intermediate_size": 64, "head_dim": 8}
    kind = "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    model = lively(getattr(transformers, kind)(getattr(transformers, f"{name}Config")(vocab_size=90, **sizes)).eval())
    ids = torch.randint(0, 90, (2, 12))
    alone = {"input_ids": ids, "use_cache": False}
    small = prunus.prune(model, alone, "macs=50%", method="random")
    assert small.proof is not None and small.proof.worst < 1e-9
    # the stream, heads or their width in each block, and each MLP
    assert len(prunus.trace(model, alone).groups) == 5
    with torch.no_grad():  # the cut network keeps a cache all the same
        kept = small.model(ids[:, :6], use_cache=True)
        further = small.model(ids[:, 6:], past_key_values=kept.past_key_values).logits
        torch.testing.assert_close(further, small.model(**alone).logits[:, 6:], rtol=1e-3, atol=1e-4)
    cached = prunus.trace(model, {"input_ids": ids})
    assert len(cached.groups) == 2 + (name == "GPT2")  # its MLPs; the stream of GPT-2 alone does not depend on heads
