"""`fit` of `make_private`: callbacks of a user's own learn of training examples what ε covers."""

from __future__ import annotations

import csv
import logging
from dataclasses import replace
from typing import Any

import keras
import pytest

from configs.schema import UserError
from tests.training.privacy.keras_cases import (
    CROSS_ENTROPY,
    HELD_OUT,
    PLAN,
    X,
    Y,
    compiled,
    small_model,
)
from training.privacy import make_private
from training.privacy.clip_methods import AdaptiveClipping

BARE = {"loss", "accuracy"}


def measuring(**further: Any) -> Any:
    private = make_private(small_model(), PLAN, **further)
    private.compile(keras.optimizers.SGD(0.1), CROSS_ENTROPY, metrics=["accuracy"])
    return private


class Seen(keras.callbacks.Callback):
    """Keeps the names that each hook is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[str, set[str]] = {}

    def _see(self, hook: str, logs: Any) -> None:
        self.names.setdefault(hook, set()).update(logs)

    def on_batch_end(self, batch: int, logs: Any = None) -> None:  # Keras' older name
        self._see("batch", logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._see("history so far", self.model.history.history)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._see("epoch", logs)
        self._see("history so far", self.model.history.history)

    def on_train_end(self, logs: Any = None) -> None:
        self._see("end", logs)

    def on_test_end(self, logs: Any = None) -> None:
        self._see("validation", logs)


VALIDATION = {"val_loss", "val_accuracy"}


def test_own_callback_sees_validation_and_no_measurement_of_training() -> None:
    seen = Seen()
    history = measuring().fit(
        X,
        Y,
        epochs=2,
        validation_data=(HELD_OUT, Y),
        callbacks=keras.callbacks.CallbackList([seen]),
        verbose=0,
    )
    assert seen.names == {
        "batch": set(),
        "epoch": VALIDATION,
        "history so far": VALIDATION,
        "end": VALIDATION,
        "validation": BARE,  # of validation examples, as Keras names them there
    }
    assert set(history.history) == BARE | VALIDATION


def test_own_callback_sees_everything_on_request_which_is_stated_and_warned_of(caplog) -> None:
    seen, private = Seen(), measuring(callbacks_see_training_metrics=True)
    with caplog.at_level(logging.WARNING):
        private.fit(X, Y, epochs=1, callbacks=[seen], verbose=0)
    assert seen.names["batch"] == seen.names["epoch"] == seen.names["end"] == BARE
    (line,) = [r.getMessage() for r in caplog.records if "callbacks" in r.getMessage()]
    assert "callbacks=[Seen]" in line
    assert "only if none of these callbacks acts on training" in line
    assert "only if none of them acted on training" in private.privacy_spent().statement
    assert "acted on" not in measuring().privacy_spent().statement


def test_what_was_released_is_shown_to_all() -> None:
    seen = Seen()
    private = compiled(plan=replace(PLAN, clipping=AdaptiveClipping(PLAN.clipping_norm)))
    private.fit(X, Y, epochs=1, callbacks=[seen], verbose=0)
    assert seen.names["batch"] == seen.names["epoch"] == {"clipping_norm"}


class StopsWhenLearnt(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if logs["accuracy"] >= 0:
            self.model.stop_training = True


class StopsWhenLearntIfSaid(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if (logs or {}).get("accuracy", -1.0) >= 0:
            self.model.stop_training = True


def test_callback_that_asks_for_training_accuracy_is_told_what_to_do() -> None:
    private = measuring()
    line = r"StopsWhenLearnt\]\): logs\['accuracy'\] is a bare measurement.*callbacks_see_training"
    with pytest.raises(UserError, match=line):
        private.fit(X, Y, epochs=2, callbacks=[StopsWhenLearnt()], verbose=0)
    assert set(private.history.history) <= BARE  # what there is stays the operator's


def test_default_in_place_of_training_accuracy_is_spoken_of_once(caplog) -> None:
    arguments = {"epochs": 3, "verbose": 0}
    with caplog.at_level(logging.WARNING):
        history = measuring().fit(X, Y, callbacks=[StopsWhenLearntIfSaid()], **arguments)
    assert len(history.epoch) == 3
    assert [r.getMessage().count("logs['accuracy']") for r in caplog.records].count(1) == 1
    seeing = measuring(callbacks_see_training_metrics=True)
    assert len(seeing.fit(X, Y, callbacks=[StopsWhenLearntIfSaid()], **arguments).epoch) == 1


class OwnValidation(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs["val_own"] = 1.0


class DerivedLogger(keras.callbacks.CSVLogger):
    pass


def test_keras_own_loggers_see_everything_and_no_other_class_does(tmp_path) -> None:
    seen: list[Any] = []
    own, derived = tmp_path / "own.csv", tmp_path / "derived.csv"
    callbacks = [
        # What a callback measures by itself reaches those after it.
        OwnValidation(),
        keras.callbacks.EarlyStopping("val_own", patience=1, mode="max"),
        keras.callbacks.CSVLogger(str(own)),
        DerivedLogger(str(derived)),
        # Keras' class, and a user's function.
        keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: seen.append(logs)),
    ]
    history = measuring().fit(X, Y, epochs=4, callbacks=callbacks, verbose=0).history
    assert history["val_own"] == [1.0, 1.0]
    columns = [set(next(csv.reader(path.open()))) - {"epoch"} for path in (own, derived)]
    assert columns == [BARE | {"val_own"}, {"val_own"}]
    assert seen == [{}] * 6


class OwnList(keras.callbacks.CallbackList):
    pass


class OwnTerminateOnNaN(keras.callbacks.TerminateOnNaN):
    pass


REFUSED = {
    "list of its own": (OwnList(), "CallbackList itself. Received: OwnList"),
    "stops on NaN": (OwnTerminateOnNaN(), "expected one that monitors validation"),
    "file named by loss": (
        keras.callbacks.ModelCheckpoint("{epoch}-{loss:.2f}.keras", monitor="val_loss"),
        "expected a filepath of {epoch} and val_ figures",
    ),
}


@pytest.mark.parametrize(("callback", "line"), REFUSED.values(), ids=REFUSED)
def test_callback_that_would_act_or_tell_is_refused_before_the_first_step(callback, line) -> None:
    private = measuring(callbacks_see_training_metrics=True)
    with pytest.raises(UserError, match=line):
        private.fit(X, Y, epochs=1, callbacks=callback, verbose=0)
    assert private.releases == 0


def test_seeded_fits_whose_callbacks_see_more_share_no_noise() -> None:
    roots = []
    for see in (False, True):
        private = measuring(seed=9, callbacks_see_training_metrics=see)
        private.fit(X, Y, epochs=1, steps_per_epoch=1, callbacks=[Seen()], verbose=0)
        roots.append(private._root().root)
    assert len(set(roots)) == 2
