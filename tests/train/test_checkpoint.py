import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumos.accio.events import EventCalendar
from lumos.config import Recipe
from lumos.model.forecaster import Forecaster, ForecasterConfig
from lumos.overrides import override
from lumos.train.checkpoint import Checkpoint, load, save
from lumos.train.scaler import Scaler, ScalerFit
from lumos.verbs import BadInput
from tests.accio import small

RECIPE = small.recipe()


def scaler_of(recipe: Recipe, events: EventCalendar | None = None) -> Scaler:
    users = small.users()
    last = int(users.days.max()) - 20
    fit = ScalerFit(recipe, last, last + recipe.horizon_days)
    fit.add(users)
    return fit.scaler(events or small.calendar(recipe), last - 100)


SCALER = scaler_of(RECIPE)


def a_checkpoint(seed: int = 0) -> Checkpoint:
    torch.manual_seed(seed)
    config = ForecasterConfig.of(RECIPE, num_static=SCALER.num_static, num_events=SCALER.num_events)
    return Checkpoint(Forecaster(config), SCALER, RECIPE, {"as_of": "2024-05-10"})


def weight_of(checkpoint: Checkpoint) -> torch.Tensor:
    return checkpoint.model.heads.weight_out


def test_a_forecaster_is_built_again_from_its_folder_alone(tmp_path: Path) -> None:
    saved = a_checkpoint()
    save(tmp_path / "c", saved)
    loaded = load(tmp_path / "c")
    assert (loaded.recipe, loaded.scaler, loaded.info) == (RECIPE, SCALER, saved.info)
    theirs = loaded.model.state_dict()
    assert all(torch.equal(v, theirs[k]) for k, v in saved.model.state_dict().items())
    # Never pickle: JSON and safetensors alone.
    assert {path.suffix for path in (tmp_path / "c").iterdir()} == {".json", ".safetensors"}


def test_a_save_that_fails_leaves_the_earlier_checkpoint_whole(tmp_path: Path) -> None:
    save(tmp_path / "c", a_checkpoint(0))
    with pytest.raises(TypeError, match="not JSON serializable"):
        save(tmp_path / "c", replace(a_checkpoint(1), info={"as_of": object()}))
    assert torch.equal(weight_of(load(tmp_path / "c")), weight_of(a_checkpoint(0)))
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_an_incomplete_folder_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    save(tmp_path / "c", a_checkpoint())
    (tmp_path / "c" / "scaler.json").unlink()
    with pytest.raises(BadInput, match=r"no model checkpoint: scaler\.json missing"):
        load(tmp_path / "c")


def cut_short(folder: Path) -> None:
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def one_weight_changed(folder: Path) -> None:
    tensors = load_file(folder / "weights.safetensors")
    tensors["heads.bias_out"][0] += 1
    save_file(tensors, folder / "weights.safetensors")


def another_scale(folder: Path) -> None:
    scaler = folder / "scaler.json"
    scaler.write_text(scaler.read_text().replace('"visited": 1.0', '"visited": 2.0', 1))


def another_day(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text().replace("2024-05-10", "2024-05-11"))


def no_json(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(config.read_text()[:-50])


def of_long_ago(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["format"], config["files"]
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (cut_short, r"weights\.safetensors was cut short or changed"),
        (one_weight_changed, r"weights\.safetensors was cut short or changed"),
        (another_scale, r"scaler\.json was cut short or changed"),
        (another_day, r"config\.json was changed"),
        (no_json, r"config\.json cannot be read \(.*line"),
        (of_long_ago, r"config\.json is of format unknown, and this LUMOS reads format 2"),
    ],
)
def test_what_is_not_as_it_was_saved_is_not_used(
    tmp_path: Path, harm: Callable[[Path], None], why: str
) -> None:
    save(tmp_path / "c", a_checkpoint())
    harm(tmp_path / "c")
    with pytest.raises(BadInput, match=rf"c cannot be used: {why}.*; fetch it anew, or train"):
        load(tmp_path / "c")


def test_a_scaler_of_other_columns_is_refused_with_both_named(tmp_path: Path) -> None:
    of = override(RECIPE, {"calendar": ("monday", "sunday")})
    save(tmp_path / "c", replace(a_checkpoint(), recipe=of))
    with pytest.raises(BadInput, match=r"fitted on the event columns .*'tuesday'.* gym has"):
        load(tmp_path / "c")
    fewer = SCALER.model_dump()
    del fewer["scale"]["spend"]
    save(tmp_path / "c", replace(a_checkpoint(), scaler=Scaler.model_validate(fewer)))
    with pytest.raises(BadInput, match=r"fitted on the activity columns .*'minutes'\], and"):
        load(tmp_path / "c")


def test_a_recipe_of_another_version_of_lumos_is_explained(tmp_path: Path) -> None:
    other = a_checkpoint()
    object.__setattr__(other, "recipe", RECIPE.model_copy(update={"horizon_days": 0}))
    save(tmp_path / "c", other)
    with pytest.raises(BadInput, match=r"another version of LUMOS wrote it \(horizon_days: "):
        load(tmp_path / "c")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    other = a_checkpoint()
    other.model.heads.weight_1 = torch.nn.Parameter(torch.zeros(1, 2))
    save(tmp_path / "c", other)
    with pytest.raises(BadInput, match=r"belongs to another network .*heads\.weight_1"):
        load(tmp_path / "c")
