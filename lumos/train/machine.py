"""How busy the machine is, under the names that MLflow's own page of system metrics shows."""

import psutil  # type: ignore[import-untyped]
import torch


def machine_metrics(device: str) -> dict[str, float]:
    """Processor use since the last call, memory in use now, and the most a GPU held.

    Args:
        device: Of this process; a GPU's memory is reported for ``cuda:N`` alone.
    """
    memory = psutil.virtual_memory()
    measured = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": memory.percent,
        "process_memory_usage_megabytes": psutil.Process().memory_info().rss / 1e6,
    }
    if device != "cpu":
        free, total = torch.cuda.mem_get_info(device)
        number = torch.device(device).index or 0
        measured[f"gpu_{number}_memory_usage_megabytes"] = (total - free) / 1e6
        measured[f"gpu_{number}_memory_usage_percentage"] = 100 * (1 - free / total)
        most = torch.cuda.max_memory_allocated(device) / 1e6
        measured[f"gpu_{number}_memory_most_allocated_megabytes"] = most
    return {f"system/{name}": value for name, value in measured.items()}
