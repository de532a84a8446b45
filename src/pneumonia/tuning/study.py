"""An Optuna study that survives: opened where it was left, asked for trials until enough have ended.

The study is a journal in a folder, which one process owns, or lies in a database. The suggestions for a trial depend
only on the trials before it, their number and the seed: a study of one worker that was interrupted ends like an
uninterrupted one.
"""

from __future__ import annotations

import json
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, OperationalError, SQLAlchemyError
from tqdm import tqdm

from pneumonia import UserError, reason
from pneumonia.training.recipe import derived_seed
from pneumonia.tuning import space as spaces
from pneumonia.tuning.space import Space, Values

JOURNAL = "study.log"
NAME = "tune"

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
"""States of a trial that counts. A trial whose loss is not finite is followed by another one."""

HEARTBEAT = 30
"""Seconds between two signs of life of a trial in a database; without one for four times as long it is lost."""

PATIENCE = 90.0
"""Seconds for which a database may be away: it is restarted, or its network is interrupted."""

Result = TypeVar("Result")

SAMPLERS: dict[str, Callable[[int, int], optuna.samplers.BaseSampler]] = {
    # By default the first ten trials are random, which is all of a short study.
    "tpe": lambda seed, n_trials: optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=min(10, max(2, n_trials // 3))
    ),
    "random": lambda seed, n_trials: optuna.samplers.RandomSampler(seed=seed),
    "grid": lambda seed, n_trials: optuna.samplers.RandomSampler(seed=seed),  # the grid is enqueued
}
"""By name: `make(seed, n_trials)`."""

PRUNERS: dict[str, Callable[[int], optuna.pruners.BasePruner]] = {
    "hyperband": lambda epochs: optuna.pruners.HyperbandPruner(
        min_resource=max(1, epochs // 3), max_resource=epochs, reduction_factor=3
    ),
    # A network may stay at chance level for its first epochs, whatever its settings, and its AUC is then chance.
    "median": lambda epochs: optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=epochs // 3),
    "none": lambda epochs: optuna.pruners.NopPruner(),
}
"""By name: `make(epochs of a trial)`."""


class Place(NamedTuple):
    """Where a study is kept; it can be sent to other processes.

    Attributes:
        folder: that survives a crash and belongs to one process at a time.
        url: of a database, without a password; empty = a journal in `folder`.
        password: of the database; empty = none.
        name: of the study in the database.
    """

    folder: Path
    url: str = ""
    password: str = ""
    name: str = NAME

    def __repr__(self) -> str:
        return f"Place({self.url or self.folder})"  # never the password


def open_storage(place: Place) -> optuna.storages.BaseStorage:
    """The storage of a study; of a journal that was cut off while it was written, the part that is whole.

    Raises:
        UserError: a database that cannot be reached or used.
    """
    try:
        return _connect(place)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise UserError(
            f"compute.study_storage = {place.url}: no database that can be used here ({_first_line(error)}); for "
            "PostgreSQL: pip install 'pneumonia[postgres]' and postgresql+psycopg2://USER@HOST/DATABASE"
        ) from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise UserError(
            f"compute.study_storage = {place.url} cannot be used ({_first_line(error)}); start the database, check "
            "the address and PNEUMONIA_STUDY_PASSWORD, or set compute.study_storage: null"
        ) from error


def _connect(place: Place) -> optuna.storages.BaseStorage:
    if not place.url:
        return optuna.storages.JournalStorage(JournalFileBackend(str(place.folder / JOURNAL)))
    url = make_url(place.url)
    if place.password:
        url = url.set(password=place.password)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.RDBStorage(
            url.render_as_string(hide_password=False),
            engine_kwargs={"pool_pre_ping": True},
            heartbeat_interval=HEARTBEAT,
            grace_period=4 * HEARTBEAT,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
        )


def repair(journal: Path) -> int:
    """Cut a journal after its last whole entry; returns the number of bytes that were cut off.

    A process that is killed while it writes leaves half an entry; all later ones would be unreadable.
    """
    if not journal.is_file():
        return 0
    content, whole = journal.read_bytes(), 0
    for line in content.splitlines(keepends=True):
        try:
            json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        whole += len(line)
    if whole < len(content):
        with open(journal, "r+b") as file:
            file.truncate(whole)
    return len(content) - whole


def open_study(place: Place, pruner: str, epochs: int) -> optuna.Study:
    """The study of this place, created if there is none.

    Args:
        place: where it is kept.
        pruner: a key of `PRUNERS`.
        epochs: of a trial.
    """
    if not place.url:
        n_bytes = repair(place.folder / JOURNAL)
        if n_bytes:
            tqdm.write(f"the search was interrupted while it wrote {JOURNAL}: its last {n_bytes} bytes are left out")
    storage = open_storage(place)
    return patiently(
        lambda: optuna.create_study(
            storage=storage,
            study_name=place.name,
            direction="maximize",
            pruner=PRUNERS[pruner](epochs),
            load_if_exists=True,
        )
    )


def join(place: Place, pruner: str, epochs: int) -> optuna.Study:
    """The study as another process sees it that runs one of its trials."""
    return patiently(
        lambda: optuna.load_study(study_name=place.name, storage=_connect(place), pruner=PRUNERS[pruner](epochs))
    )


def trial_of(study: optuna.Study, number: int) -> optuna.Trial:
    """A trial that is running, as `study.ask` returned it."""
    return optuna.Trial(study, study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number))


class Queue:
    """Gives trials until enough of them have ended.

    The first is that of the defaults. A trial that was interrupted, because its process was killed, is given again as
    the same trial: none is counted twice and none is lost.

    Args:
        study: as `open_study` returns it.
        space: what is searched.
        first: values of trial 0.
        n_trials: complete and pruned trials of the study, in all.
        sampler: a key of `SAMPLERS`.
        seed: of the sampler.
        shared: other processes may run trials of the study, as in a database. A lost trial is then another one with
            the same values, once its signs of life stay away.

    Attributes:
        n_trials: as given, or the size of the grid if that is smaller.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: Space,
        first: Values,
        *,
        n_trials: int,
        sampler: str,
        seed: int,
        shared: bool,
    ) -> None:
        self.study, self.sampler, self.seed, self.shared = study, sampler, seed, shared
        self.distributions = spaces.distributions(space)
        self.combinations: list[Values] = []
        if sampler == "grid":
            others = [values for values in spaces.grid(space) if values != first]
            order = np.random.default_rng(seed).permutation(len(others))
            self.combinations = [first, *(others[place] for place in order)]
            n_trials = min(n_trials, len(self.combinations))
        self.n_trials = n_trials
        self.in_progress: set[int] = set()
        self.signed: set[int] = set()
        trials = patiently(study.get_trials)
        if not trials:
            patiently(lambda: study.enqueue_trial(first))
        # The folder of a journal is locked: what runs there was left by a process that is gone.
        running = [trial for trial in trials if trial.state == TrialState.RUNNING and not shared]
        self.interrupted = [trial._trial_id for trial in running]

    def next(self) -> optuna.Trial | None:
        """The next trial; None if enough have ended or are in progress.

        Raises:
            UserError: too many trials failed.
        """
        if self.interrupted:
            trial = optuna.Trial(self.study, self.interrupted.pop(0))
            self.in_progress.add(trial.number)
            return trial
        if self.shared:
            self._give_lost_trials_again()
        trials = patiently(self.study.get_trials)
        states = [trial.state for trial in trials]
        n_failed = states.count(TrialState.FAIL)
        if n_failed >= max(3, self.n_trials) and TrialState.COMPLETE not in states:
            raise UserError(
                f"the loss is not finite in any of {n_failed} trials; lower the learning rates in tune.space and run "
                "again"
            )
        busy = sum(state in (*COUNTED, TrialState.RUNNING) for state in states)
        if busy >= self.n_trials or n_failed >= 2 * max(3, self.n_trials):
            return None
        n_asked = len(trials) - states.count(TrialState.WAITING)
        if self.combinations and TrialState.WAITING not in states:
            tried = [trial.params for trial in trials]  # also those that failed: they would fail again
            left = [values for values in self.combinations if values not in tried]
            if not left:
                return None
            patiently(lambda: self.study.enqueue_trial(left[0]))
        seed = derived_seed(self.seed, n_asked)
        self.study.sampler = SAMPLERS[self.sampler](seed, self.n_trials)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Heartbeat of storage")  # `alive` sends the signs of life
            trial = patiently(lambda: self.study.ask(self.distributions))
        self.in_progress.add(trial.number)
        if self.shared:
            self._sign(trial._trial_id)
        return trial

    def _give_lost_trials_again(self) -> None:
        """Enqueue the values of trials whose signs of life stay away.

        Optuna does not look at a trial that never gave one: its process was killed before, or the database went away
        while the trial was made. Such a trial gets one sign here, once, and is lost if no other follows.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            patiently(lambda: optuna.storages.fail_stale_trials(self.study))
        for trial in patiently(self.study.get_trials):
            if trial.state == TrialState.RUNNING and trial.number not in self.in_progress | self.signed:
                self.signed.add(trial.number)
                self._sign(trial._trial_id)

    def _sign(self, trial_id: int) -> None:
        storage = cast(Any, self.study._storage)
        patiently(lambda: storage.record_heartbeat(trial_id))

    def tell(self, trial: optuna.Trial, value: float | None, state: TrialState) -> None:
        """Record how a trial ended."""
        patiently(lambda: self.study.tell(trial.number, value, state, skip_if_finished=True))
        self.in_progress.discard(trial.number)

    def waits(self) -> bool:
        """Whether trials of other processes are still running, in a database."""
        states = [trial.state for trial in patiently(self.study.get_trials) if trial.number not in self.in_progress]
        counted = sum(state in COUNTED for state in states)
        return counted < self.n_trials and TrialState.RUNNING in states


@contextmanager
def alive(place: Place, trials: set[int]) -> Iterator[None]:
    """Inside the block, trials in a database send signs of life.

    Args:
        place: of their study.
        trials: their numbers; the set may change.
    """
    if not place.url:
        yield
        return
    storage, ended = cast(optuna.storages.RDBStorage, open_storage(place)), threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT / 2):
            for number in tuple(trials):
                with suppress(Exception):  # the next sign will do; without any the trial is given again
                    study_id = storage.get_study_id_from_name(place.name)
                    storage.record_heartbeat(storage.get_trial_id_from_study_id_trial_number(study_id, number))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def patiently(call: Callable[[], Result]) -> Result:
    """The result of a call to the storage; a database that is away is asked again, for `PATIENCE` seconds.

    Raises:
        UserError: it stays away.
    """
    give_up = time.monotonic() + PATIENCE
    pause = 0.5
    while True:
        try:
            return call()
        except (OperationalError, optuna.exceptions.StorageInternalError) as error:
            if time.monotonic() + pause > give_up:
                raise UserError(
                    f"the storage of the study does not answer for {PATIENCE:.0f} s ({_first_line(error)}); start it "
                    "and run again: finished trials are kept"
                ) from error
            time.sleep(pause)
            pause = min(2 * pause, 5)


def counts(study: optuna.Study) -> dict[str, int]:
    """Number of complete, pruned and failed trials."""
    states = [trial.state for trial in patiently(study.get_trials)]
    return {name: states.count(TrialState[name.upper()]) for name in ("complete", "pruned", "fail")}


def importances(study: optuna.Study) -> Mapping[str, float]:
    """Share of each key in the differences between trials, 0-1 (fANOVA); empty with too few complete trials."""
    complete = study.get_trials(states=[TrialState.COMPLETE])
    if len(complete) < 4 or len({trial.value for trial in complete}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return {
        key: float(share) for key, share in optuna.importance.get_param_importances(study, evaluator=evaluator).items()
    }


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ else error
    return reason(cause).split(" (Background on this error")[0].split("[SQL")[0].strip()[:200]
