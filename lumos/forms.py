"""What a forecaster may be, and how it may be trained: the choices that a recipe makes.

:mod:`lumos.presets` names whole sets of them.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from lumos.frozen import Config


class ModelConfig(Config):
    """The forecaster (SPEC: model, eq. 1-9): widths, and the choices that are studied.

    Attributes:
        positions: How a token knows its day. ``learned``, ``sinusoidal``, ``tape`` (sinusoids
            whose frequencies fit width and length: Foumani et al. 2023) and ``absolute`` (a
            line) are added to the tokens; ``rope`` turns queries and keys (Su et al. 2021);
            ``distance`` adds to attention a line a head (ALiBi: Press et al. 2021), a free
            number a distance and one a distance modulo a week.
        events: Which days' event context is used at all.
        future_embedding: ``shared`` projects the history's event embedding (the 2026 talk).
        encoder: Whether a day sees later days of the history. Only a causal one can be
            supervised at several origins in one pass.
        patch_days: Days a token of the encoder; the decoder reads days all the same.
        head_layers: Hidden layers of each column's own network that reads a day's state; 0 is a
            linear read-out. Tasks' heads always have two.
    """

    d_model: int = Field(default=64, ge=2, le=8_192)
    num_encoder_layers: int = Field(default=2, ge=1, le=128)
    num_decoder_layers: int = Field(default=1, ge=1, le=128)
    num_heads: int = Field(default=4, ge=1, le=128)
    d_ff: int = Field(default=128, ge=1, le=32_768)
    d_user: int = Field(default=64, ge=1, le=8_192)
    d_event: int = Field(default=32, ge=1, le=8_192)
    d_static: int = Field(default=16, ge=1, le=8_192)
    mlp_layers: int = Field(default=2, ge=1, le=3)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    positions: Literal["none", "learned", "sinusoidal", "tape", "absolute", "rope", "distance"] = (
        "distance"
    )
    events: Literal["full", "no_future", "no_past", "none"] = "full"
    future_embedding: Literal["separate", "shared"] = "separate"
    encoder: Literal["bidirectional", "causal"] = "causal"
    patch_days: int = Field(default=7, ge=1, le=366)
    head_layers: int = Field(default=0, ge=0, le=3)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.d_model % self.num_heads:
            msg = (
                f"model.d_model={self.d_model} is not divisible by "
                f"model.num_heads={self.num_heads}; choose a multiple"
            )
            raise ValueError(msg)
        if self.positions == "rope" and self.d_model // self.num_heads % 2:
            msg = (
                f"model.positions='rope' turns pairs: model.d_model={self.d_model} over "
                f"model.num_heads={self.num_heads} must be even"
            )
            raise ValueError(msg)
        return self


class LossConfig(Config):
    """What a step makes smaller.

    ``learned`` is eq. 10: each term weighted by a variance that is learned. ``fixed`` shares out
    these weights within each group of terms.

    Attributes:
        binary: Day forecasts of the binary columns, together.
        continuous: Of the continuous ones.
        hazard: First-time chances behind the ``any`` tasks that have a head.
        chance: Heads of binary tasks.
        amount: Heads of amounts.
    """

    weighting: Literal["learned", "fixed"] = "fixed"
    binary: float = Field(default=0.3, ge=0)
    continuous: float = Field(default=0.1, ge=0)
    hazard: float = Field(default=1.0, ge=0)
    chance: float = Field(default=1.0, ge=0)
    amount: float = Field(default=0.1, ge=0)


class TrainingConfig(Config):
    """How the forecaster is trained. ``batch_size`` is global: all ranks together.

    What a run may override has a limit, lest one number fills the machine that others use.

    Attributes:
        origins_per_window: Forecast origins supervised in one pass over a history; more than
            one needs a causal encoder.
        matrices: ``muon`` gives the weight matrices inside the network to Muon (Jordan 2024),
            the rest to AdamW.
        accumulate: Micro-batches a step; each holds ``batch_size / accumulate`` users.
        ema: Decay of the running average of the weights that is kept instead of the last
            ones; 0 keeps the last.
        patience: Epochs without a better validation loss after which training stops, the best
            weights kept; 0 trains all epochs.
        compile: Whether PyTorch compiles the network first.
    """

    epochs: int = Field(default=6, ge=1, le=10_000)
    batch_size: int = Field(default=64, ge=1, le=1_000_000)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_share: float = Field(default=0.1, ge=0, le=1)
    clip_norm: float = Field(default=1.0, gt=0)
    loss: LossConfig = LossConfig()
    origins_per_window: int = Field(default=8, ge=1, le=1_000)
    matrices: Literal["adamw", "muon"] = "muon"
    muon_learning_rate: float = Field(default=0.01, gt=0)
    muon_weight_decay: float = Field(default=0.1, ge=0)
    accumulate: int = Field(default=1, ge=1, le=10_000)
    ema: float = Field(default=0.99, ge=0, lt=1)
    patience: int = Field(default=0, ge=0, le=10_000)
    compile: bool = False
    held_out_users_share: float = Field(default=0.1, gt=0, lt=1)
    min_history_days: int = Field(
        default=28, ge=1, le=36_500, description="recorded days before the first training origin"
    )
    max_validation_users: int = Field(
        default=20_000, ge=1, le=10_000_000, description="of each split; more are sampled by hash"
    )
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    processes: int = Field(default=2, ge=1, le=64)
    loader_workers: int = Field(
        default=0, ge=0, le=64, description="processes that read beside each training process"
    )

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.batch_size % self.accumulate:
            msg = (
                f"training.batch_size={self.batch_size} is not divisible by "
                f"training.accumulate={self.accumulate}"
            )
            raise ValueError(msg)
        return self


class EmbeddingConfig(Config):
    """A user as one vector, and what is made of it (SPEC: embeddings).

    Attributes:
        pooling: Of the days of the history: their ``mean``, ``max``, or ``ema``, which counts
            recent days more.
        stage: Of tokens before the encoder (``pre``) or of encoded days (``post``).
        decay: Lambda of ``ema``: weights are softmax(decay * t), t in [0, 1]; 0 is the mean.
        compare_days: A change is taken against the embedding of so many days before.
        anomaly_rate: At most this share of users is flagged for a change.
        num_cohorts: Clusters of users.
    """

    pooling: Literal["mean", "max", "ema"] = "ema"
    stage: Literal["pre", "post"] = "pre"
    decay: float = Field(default=10.0, ge=0, le=100)
    compare_days: int = Field(default=1, ge=1, le=28)
    anomaly_rate: float = Field(default=0.001, gt=0, le=0.1)
    num_cohorts: int = Field(default=12, ge=1, le=1000)

    @property
    def form(self) -> str:
        """Vectors of one model version are comparable when this is the same."""
        decay = f"({self.decay:g})" if self.pooling == "ema" else ""
        return f"{self.pooling}{decay} {self.stage}"
