"""Forms of the forecaster by name: the published one in its sizes, and ours.

Functions that return a complete :class:`~lumos.config.ModelConfig`; a variant is another such
function of a few lines.
"""

from lumos.config import LossConfig, ModelConfig, TrainingConfig

# d_model, encoder and decoder layers, heads, d_ff. `tiny` is ours, for tests and laptops.
_SIZES = {
    "tiny": (64, 1, 4, 128),
    "small": (512, 6, 8, 2048),
    "medium": (640, 8, 8, 2560),
    "large": (768, 8, 12, 3072),
    "xlarge": (768, 10, 12, 3072),
}
SIZES = tuple(_SIZES)


def paper(size: str = "small") -> ModelConfig:
    """The published form (SPEC: model): learned positions, every day a token, all days seen."""
    if size not in _SIZES:
        msg = f"size {size!r} is unknown; choose from {', '.join(SIZES)}"
        raise ValueError(msg)
    d_model, num_layers, num_heads, d_ff = _SIZES[size]
    is_tiny = size == "tiny"
    return ModelConfig(
        d_model=d_model,
        num_encoder_layers=num_layers,
        num_decoder_layers=num_layers,
        num_heads=num_heads,
        d_ff=d_ff,
        d_user=64 if is_tiny else 128,
        d_event=32 if is_tiny else 64,
        d_static=16 if is_tiny else 32,
        positions="learned",
        encoder="bidirectional",
        patch_days=1,
        head_layers=2,
    )


def paper_training(**changes: object) -> TrainingConfig:
    """The published way to train it: AdamW, eq. 10, one origin a window, the last weights."""
    published: dict[str, object] = {
        "batch_size": 4096,
        "learning_rate": 1e-4,
        "weight_decay": 0.01,
        "loss": LossConfig(weighting="learned"),
        "origins_per_window": 1,
        "matrices": "adamw",
        "ema": 0.0,
    }
    return TrainingConfig.model_validate(published | changes)


def lumos(size: str = "tiny") -> ModelConfig:
    """Ours: weeks as tokens of a causal encoder, distances instead of positions."""
    published = paper(size)
    return ModelConfig(
        **published.model_dump(
            exclude={"positions", "encoder", "patch_days", "head_layers",
                     "num_encoder_layers", "num_decoder_layers"}
        ),
        num_encoder_layers=max(2, published.num_encoder_layers),
        num_decoder_layers=max(1, published.num_decoder_layers // 2),
        positions="distance",
        encoder="causal",
        patch_days=7,
        head_layers=0,
    )  # fmt: skip
