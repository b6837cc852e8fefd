"""The forecaster as it computes when serving: exactly, in bfloat16, in whole numbers, or compiled.

The weights stay those of the checkpoint; what is lost by a coarser form is measured by
``python -m benchmarks.score``.
"""

import copy
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from lumos.accio.dense import Batch
from lumos.config import ScoringConfig
from lumos.model.forecaster import Forecast
from lumos.tasks import DayForecasts
from lumos.train.checkpoint import Checkpoint
from lumos.train.predict import in_raw_units
from lumos.verbs import BadInput


@dataclass(frozen=True)
class Network:
    """A forecaster ready to answer.

    Attributes:
        checkpoint: Its recipe says what the columns are, its scaler scales them.
        forward: Batch in, forecast out.
        device: Where it computes, and where batches must be.
        is_bfloat16: Whether matrix products are rounded.
    """

    checkpoint: Checkpoint
    forward: Callable[[Batch], Forecast]
    device: str
    is_bfloat16: bool = False

    @classmethod
    def of(cls, checkpoint: Checkpoint, scoring: ScoringConfig, device: str = "cpu") -> "Network":
        """Prepare a checkpoint's forecaster as the recipe wants it.

        Raises:
            BadInput: It cannot be had here: whole numbers on a GPU, or no compiler.
        """
        model: nn.Module = checkpoint.model.eval().to(device)
        if scoring.precision == "int8":
            model = _in_whole_numbers(model, device)
        if scoring.compile:
            model = _compiled(model, device)
        return cls(checkpoint, model, device, scoring.precision == "bfloat16")

    def answer(self, batch: Batch) -> DayForecasts:
        """What it forecasts, in raw units."""
        kind = self.device.split(":")[0]
        with (
            torch.inference_mode(),
            torch.autocast(kind, torch.bfloat16, enabled=self.is_bfloat16),
        ):
            said = self.forward(batch)
            return in_raw_units(said, self.checkpoint.recipe, self.checkpoint.scaler)


def _in_whole_numbers(model: nn.Module, device: str) -> nn.Module:
    """A copy whose linear layers have 8-bit weights, and 8-bit inputs scaled batch by batch."""
    if device != "cpu":
        msg = (
            f"scoring.precision='int8' works on a CPU alone, and this process has {device}; "
            "choose 'bfloat16' or 'float32'"
        )
        raise BadInput(msg)
    from torch.ao.nn.quantized import dynamic
    from torch.ao.quantization import default_dynamic_qconfig

    quantised: Callable[[nn.Linear], nn.Module] = dynamic.Linear.from_float
    with warnings.catch_warnings():
        # Deprecated in favour of a package whose kernels want other processors than servers have.
        warnings.simplefilter("ignore")
        model = copy.deepcopy(model)
        for name, layer in list(model.named_modules()):
            # The first layer of MLP_proj is never called: its weight is split by modality.
            if type(layer) is nn.Linear and name != "tokens.project.0":
                parent, _, last = name.rpartition(".")
                setattr(layer, "qconfig", default_dynamic_qconfig)  # noqa: B010 - not a module
                setattr(model.get_submodule(parent), last, quantised(layer))
    return model


def _compiled(model: nn.Module, device: str) -> nn.Module:
    if device == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        msg = (
            "scoring.compile=true needs a C++ compiler, and there is neither g++ nor clang++ on "
            "the PATH; install one (Debian: apt install g++), or set scoring.compile=false"
        )
        raise BadInput(msg)
    # The last batch of a row group is smaller than the others.
    compiled = torch.compile(model, dynamic=True)
    assert isinstance(compiled, nn.Module)
    return compiled


def num_workers(network: Network, scoring: ScoringConfig, num_cores: int) -> int:
    """Batches computed at a time: one a core, each on one thread, which never wait for each other.

    A GPU, and what is compiled while it runs, takes one batch at a time.
    """
    return num_cores if network.device == "cpu" and not scoring.compile else 1
