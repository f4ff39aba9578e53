"""The Keras callbacks of a run: measurements, the recipe's own, and what a follower leaves out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from configs.schema import Recipe, SettingError, require
from scripts.arguments import publishable, recipe_text

if TYPE_CHECKING:
    import keras

    from training.privacy.ledger import Ledger
    from training.run_directory import RunDirectory
    from training.session import Session


def callbacks_of(
    session: Session, run: RunDirectory, ledger: Ledger | None
) -> list[keras.callbacks.Callback]:
    """Measurements first, so that stopping and learning-rate callbacks can act on them."""
    import keras

    from data import batches_in_order
    from evaluation import FairnessCallback, PrivacyCallback
    from training.workers import ChiefLogs

    settings = session.recipe
    callbacks: list[keras.callbacks.Callback] = []
    if ledger is not None and session.plan is not None:
        delta, unit = session.plan.delta, session.plan.unit
        callbacks.append(PrivacyCallback(lambda: (ledger.epsilon, delta), run.logs, unit))
    if len(session.validation):
        callbacks.append(
            FairnessCallback.from_batches(
                session.model.trained,
                batches_in_order(session.validation, settings.evaluation.batch_size),
                session.dataset.info,
                log_dir=run.logs,
                settings=settings.evaluation,
                origin=session.validation.split.origin,
                recipe_text=recipe_text(publishable(settings)),
                hparams=_hparams(settings),
            )
        )
    callbacks.append(ChiefLogs(session.workers))
    patience = settings.training.early_stopping_patience
    if patience is not None:
        callbacks.append(
            keras.callbacks.EarlyStopping("val_loss", patience=patience, restore_best_weights=True)
        )
    callbacks += [
        callback_of(name, options, settings)
        for name, options in settings.training.callbacks.items()
    ]
    return callbacks if session.workers.is_chief else _followers(callbacks)


def _followers(callbacks: list[keras.callbacks.Callback]) -> list[keras.callbacks.Callback]:
    """The callbacks of a worker that writes nothing: the same places, but those that write idle."""
    import keras

    from evaluation import FairnessCallback, PrivacyCallback

    writing = (
        FairnessCallback,
        PrivacyCallback,
        keras.callbacks.BackupAndRestore,
        keras.callbacks.ModelCheckpoint,
        *_logging(),
    )
    return [keras.callbacks.Callback() if isinstance(c, writing) else c for c in callbacks]


def callback_of(name: str, options: dict[str, Any], recipe: Recipe) -> keras.callbacks.Callback:
    """A callback of `training.callbacks`; with privacy, what it logs of training data is marked.

    Raises:
        SettingError: It is no Keras callback, does not take these options, or would void ε.
    """
    import keras

    cls = getattr(keras.callbacks, name, None)
    if not (isinstance(cls, type) and issubclass(cls, keras.callbacks.Callback)):
        raise SettingError(f"training.callbacks.{name}", options, "the name of a Keras callback")
    if recipe.privacy.enabled and issubclass(cls, _logging()):
        cls = _marking(cls)
    try:
        callback = cls(**options)
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"training.callbacks.{name}", options, f"arguments that {name} takes ({error})"
        ) from error
    _require_fitting(callback, name, options, recipe)
    return callback


def _logging() -> tuple[type[keras.callbacks.Callback], ...]:
    """Keras callbacks that write `logs` down for others to read."""
    import keras

    return (
        keras.callbacks.CSVLogger,
        keras.callbacks.RemoteMonitor,
        keras.callbacks.TensorBoard,
    )


def _marking(cls: type[keras.callbacks.Callback]) -> type[keras.callbacks.Callback]:
    """`cls`, writing marked names where ε does not cover the value: a private run's figures travel.

    Of the same name, so that what a callback remembers is found again when a run goes on.
    """
    from evaluation.coverage import marked_logs

    def on_epoch_end(self: Any, epoch: int, logs: dict[str, Any] | None = None) -> None:
        cls.on_epoch_end(self, epoch, marked_logs(logs))

    def on_train_batch_end(self: Any, batch: int, logs: dict[str, Any] | None = None) -> None:
        cls.on_train_batch_end(self, batch, marked_logs(logs))

    members = {"on_epoch_end": on_epoch_end, "on_train_batch_end": on_train_batch_end}
    return type(cls.__name__, (cls,), {**members, "__doc__": cls.__doc__})


def _require_fitting(
    callback: keras.callbacks.Callback, name: str, options: dict[str, Any], recipe: Recipe
) -> None:
    """Refuses callbacks that would void ε, or that fail only when they first act."""
    from training.privacy.acting_callbacks import measurement_acted_on, names_files_by_training

    require(
        not recipe.privacy.enabled or measurement_acted_on(callback) is None,
        f"training.callbacks.{name}",
        options,
        "a callback that monitors validation (val_...) with privacy: training metrics are raw "
        "training data, and acting on them would void epsilon",
    )
    require(
        not recipe.privacy.enabled or not names_files_by_training(options.get("filepath")),
        f"training.callbacks.{name}",
        options,
        "a filepath of {epoch} and val_ figures alone: with privacy, a training metric in a file's "
        "name tells of training data what epsilon does not cover",
    )
    optimizer = recipe.training.optimizer
    require(
        name != "ReduceLROnPlateau"
        or (optimizer.schedule == "constant" and optimizer.warmup_fraction == 0),
        f"training.callbacks.{name}",
        options,
        "training.optimizer.schedule: constant without warm-up, or no ReduceLROnPlateau: only one "
        "of the two can set the learning rate",
    )


def _hparams(recipe: Recipe) -> dict[str, Any]:
    training = recipe.training
    chosen: dict[str, Any] = {
        "model": recipe.model.name,
        "optimizer": training.optimizer.name,
        "learning_rate": training.optimizer.learning_rate,
        "batch_size": training.batch_size,
        "private": recipe.privacy.enabled,
    }
    if recipe.privacy.enabled:
        chosen["privacy_unit"] = recipe.privacy.unit
        chosen["clipping_norm"] = recipe.privacy.clipping_norm
        chosen["epsilon"] = recipe.privacy.epsilon or 0.0
        chosen["noise_multiplier"] = recipe.privacy.noise_multiplier or 0.0
    return chosen
