"""The verb `train` on a small lake: what it leaves behind, what it survives, what it refuses."""

import itertools
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deltalake import DeltaTable
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from lumos import ledger
from lumos.config import Recipe
from lumos.delta import predicate
from lumos.overrides import override
from lumos.settings import Settings
from lumos.tables import table_uri
from lumos.train import epoch_log, tracking
from lumos.train.checkpoint import load
from lumos.train.loop import train
from lumos.train.predict import forecast
from lumos.verbs import RESUME, BadInput, GateRefused, Report, Request, TableWritten
from tests.accio import small
from tests.train.command import CHANGES as LONG
from tests.train.command import TORCHRUN, Command

NUM_EPOCHS = 8  # so many that a process is killed long before the last
AWAY = (1, 4, 5)  # of the calls that log metrics, those that MLflow does not take
CHANGES = {**LONG, "training.epochs": NUM_EPOCHS}


def request(at: Settings, recipe: Recipe, **fields: Any) -> Request:
    return Request(verb="train", recipe=recipe, date=small.AS_OF, settings=at, **fields)


def recipe(**changes: Any) -> Recipe:
    return override(small.recipe(), {"training.epochs": 1, **changes})


def weights(at: Settings, of: Recipe, version: str = "1") -> bytes:
    return (tracking.checkpoint_of(at, of, version) / "weights.safetensors").read_bytes()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Report]:
    """A lake trained by this process alone, undisturbed but for an MLflow that is away twice."""
    at = small.write_lake(tmp_path_factory.mktemp("alone"), small.users(60))
    log_batch, calls = MlflowClient.log_batch, itertools.count(1)

    def now_and_then(self: MlflowClient, run_id: str, metrics: Any = (), **more: Any) -> None:
        if metrics and next(calls) in AWAY:
            raise MlflowException("connection refused")
        log_batch(self, run_id, metrics=metrics, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(epoch_log, "_PAUSE_SECONDS", 0.2)
        patched.setattr(MlflowClient, "log_batch", now_and_then)
        report = train(request(at, override(small.recipe(), CHANGES)))
    assert next(calls) > max(AWAY)
    return at, report


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A lake whose training by two processes was killed with -9 in its third epoch."""
    at = small.write_lake(tmp_path_factory.mktemp("half"), small.users(60))
    first = Command(at, *TORCHRUN, epochs=NUM_EPOCHS)
    first.wait_for(f"epoch 2/{NUM_EPOCHS}")
    first.end(signal.SIGKILL)
    return at


@pytest.fixture(scope="module")
def killed(half: Settings, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, str]:
    """The same lake after the same command has ended the training."""
    at = copied(half, tmp_path_factory.mktemp("killed"))
    code, said = Command(at, *TORCHRUN, epochs=NUM_EPOCHS).end()
    assert code == 0, said
    return at, said


def copied(at: Settings, home: Path) -> Settings:
    shutil.copytree(at.home, home, dirs_exist_ok=True)
    return small.settings(home)


def test_two_processes_killed_with_9_and_run_again_end_bit_for_bit_as_if_undisturbed(
    killed: tuple[Settings, str], tmp_path: Path
) -> None:
    at, said = killed
    assert "resuming at epoch" in said
    undisturbed = small.write_lake(tmp_path, small.users(60))
    code, errors = Command(undisturbed, *TORCHRUN, epochs=NUM_EPOCHS).end()
    assert code == 0, errors
    assert weights(at, small.recipe()) == weights(undisturbed, small.recipe())
    versions = tracking.client(at).search_model_versions("name='lumos_gym'")
    assert [version.version for version in versions] == [1]
    assert not list((at.home / "train" / "gym").iterdir())


def losses(at: Settings) -> np.ndarray:
    """Of each epoch: the objective, then each column's; shape (columns + 1, epochs)."""
    tracker = tracking.client(at)
    run_id = tracker.get_model_version("lumos_gym", "1").run_id
    names = ["train/loss", *(f"train/loss_{c.name}" for c in small.recipe().activity)]
    histories = [tracker.get_metric_history(run_id, name) for name in names]
    steps = [[metric.step for metric in history] for history in histories]
    assert steps == [list(range(NUM_EPOCHS))] * len(names)  # none twice, none lost
    return np.array([[metric.value for metric in history] for history in histories])


def assert_one_training(ours: np.ndarray, theirs: np.ndarray) -> None:
    """Rounding alone tells them apart, and grows from epoch to epoch."""
    np.testing.assert_allclose(ours[:, :4], theirs[:, :4], rtol=2e-5)


def test_a_training_during_which_mlflow_is_away_ends_with_all_its_metrics(
    alone: tuple[Settings, Report],
) -> None:
    assert np.isfinite(losses(alone[0])).all()


def test_two_processes_train_as_one_does(
    killed: tuple[Settings, str], alone: tuple[Settings, Report]
) -> None:
    assert_one_training(losses(killed[0]), losses(alone[0]))


def test_a_sigterm_saves_and_the_same_command_goes_on_whatever_else_of_the_recipe_changed(
    alone: tuple[Settings, Report], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    at = small.write_lake(tmp_path, small.users(60))
    command = Command(at, epochs=NUM_EPOCHS)
    command.wait_for(f"epoch 2/{NUM_EPOCHS}")
    code, said = command.end(signal.SIGTERM)
    assert code == RESUME
    assert "the same command goes on from here" in said
    caplog.set_level("INFO")
    train(request(at, override(small.recipe(), {**CHANGES, "publishing.valid_days": 9})))
    assert "resuming at epoch" in caplog.text
    assert weights(at, small.recipe()) == weights(alone[0], small.recipe())


def test_what_two_processes_began_one_can_end(
    half: Settings, alone: tuple[Settings, Report], tmp_path: Path
) -> None:
    at = copied(half, tmp_path)
    train(request(at, override(small.recipe(), CHANGES)))
    assert_one_training(losses(at), losses(alone[0]))


def test_training_twice_is_training_once(alone: tuple[Settings, Report]) -> None:
    at, report = alone
    again = train(request(at, override(small.recipe(), CHANGES)))
    assert again.already_done
    assert again.tables == report.tables
    assert len(tracking.client(at).search_model_versions("name='lumos_gym'")) == 1


def run_parameters(folder: Path) -> int:
    return sum(tensor.numel() for tensor in load_file(folder / "weights.safetensors").values())


def test_mlflow_has_all_that_is_needed_to_trust_and_to_repeat_a_model(
    alone: tuple[Settings, Report],
) -> None:
    at, report = alone
    of = override(small.recipe(), CHANGES)
    tracker = tracking.client(at)
    assert tracking.version_of(at, of, "challenger") == "1"
    assert tracking.version_of(at, of, "champion") is None
    run = tracker.get_run(report.details["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.epochs"] == str(NUM_EPOCHS)
    for table in ("sequences", "users", "event_context"):
        assert run.data.params[f"version_{table}"] == str(small.version(at, table))
    for split in ("user_split", "time_split"):
        wanted = {f"{split}/{name}_{m}" for name in of.binary for m in ("auc", "log_loss")}
        wanted |= {f"{split}/{name}_wape" for name in of.continuous}
        assert wanted <= set(run.data.metrics)
    found = {file.path for file in tracker.list_artifacts(run.info.run_id)}
    assert found == {"checkpoint", "model_card.md", "plots", "scaler.json"}
    plots = {file.path for file in tracker.list_artifacts(run.info.run_id, "plots")}
    assert plots == {"plots/loss.png", "plots/calibration.png"}
    folder = tracking.checkpoint_of(at, of, "1")
    assert sorted(file.name for file in folder.iterdir()) == [
        "config.json",
        "scaler.json",
        "weights.safetensors",
    ]
    card = (folder.parent / "model_card.md").read_text()
    assert "user never seen" not in card
    assert f"| num parameters | {run_parameters(folder)} |" in card
    for name in ("train/learning_rate", "system/cpu_utilization_percentage"):
        history = tracker.get_metric_history(run.info.run_id, name)
        assert [metric.step for metric in history] == list(range(NUM_EPOCHS))
    assert set(report.metrics) >= {"time_split/visit_10d_auc", "user_split/minutes_10d_wape"}


def test_a_copied_home_reads_its_own_models_and_trains_into_itself(
    alone: tuple[Settings, Report], tmp_path: Path
) -> None:
    original, _ = alone
    at, of = copied(original, tmp_path / "a copy"), override(small.recipe(), CHANGES)
    before = {path: path.stat().st_mtime_ns for path in original.home.rglob("*")}
    expected = weights(original, of)

    train(request(at, recipe(**{"training.seed": 5})))

    assert before == {path: path.stat().st_mtime_ns for path in original.home.rglob("*")}
    for version in ("1", "2"):
        assert tracking.checkpoint_of(at, of, version).is_relative_to(at.home)
    # And a home that was moved: its old place is no more.
    moved = small.settings(at.home.rename(tmp_path / "moved"))
    assert weights(moved, of) == expected
    shutil.rmtree(tracking.checkpoint_of(moved, of, "2"))
    with pytest.raises(BadInput, match="version 2 is gone from"):
        tracking.require_checkpoint(moved, of, "2")


def test_with_patience_the_curve_on_held_out_users_is_logged_and_the_best_epoch_named(
    tmp_path: Path,
) -> None:
    at = small.write_lake(tmp_path, small.users(60))
    of = recipe(**{"training.patience": 1, "training.epochs": 3, "training.batch_size": 32})
    report = train(request(at, of))
    tracker, run_id = tracking.client(at), report.details["run_id"]
    curve = tracker.get_metric_history(run_id, "validation/loss")
    assert [metric.step for metric in curve] == list(range(len(curve)))
    info = load(tracking.checkpoint_of(at, of, "1")).info
    best = int(np.argmin([metric.value for metric in curve]))
    assert (info["num_epochs"], info["best_epoch"]) == (len(curve), best + 1)


def test_it_learns_who_comes(tmp_path: Path) -> None:
    at = small.write_lake(tmp_path, small.users(60))
    metrics = train(request(at, override(small.recipe(), LONG))).metrics
    # Made-up members differ in their rates, and in nothing else: .5 would be blind.
    assert (metrics["time_split/visit_3d_auc"] or 0) > 0.7


def test_a_checkpoint_forecasts_the_same_whoever_shares_the_batch(
    alone: tuple[Settings, Report],
) -> None:
    at, _ = alone
    checkpoint = load(tracking.checkpoint_of(at, small.recipe(), "1"))
    assert checkpoint.info["as_of"] == str(small.AS_OF)
    users, events = small.users(30), small.calendar()
    origins = np.full(30, int(users.days.max()), np.int32)
    first, again, small_batches = (
        forecast(checkpoint, users, origins, events, batch_size=size) for size in (16, 16, 7)
    )
    for name in ("p", "given", "mean"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
        np.testing.assert_allclose(
            getattr(first, name), getattr(small_batches, name), rtol=1e-4, atol=1e-5
        )
    np.testing.assert_allclose(first.mean, first.p[..., [0]] * first.given, rtol=1e-6)
    assert (first.given >= 0).all()
    nobody = users.take(np.zeros(0, np.int64))
    assert forecast(checkpoint, nobody, origins[:0], events, batch_size=7).p.shape == (0, 10, 2)


def test_a_model_registered_but_not_in_the_ledger_is_not_registered_twice(
    tmp_path: Path,
) -> None:
    at = small.write_lake(tmp_path, small.users(30))
    train(request(at, recipe()))
    # As if it had been killed between the registry and the ledger, on a machine since gone.
    DeltaTable(table_uri(at, recipe(), "ledger")).delete(predicate(table="model"))
    report = train(request(at, recipe()))
    assert not report.already_done
    assert report.tables[0].version == 1
    assert ledger.find(at, recipe(), "model", small.AS_OF) is not None
    forced = train(request(at, recipe(), force=True))
    assert forced.tables[0].version == 2
    assert weights(at, recipe(), "1") == weights(at, recipe(), "2")


def test_a_platform_without_events_is_trained_too(tmp_path: Path) -> None:
    of = override(small.recipe("gym_world.recipe:recipe_without_events"), {"training.epochs": 1})
    at = small.write_lake(tmp_path, small.users(30), of)
    assert train(request(at, of)).tables[0].rows > 0


def test_a_user_who_came_after_the_last_origin_is_counted_and_skipped(tmp_path: Path) -> None:
    users = small.users(30)
    users.registered[-3:] = users.days.max() - 5
    report = train(request(small.write_lake(tmp_path, users), recipe()))
    assert report.details["num_late_users"] == 3
    assert report.tables[0].rows + report.details["num_held_out_users"] == 27


def one_user(at: Path) -> Settings:
    return small.write_lake(at, small.users(1))


def all_late(at: Path) -> Settings:
    users = small.users(5)
    users.registered[:] = users.days.max() - 5
    return small.write_lake(at, users)


def nothing(at: Path) -> Settings:
    return small.settings(at)


def many(at: Path) -> Settings:
    return small.write_lake(at, small.users(20))


@pytest.mark.parametrize(
    ("lake", "changes", "sentence"),
    [
        (nothing, {}, r"sequences of recipe gym is not ready for 2024-05-10.*lumos sequences"),
        (one_user, {}, r"nobody is held out: 1 users.*raise training.held_out_users_share=0\.1"),
        (one_user, {"training.held_out_users_share": 0.999}, r"there is nobody to train on"),
        (all_late, {}, r"nobody to train on: 5 users, of whom 5 registered after the last"),
        (many, {"training.min_history_days": 200}, r"131 days are recorded .* 227 are needed"),
        (many, {"evaluation.num_origins": 99}, r"history is too short .*num_origins=99"),
        (
            many,
            {"training.learning_rate": 1e30, "training.epochs": 4},
            r"not a finite number at step .*training\.learning_rate=1e\+30",
        ),
        (
            many,
            {"training.learning_rate": 1e30, "training.batch_size": 64},
            r"forecasts of the user_split are not finite .*Nothing was registered",
        ),
    ],
)
def test_what_cannot_be_trained_is_said_in_a_sentence(
    tmp_path: Path, lake: Callable[[Path], Settings], changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(BadInput, match=sentence):
        train(request(lake(tmp_path), recipe(**changes)))


def test_data_of_refused_quality_is_not_trained_on(tmp_path: Path) -> None:
    at = many(tmp_path)
    audit = Request(verb="validate", recipe=recipe(), date=small.AS_OF, settings=at)
    verdict = audit.report(tables=(TableWritten(table="quality", version=0, rows=0),))
    ledger.record(audit, verdict, inputs={}, verdict=ledger.REFUSED)
    with pytest.raises(GateRefused, match="data quality was refused for 2024-05-10"):
        train(request(at, recipe()))


def test_only_the_first_of_two_processes_says_what_is_wrong(tmp_path: Path) -> None:
    code, said = Command(all_late(tmp_path), *TORCHRUN).end()
    assert code != 0
    assert said.count("there is nobody to train on") == 1
