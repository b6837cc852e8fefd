"""Users and days as vectors, by a trained forecaster: what the verb ``embed`` and studies share."""

from collections.abc import Sequence

import numpy as np
import torch

from lumos.accio.batch import ragged_batch
from lumos.accio.events import EventCalendar
from lumos.accio.users import Users
from lumos.config import EmbeddingConfig
from lumos.model.pooling import pool
from lumos.train.checkpoint import Checkpoint


def user_vectors(
    checkpoint: Checkpoint,
    users: Users,
    origins: np.ndarray,
    events: EventCalendar,
    forms: Sequence[EmbeddingConfig],
    *,
    batch_size: int,
) -> list[np.ndarray]:
    """What each user did up to an origin, in one vector; several forms cost one pass.

    Args:
        checkpoint: The forecaster.
        users: N users.
        origins: Last day seen of each, day numbers, shape (N,).
        events: The calendar; each origin gets what was known on it.
        forms: Which days' states, and how they are pooled.
        batch_size: Windows computed at a time.

    Returns:
        float32 of shape (N, d_model) for each form.
    """
    recipe, model = checkpoint.recipe, checkpoint.model.eval()
    width = model.config.model.d_model
    found = [np.zeros((len(users), width), np.float32) for _ in forms]
    needs_encoder = any(form.stage == "post" for form in forms)
    with torch.inference_mode():
        for start in range(0, len(users), batch_size):
            chunk = np.arange(start, min(start + batch_size, len(users)))
            # No horizon: what is to come says nothing of what the user has done.
            ragged = ragged_batch(users.take(chunk), origins[chunk], recipe.history_days, 0)
            batch = checkpoint.scaler.batch(ragged, events, recipe, device=str(model.device))
            states = {"pre": model.tokens.history(batch)}
            if needs_encoder:
                states["post"] = model.encode(states["pre"])
            for vectors, form in zip(found, forms, strict=True):
                pooled = pool(states[form.stage].float(), batch.is_registered_BT, form)
                vectors[chunk] = pooled.cpu().numpy()
    return found


def static_vectors(checkpoint: Checkpoint, users: Users) -> np.ndarray:
    """What is known of users who did nothing yet: h_static, float32 of shape (N, d_static)."""
    encoded = torch.from_numpy(checkpoint.scaler.encode_static(users))
    model = checkpoint.model.eval()
    with torch.inference_mode():
        vectors: np.ndarray = model.tokens.static(encoded.to(model.device)).float().cpu().numpy()
    return vectors


def day_vectors(checkpoint: Checkpoint, rows: np.ndarray) -> np.ndarray | None:
    """What the network makes of days' event context.

    Args:
        checkpoint: The forecaster.
        rows: Raw event context, shape (N, d_s).

    Returns:
        float32 of shape (N, width), or ``None`` of a network that sees no events.
    """
    scaled = torch.from_numpy(checkpoint.scaler.scale_events(rows))
    model = checkpoint.model.eval()
    with torch.inference_mode():
        vectors = model.tokens.context(scaled.to(model.device))
    return None if vectors is None else vectors.float().cpu().numpy()
