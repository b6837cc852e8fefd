"""The forecaster written straight from the equations (SPEC, model 1-10): slow, plain, no tricks.

One user, one origin, one attention head and one output at a time. Nothing is shared: every day
of every user embeds its own events, and every origin encodes afresh the days up to it and sees
no others, so that to agree with this is to have supervised each origin in a pass of its own.
Only days are rows of matrices, so that a benchmark can run it at real sizes.

Shape suffixes: B users, M origins, T history days that an origin sees, F horizon days, P tokens
of the encoder, Q queries, K keys, U activity columns, A hazards, K (last) tasks with a head,
C event columns, D model width, d = D / heads.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lumos.accio.dense import PADDING_ROW, Batch
from lumos.config import LossConfig
from lumos.model.forecaster import ForecasterConfig

State = Mapping[str, Tensor]
Said = tuple[Tensor, Tensor, Tensor]
BASE = 10_000.0


@dataclass(frozen=True)
class Seen:
    """All that one forecast may look at: the days up to its origin, and what lies ahead."""

    activity_TU: Tensor
    is_registered_T: Tensor
    static_S: Tensor
    past_events_TC: Tensor
    future_events_FC: Tensor

    @classmethod
    def at(cls, config: ForecasterConfig, batch: Batch, user: int, number: int) -> "Seen":
        """The ``number``-th origin of a user's window."""
        num_days = int(batch.origin_BM[user, number]) + 1
        if num_days % config.model.patch_days:
            msg = f"an origin must end a patch; this one sees {num_days} days"
            raise AssertionError(msg)
        index_L = batch.event_index_BL[user]
        ahead = config.history_days + number * config.horizon_days
        return cls(
            activity_TU=batch.activity_NU[batch.day_row_BT[user, :num_days]],
            is_registered_T=batch.day_row_BT[user, :num_days] != PADDING_ROW,
            static_S=batch.static_BS[user],
            past_events_TC=batch.events_EC[index_L[:num_days]],
            future_events_FC=batch.events_EC[index_L[ahead : ahead + config.horizon_days]],
        )


def forecast_literally(state: State, config: ForecasterConfig, batch: Batch) -> Said:
    """What the network says, from its parameters by name.

    Returns:
        Outputs (B, M, F, U), hazards (B, M, F, A) and tasks' heads (B, M, K), as
        :class:`~lumos.model.forecaster.Forecast` has them.
    """
    num_users, num_origins = batch.origin_BM.shape
    said = [
        _forecast(state, config, Seen.at(config, batch, user, number))
        for user in range(num_users)
        for number in range(num_origins)
    ]
    days, heads = (torch.stack(part) for part in zip(*said, strict=True))
    days = days.reshape(num_users, num_origins, *days.shape[1:])
    num_columns = len(config.columns)
    return (
        days[..., :num_columns],
        days[..., num_columns:],
        heads.reshape(num_users, num_origins, -1),
    )


def _forecast(state: State, config: ForecasterConfig, seen: Seen) -> tuple[Tensor, Tensor]:
    """One origin: (F, U + A) of the days, (K,) of the tasks."""
    states_FD = _decode(state, config, seen, _encode(state, config, seen))
    num_outputs = len(config.columns) + len(config.hazards)
    num_layers = config.model.head_layers
    days = [_head(state, "heads", n, num_layers, states_FD) for n in range(num_outputs)]
    tasks = []
    for number, head in enumerate(config.heads):
        mean_1D = states_FD[: head.window_days].mean(0, keepdim=True)
        tasks.append(_head(state, "task_heads", number, 2, mean_1D)[0])
    return torch.stack(days, dim=1), torch.stack(tasks) if tasks else states_FD.new_zeros(0)


def _history_tokens(state: State, config: ForecasterConfig, seen: Seen) -> Tensor:
    """Eq. 1-2: each modality's MLP a day, then the MLP of what they say together."""
    num_days = len(seen.activity_TU)
    activity_TU = torch.where(
        seen.is_registered_T[:, None], seen.activity_TU, state["tokens.padding_U"]
    )
    if config.model.events in ("full", "no_future"):
        event_TD = _mlp(state, "tokens.event", seen.past_events_TC)
    else:
        event_TD = seen.past_events_TC.new_zeros(num_days, config.model.d_event)
    parts = [
        _mlp(state, "tokens.user", activity_TU),
        _mlp(state, "tokens.static", seen.static_S.expand(num_days, -1)),
        event_TD,
    ]
    tokens_TD = _mlp(state, "tokens.project", torch.cat(parts, dim=1))
    return tokens_TD + _added_positions(state, config, range(num_days))


def _future_tokens(state: State, config: ForecasterConfig, seen: Seen) -> Tensor:
    """Eq. 3: of the events alone; one token for every day where these are not used."""
    origin, num_days = len(seen.activity_TU) - 1, config.horizon_days
    if config.model.events in ("no_future", "none"):
        tokens_FD = state["tokens.future_token_D"].expand(num_days, -1)
    elif config.model.future_embedding == "shared":
        embedded = _mlp(state, "tokens.event", seen.future_events_FC)
        tokens_FD = _mlp(state, "tokens.event_future", embedded)
    else:
        tokens_FD = _mlp(state, "tokens.event_future", seen.future_events_FC)
    return tokens_FD + _added_positions(state, config, range(origin + 1, origin + 1 + num_days))


def _added_positions(state: State, config: ForecasterConfig, days: range) -> Tensor | float:
    """Eq. 4, and what it is compared with; day 0 is the first of the history."""
    kind, width = config.model.positions, config.model.d_model
    num_days = config.history_days + config.horizon_days
    if kind == "learned":
        return state["positions.table"][list(days)]
    if kind == "absolute":
        return torch.stack([day / num_days * state["positions.table"] for day in days])
    if kind not in ("sinusoidal", "tape"):
        return 0.0
    stretch = width / num_days if kind == "tape" else 1.0
    rows = []
    for day in days:
        row = []
        for place in range(width):
            angle = day * stretch * BASE ** (-(place - place % 2) / width)
            row.append(math.cos(angle) if place % 2 else math.sin(angle))
        rows.append(row)
    return torch.tensor(rows, device=state["tokens.padding_U"].device)


@dataclass(frozen=True)
class _Clock:
    """How the queries and keys of one attention layer stand in time.

    Attributes:
        query_days, key_days: Day of each.
        unit_days: Days that a distance of 1 is.
        timing: Name of the layer's distance bias.
        is_causal: Whether later keys are hidden.
    """

    query_days: Tensor
    key_days: Tensor
    unit_days: int
    timing: str
    is_causal: bool


def _encode(state: State, config: ForecasterConfig, seen: Seen) -> Tensor:
    """Eq. 5 over days or patches; what the decoder reads, shape (T, D)."""
    model, days_TD = config.model, _history_tokens(state, config, seen)
    size = model.patch_days
    x_PD = days_TD
    if size > 1:
        patches = [days_TD[start : start + size] for start in range(0, len(days_TD), size)]
        x_PD = torch.stack(
            [_linear(state, "encoder.patch", torch.cat(list(patch))) for patch in patches]
        )
    last_days = torch.arange(size - 1, len(days_TD), size, device=x_PD.device)
    for layer in range(model.num_encoder_layers):
        clock = _Clock(
            last_days, last_days, size, f"encoder.timing.{layer}", model.encoder == "causal"
        )
        x_PD = _block(state, config, f"encoder.layers.{layer}", x_PD, None, clock)
    encoded_PD = _norm(state, "encoder.norm", x_PD)
    if size == 1:
        return encoded_PD
    by_day = [encoded_PD[day // size] + days_TD[day] for day in range(len(days_TD))]
    return _norm(state, "encoder.norm_days", torch.stack(by_day))


def _decode(state: State, config: ForecasterConfig, seen: Seen, memory_TD: Tensor) -> Tensor:
    """Eq. 6-9: each horizon day looks at the history, at no other horizon day."""
    y_FD = _future_tokens(state, config, seen)
    past = torch.arange(len(memory_TD), device=memory_TD.device)
    ahead = len(memory_TD) + torch.arange(config.horizon_days, device=memory_TD.device)
    for layer in range(config.model.num_decoder_layers):
        clock = _Clock(ahead, past, 1, f"decoder.timing.{layer}", is_causal=False)
        y_FD = _block(state, config, f"decoder.layers.{layer}", y_FD, memory_TD, clock)
    return _norm(state, "decoder.norm", y_FD)


def _block(
    state: State,
    config: ForecasterConfig,
    name: str,
    x_QD: Tensor,
    memory_KD: Tensor | None,
    clock: _Clock,
) -> Tensor:
    """Pre-norm attention over a memory (its own if ``None``), then pre-norm SwiGLU."""
    normed_QD = _norm(state, f"{name}.norm_attention", x_QD)
    memory_KD = normed_QD if memory_KD is None else memory_KD
    x_QD = x_QD + _attend(state, config, f"{name}.attention", normed_QD, memory_KD, clock)
    return x_QD + _swiglu(state, f"{name}.feed", _norm(state, f"{name}.norm_feed", x_QD))


def _attend(
    state: State,
    config: ForecasterConfig,
    name: str,
    x_QD: Tensor,
    memory_KD: Tensor,
    clock: _Clock,
) -> Tensor:
    """softmax(q k / sqrt(d) + bias) v of each head."""
    model = config.model
    size = model.d_model // model.num_heads
    query_QD = _linear(state, f"{name}.query", x_QD)
    key_KD, value_KD = _linear(state, f"{name}.key_and_value", memory_KD).chunk(2, dim=1)
    mixed = []
    for head in range(model.num_heads):
        mine = slice(head * size, (head + 1) * size)
        query, key = query_QD[:, mine], key_KD[:, mine]
        if model.positions == "rope":
            query, key = _turn(query, clock.query_days), _turn(key, clock.key_days)
        scores_QK = query @ key.T / math.sqrt(size)
        if model.positions == "distance":
            scores_QK = scores_QK + _distance_bias(state, head, model.num_heads, clock)
        if clock.is_causal:
            is_later = clock.key_days > clock.query_days[:, None]
            scores_QK = torch.where(is_later, -math.inf, scores_QK)
        weights_QK = torch.exp(scores_QK - scores_QK.max(1, keepdim=True).values.detach())
        weights_QK = weights_QK / weights_QK.sum(1, keepdim=True)
        mixed.append(weights_QK @ value_KD[:, mine])
    return _linear(state, f"{name}.out", torch.cat(mixed, dim=1))


def _turn(x_Kd: Tensor, days: Tensor) -> Tensor:
    """RoPE: number i and number i + d / 2 are one complex number, turned by its day."""
    size = x_Kd.shape[1]
    frequency = BASE ** (-torch.arange(0, size, 2, device=days.device).double() / size)
    angle = (days[:, None] * frequency).to(x_Kd.dtype)
    turned = torch.complex(x_Kd[:, : size // 2], x_Kd[:, size // 2 :]) * torch.polar(
        torch.ones_like(angle), angle
    )
    return torch.cat([turned.real, turned.imag], dim=1)


def _distance_bias(state: State, head: int, num_heads: int, clock: _Clock) -> Tensor:
    """ALiBi's line, a free number a distance, and one a distance modulo a week."""
    distance_QK = (clock.query_days[:, None] - clock.key_days) // clock.unit_days
    # Free numbers stand by distance: 0, 1, 2 ... and, from the end, -1, -2 ...
    free_QK = state[f"{clock.timing}.bias.bias_free"][head][distance_QK]
    bias_QK = free_QK - 2 ** (-8 * (head + 1) / num_heads) * distance_QK.abs()
    if clock.unit_days % 7:
        week = state[f"{clock.timing}.bias.bias_week"][head]
        bias_QK = bias_QK + week[distance_QK * clock.unit_days % 7]
    return bias_QK


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _mlp(state: State, name: str, x: Tensor) -> Tensor:
    """Linear layers with ReLU between them; ``name`` numbers ReLUs as layers too."""
    layer = 0
    while f"{name}.{layer}.weight" in state:
        x = _linear(state, f"{name}.{layer}", x.clamp(min=0) if layer else x)
        layer += 2
    return x


def _norm(state: State, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def _swiglu(state: State, name: str, x: Tensor) -> Tensor:
    gate, value = _linear(state, f"{name}.gate_and_value", x).chunk(2, dim=-1)
    return _linear(state, f"{name}.out", gate / (1 + torch.exp(-gate)) * value)


def _head(state: State, name: str, number: int, num_layers: int, x_ND: Tensor) -> Tensor:
    """Hidden layers with ReLU, then one scalar a row."""
    for layer in range(1, num_layers + 1):
        weight, bias = (state[f"{name}.{kind}_{layer}"][number] for kind in ("weight", "bias"))
        x_ND = (x_ND @ weight + bias).clamp(min=0)
    return (x_ND @ state[f"{name}.weight_out"][number] + state[f"{name}.bias_out"][number])[:, 0]


def loss_literally(
    said: Said,
    config: ForecasterConfig,
    batch: Batch,
    loss: LossConfig,
    log_variance_N: Tensor | None = None,
) -> Tensor:
    """Eq. 10 over the mean loss of each term, or their sum with fixed weights; a scalar.

    Args:
        said: From :func:`forecast_literally`.
        config: Says which is which.
        batch: The labels, and which of them count.
        loss: How terms are weighted.
        log_variance_N: log sigma_i^2 of columns, hazards and heads, where it is learned.
    """
    terms = list(_terms(said, config, batch))
    groups = [group for group, _ in terms]
    total = batch.targets_BMFU.new_zeros(())
    for number, (group, losses) in enumerate(terms):
        if not len(losses):
            continue
        if log_variance_N is None:
            total = total + losses.mean() * getattr(loss, group) / groups.count(group)
        else:
            log_variance = log_variance_N[number]
            total = total + losses.mean() / (2 * torch.exp(log_variance)) + log_variance
    return total


def _terms(said: Said, config: ForecasterConfig, batch: Batch) -> Iterator[tuple[str, Tensor]]:
    """Each term's group, and its loss on each day or window that counts."""
    outputs_BMFU, hazards_BMFA, heads_BMK = said
    is_real_BM = batch.weight_BM > 0
    is_known_BMF = is_real_BM[..., None] & batch.is_known_BMF
    for number, is_binary in enumerate(config.is_binary):
        counts = is_known_BMF if is_binary else is_known_BMF & batch.is_active_BMF
        pair = outputs_BMFU[..., number][counts], batch.targets_BMFU[..., number][counts]
        yield ("binary", _entropy(*pair)) if is_binary else ("continuous", _square(*pair))
    for number, name in enumerate(config.hazards):
        target_BMF = batch.targets_BMFU[..., config.columns.index(name)]
        losses = []
        still_none_BM = torch.ones_like(is_real_BM)
        for day in range(config.horizon_days):
            counts = is_known_BMF[..., day] & still_none_BM
            target = target_BMF[..., day][counts]
            losses.append(_entropy(hazards_BMFA[..., day, number][counts], target))
            still_none_BM = still_none_BM & (target_BMF[..., day] == 0)
        yield "hazard", torch.cat(losses)
    for number, head in enumerate(config.heads):
        counts = is_real_BM & batch.is_task_known_BMK[..., number]
        pair = heads_BMK[..., number][counts], batch.task_targets_BMK[..., number][counts]
        measure: Callable[[Tensor, Tensor], Tensor] = _distance if head.is_median else _square
        yield ("chance", _entropy(*pair)) if head.is_binary else ("amount", measure(*pair))


def _entropy(logit: Tensor, target: Tensor) -> Tensor:
    """-t log p - (1 - t) log(1 - p) with p = 1 / (1 + exp(-logit))."""
    return target * torch.log(1 + torch.exp(-logit)) + (1 - target) * torch.log(
        1 + torch.exp(logit)
    )


def _square(said: Tensor, target: Tensor) -> Tensor:
    return (said - target) ** 2


def _distance(said: Tensor, target: Tensor) -> Tensor:
    return (said - target).abs()
